"""Models: `FlareConnect` (mesh → fields), `FlareRollout` (frames → next frames), and how they are kept on disk."""

from typing import TYPE_CHECKING

from flare_connect.lazy import lazy_names

if TYPE_CHECKING:
    from .boundary import BoundaryCondition as BoundaryCondition
    from .boundary import Fixed as Fixed
    from .boundary import Flux as Flux
    from .boundary import Free as Free
    from .boundary import Traction as Traction
    from .boundary import Value as Value
    from .config import Architecture as Architecture
    from .config import FlareConnectConfig as FlareConnectConfig
    from .features import build_graph as build_graph
    from .pretrained import load_pretrained as load_pretrained
    from .pretrained import save_pretrained as save_pretrained
    from .rollout import FlareRollout as FlareRollout
    from .rollout import RolloutState as RolloutState
    from .rollout_config import RolloutConfig as RolloutConfig
    from .shipped import shipped_models as shipped_models
    from .statistics import Standardiser as Standardiser
    from .surrogate import FlareConnect as FlareConnect

_HOME = {
    "boundary": ("BoundaryCondition", "Fixed", "Flux", "Free", "Traction", "Value"),
    "config": ("Architecture", "FlareConnectConfig"),
    "features": ("build_graph",),
    "pretrained": ("load_pretrained", "save_pretrained"),
    "rollout": ("FlareRollout", "RolloutState"),
    "rollout_config": ("RolloutConfig",),
    "shipped": ("shipped_models",),
    "statistics": ("Standardiser",),
    "surrogate": ("FlareConnect",),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
