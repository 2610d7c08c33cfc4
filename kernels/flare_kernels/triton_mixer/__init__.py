"""The mixer in Triton: N split over programs, partial results merged in a fixed order, no atomics.

`kernels` by direction (`gather`, `scatter`, `backward`), `launch` (tile sizes and chunks), `ops` (what torch sees),
`autograd` (what callers use). `../reference.py` is the oracle of all of it.
"""
