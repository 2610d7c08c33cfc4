"""Functional FLARE operators: global low-rank attention between N points and M latents.

`gather` reads the points into the latents, `scatter` writes the latents back to the points, `mixer` is both.
`causal_mixer` is both along a sequence, `block_causal_mixer` along time steps of points, `decode_step` one token more.
`edge_mean` averages messages along the edges of a mesh, `edge_difference` weighted differences. `impl` chooses the
implementation behind the same numbers; callers never change.
"""

from .api import Cost, Tokens, gather, mixer, scatter
from .causal import LatentState, block_causal_mixer, causal_mixer, decode_step
from .choice import IMPLEMENTATIONS
from .edges import EdgePlan, edge_difference, edge_mean
from .merge import merge_partials
from .norm import adaptive_norm
from .rows import spread
from .segments import JointSegments, Segments

__all__ = [
    "IMPLEMENTATIONS",
    "Cost",
    "EdgePlan",
    "JointSegments",
    "LatentState",
    "Segments",
    "Tokens",
    "adaptive_norm",
    "block_causal_mixer",
    "causal_mixer",
    "decode_step",
    "edge_difference",
    "edge_mean",
    "gather",
    "merge_partials",
    "mixer",
    "scatter",
    "spread",
]
