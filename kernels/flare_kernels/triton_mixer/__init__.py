"""The mixer in Triton: N split over programs, partial results merged in a fixed order, no atomics.

Kernels: `gather`, `scatter`, `backward`, and `tiles`, which they share. Around them: `sizes` (chunks and tiles),
`dispatch` (launching), `ops` (what torch sees), `autograd` (what callers use). `../reference.py` is the oracle.
"""
