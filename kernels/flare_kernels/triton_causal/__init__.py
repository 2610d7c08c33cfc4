"""Causal FLARE in Triton: sequences of tokens, one token more, and the running softmax over the parts of sequences.

`span` holds the kernels of groups of spans, `answer` what tokens read in them, `answer_grad` the way back, `near` and
`far` the same where scores are far apart, `scan` what goes along sequences, `decode` one token; `tiles` is what they
share. `ops` is what torch sees, `autograd` what callers use. `../causal/state.py` and `../causal/reference.py` are the
oracles.
"""
