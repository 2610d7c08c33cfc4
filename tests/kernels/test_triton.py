from kernels.triton_cases import x
def test_a():
    import kernels, sys
    print(kernels.__path__, __name__, [m for m in sys.modules if "kernels" in m][:20])
