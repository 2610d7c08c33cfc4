"""Peers: methods of others under our features and training, each a stand-in for `Trunk`; in time, on grids alone.

FLARE and input-adapted FLARE are settings of `Architecture` and not here.
"""

import inspect
from typing import Any

import torch

from flare_connect.errors import ConfigError

from .ball_query import Surroundings
from .base import Baseline
from .fno import FNO
from .geotransolver import GeoFlare, GeoTransolver
from .graph_net import GraphNet
from .grids import GRID_BASELINES, GridRollout, matching_grid_channels
from .matching import nearest_count
from .meshgraphnet import MeshGraphNet
from .persistence import Persistence
from .pointwise import Pointwise
from .transolver import Transolver
from .unet import UNet

__all__ = [
    "BASELINES",
    "FNO",
    "GRID_BASELINES",
    "Baseline",
    "GeoFlare",
    "GeoTransolver",
    "GraphNet",
    "GridRollout",
    "MeshGraphNet",
    "Persistence",
    "Pointwise",
    "Surroundings",
    "Transolver",
    "UNet",
    "build",
    "matching_channels",
    "matching_grid_channels",
]

BASELINES: dict[str, type[Baseline]] = {
    "transolver": Transolver,
    "geotransolver": GeoTransolver,
    "geoflare": GeoFlare,
    "meshgraphnet": MeshGraphNet,
    "graphnet": GraphNet,
    "pointwise": Pointwise,
}

# Widths of peers without heads are multiples of this, which keeps rows aligned in memory.
_STEP = 4


def build(
    name: str, *, features: int, edge_features: int, conditions: int, outputs: int, dim: int, **options: Any
) -> Baseline:
    """A peer by name.

    Args:
        name: a key of `BASELINES`.
        features: F, width of the node features.
        edge_features: E, width of the edge features.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        dim: space dimension.
        options: `channels`, `num_blocks` and further settings of the class; its published values where left out.

    Raises:
        ConfigError: if the name or an option is unknown, or the settings do not fit.
    """
    cls = _class_of(name)
    sizes = {"features": features, "edge_features": edge_features, "conditions": conditions, "outputs": outputs}
    known = set(inspect.signature(cls).parameters) - set(sizes) - {"dim"}
    for option in options:
        if option not in known:
            raise ConfigError(f"{name!r} has no option {option!r}; its options: {', '.join(sorted(known))}")
    return cls(**sizes, dim=dim, **options)


def matching_channels(name: str, parameters: int, *, tolerance: float = 0.1, **settings: Any) -> int:
    """The width at which a peer has the wanted number of parameters.

    Args:
        name: a key of `BASELINES`.
        parameters: wanted count.
        tolerance: largest relative deviation that is accepted.
        settings: what `build` takes, without `channels`.

    Returns:
        The multiple of `num_heads` (of 4 for a peer without heads) whose count is nearest to the wanted one.

    Raises:
        ConfigError: if no width comes within the tolerance.
    """
    known = inspect.signature(_class_of(name)).parameters
    step = settings.get("num_heads", known["num_heads"].default) if "num_heads" in known else _STEP

    def count(channels: int) -> int:
        # On the meta device nothing is allocated or drawn.
        with torch.device("meta"):
            model = build(name, channels=channels, **settings)
        return sum(p.numel() for p in model.parameters())

    return nearest_count(name, count, parameters, tolerance, step=step)


def _class_of(name: str) -> type[Baseline]:
    if name not in BASELINES:
        raise ConfigError(f"unknown baseline {name!r}; known: {', '.join(BASELINES)}")
    return BASELINES[name]
