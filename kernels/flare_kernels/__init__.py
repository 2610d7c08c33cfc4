"""Functional FLARE operators: global low-rank attention between N points and M latents.

`gather` reads the points into the latents, `scatter` writes the latents back to the points, `mixer` is both.
`edge_mean` averages messages along the edges of a mesh, `edge_difference` weighted differences. `impl` chooses the
implementation behind the same numbers; callers never change.
"""

from .api import Cost, Tokens, gather, mixer, scatter
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
    "Segments",
    "Tokens",
    "adaptive_norm",
    "edge_difference",
    "edge_mean",
    "gather",
    "merge_partials",
    "mixer",
    "scatter",
    "spread",
]
