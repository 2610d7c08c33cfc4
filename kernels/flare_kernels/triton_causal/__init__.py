"""Causal FLARE in Triton: the running softmax over the parts of sequences.

`scan` holds the kernels, `ops` is what torch sees, `autograd` what callers use. `../causal/state.py` is the oracle.
"""
