"""How many exponentials a second a GPU does: the third bound of a softmax, beside bytes and products."""

import triton
import triton.language as tl

TURNS = tl.constexpr(256)


@triton.jit
def exp_kernel(x, BLOCK: tl.constexpr):
    """`TURNS` exponentials of each number, one after another."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at)
    for _ in range(TURNS):
        value = tl.exp2(value)
    # Never true for numbers that stay finite, and the compiler does not know.
    tl.store(x + at, value, mask=value == -1.0)
