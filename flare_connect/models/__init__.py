"""Models: `FlareConnect` (mesh → fields), its configuration, and how they are kept on disk."""

from .config import Architecture, FlareConnectConfig
from .features import build_graph
from .flare_connect import FlareConnect
from .pretrained import load_pretrained, save_pretrained
from .statistics import Standardiser

__all__ = [
    "Architecture",
    "FlareConnect",
    "FlareConnectConfig",
    "Standardiser",
    "build_graph",
    "load_pretrained",
    "save_pretrained",
]
