"""Layers: FLARE attention, message passing on the mesh, conditioning, the block that joins them, the way of loads."""

from .anchored import AnchoredFlare, Anchors
from .attention import FlareAttention
from .conditioning import AdaptiveNorm, BoundaryConditioner
from .hybrid import BlockInputs, HybridBlock
from .loads import LoadBlock, LoadEntry, LoadReadout, LoadStencil
from .mesh_conv import MeshConv
from .mlp import ResidualMLP

__all__ = [
    "AdaptiveNorm",
    "AnchoredFlare",
    "Anchors",
    "BlockInputs",
    "BoundaryConditioner",
    "FlareAttention",
    "HybridBlock",
    "LoadBlock",
    "LoadEntry",
    "LoadReadout",
    "LoadStencil",
    "MeshConv",
    "ResidualMLP",
]
