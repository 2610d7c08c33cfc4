"""Causal FLARE: attention of constant memory along a sequence of tokens, or of time steps of points.

Latents remember all that came before as a running softmax, which a `LatentState` of fixed size holds: `causal_mixer`
works on whole sequences of tokens, `decode_step` on one token more, `block_causal_mixer` on steps of many points each.
"""

from .api import causal_mixer
from .blocks import block_causal_mixer
from .decode import decode_step
from .state import LatentState

__all__ = ["LatentState", "block_causal_mixer", "causal_mixer", "decode_step"]
