"""Functional FLARE operators: global low-rank attention between N points and M latents.

`gather` reads the points into the latents, `scatter` writes the latents back to the points, `mixer` is both.
`impl` chooses the implementation behind the same numbers; callers never change.
"""

from .api import Cost, Tokens, gather, mixer, scatter
from .choice import IMPLEMENTATIONS
from .merge import merge_partials
from .rows import spread
from .segments import JointSegments, Segments

__all__ = [
    "IMPLEMENTATIONS",
    "Cost",
    "JointSegments",
    "Segments",
    "Tokens",
    "gather",
    "merge_partials",
    "mixer",
    "scatter",
    "spread",
]
