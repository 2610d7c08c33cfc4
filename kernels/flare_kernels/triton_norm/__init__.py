"""Adaptive normalisation in Triton; `../norm.py` holds the reference.

`kernels` are the kernels, `ops` what torch sees of them, `autograd` what callers use.
"""
