"""Models: `FlareConnect` (mesh → fields), its configuration, and how they are kept on disk."""

from typing import TYPE_CHECKING

from flare_connect.lazy import lazy_names

if TYPE_CHECKING:
    from .config import Architecture as Architecture
    from .config import FlareConnectConfig as FlareConnectConfig
    from .features import build_graph as build_graph
    from .pretrained import load_pretrained as load_pretrained
    from .pretrained import save_pretrained as save_pretrained
    from .statistics import Standardiser as Standardiser
    from .surrogate import FlareConnect as FlareConnect

_HOME = {
    "config": ("Architecture", "FlareConnectConfig"),
    "features": ("build_graph",),
    "pretrained": ("load_pretrained", "save_pretrained"),
    "statistics": ("Standardiser",),
    "surrogate": ("FlareConnect",),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
