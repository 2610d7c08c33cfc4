"""Messages along edges in Triton: each node adds up what its edges bring, in their order, so there are no atomics.

`kernels` run over the nodes, `ops` is what torch sees, `autograd` what callers use. `../reference.py` is the oracle.
"""
