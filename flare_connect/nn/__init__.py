"""Layers.

FLARE attention, message passing on the mesh, conditioning, the block that joins them, the way of loads; FLARE along
sequences of tokens and along time steps of points.
"""

from .anchored import AnchoredFlare, Anchors
from .attention import FlareAttention
from .block_causal import BlockCausalFlare
from .causal import CausalFlare
from .causal_conv import CausalConv
from .conditioning import AdaptiveNorm, BoundaryConditioner
from .fading import Fading
from .gated import CausalState
from .hybrid import BlockInputs, HybridBlock
from .loads import LoadBlock, LoadEntry, LoadReadout, LoadStencil
from .memory import MemoryBlock
from .mesh_conv import MeshConv
from .mlp import ResidualMLP

__all__ = [
    "AdaptiveNorm",
    "AnchoredFlare",
    "Anchors",
    "BlockCausalFlare",
    "BlockInputs",
    "BoundaryConditioner",
    "CausalConv",
    "CausalFlare",
    "CausalState",
    "Fading",
    "FlareAttention",
    "HybridBlock",
    "LoadBlock",
    "LoadEntry",
    "LoadReadout",
    "LoadStencil",
    "MemoryBlock",
    "MeshConv",
    "ResidualMLP",
]
