"""Who takes part: ours, ours without a part, and MeshGraphNet, all with about as many parameters."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.models.baselines.stepping import rollout_peer
from flare_connect.train import UnrollConfig

TOLERANCE = 0.1
_ALONE = {"attention": False, "anchors": "none", "boundary_tokens": False, "quadrature": False}
# How each kind is taught: ours on its own predictions too, the peer on noise alone as it was published; and crosswise.
_OWN, _NOISE = UnrollConfig(own_steps=2, noise=0.3), UnrollConfig(own_steps=0, noise=0.3)
_SIZES = UnrollConfig(own_steps=0, noise=0.3, decades=2.0)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model and how it is taught.

    Attributes:
        unroll: noise and own predictions.
        changes: of the architecture of ours.
        rollout: settings of `RolloutConfig`.
        peer: name of a baseline in place of ours; empty for ours.
        rate_of: whose learning rate it takes; empty for one of its own.
    """

    unroll: UnrollConfig = _OWN
    changes: dict[str, Any] | None = None
    rollout: dict[str, Any] | None = None
    peer: str = ""
    rate_of: str = ""


CONTESTANTS = {
    "ours": Contestant(),
    "MeshGraphNet": Contestant(peer="meshgraphnet", unroll=_NOISE),
    "MeshGraphNet, own steps": Contestant(peer="meshgraphnet", rate_of="MeshGraphNet"),
    "ours, noise alone": Contestant(unroll=_NOISE, rate_of="ours"),
    "ours, noise of all sizes": Contestant(unroll=_SIZES, rate_of="ours"),
    "MeshGraphNet, noise of all sizes": Contestant(peer="meshgraphnet", unroll=_SIZES, rate_of="MeshGraphNet"),
    "no anchors": Contestant(changes={"anchors": "none"}, rate_of="ours"),
    "no attention": Contestant(changes=_ALONE, rate_of="ours"),
    "no memory": Contestant(rollout={"memory": False}, rate_of="ours"),
    "no attention, no memory": Contestant(changes=_ALONE, rollout={"memory": False}, rate_of="ours"),
    "no differences": Contestant(rollout={"differences": 0}, rate_of="ours"),
}
SIZES = {
    "full": Architecture(channels=64, num_blocks=4, num_heads=8, num_latents=64),
    "quick": Architecture(channels=16, num_blocks=2, num_heads=2, num_latents=8),
}
ROUNDS = {"full": 15, "quick": 4}


def make(name: str, around: RolloutConfig, size: str) -> FlareRollout:
    """A model by name, its width such that it has about as many parameters as ours.

    Args:
        name: of `CONTESTANTS`.
        around: what models read and step; its architecture is not looked at.
        size: of `SIZES`.
    """
    chosen, arch = CONTESTANTS[name], SIZES[size]
    wanted = _count(replace(around, architecture=arch))
    if chosen.peer:
        config = replace(around, architecture=arch)
        return rollout_peer(
            chosen.peer, config, parameters=wanted, tolerance=TOLERANCE, num_blocks=ROUNDS[size]
        )  # fmt: skip
    config = replace(around, **chosen.rollout or {})
    return FlareRollout(_matched(config, replace(arch, **chosen.changes or {}), wanted))


def parameters(model: FlareRollout) -> int:
    """Learned numbers."""
    return sum(p.numel() for p in model.parameters())


def _matched(config: RolloutConfig, arch: Architecture, wanted: int) -> RolloutConfig:
    def off(each: RolloutConfig) -> float:
        return abs(_count(each) - wanted) / wanted

    # The nearest width will do; where heads leave widths too far apart, the perceptrons are narrower or wider.
    steps = sorted(range(1 - arch.channels // arch.num_heads, arch.channels // arch.num_heads), key=abs)
    for ratio in (arch.mlp_ratio, 1.5, 2.5, 1.0, 3.0):
        for step in steps:
            channels = arch.channels + step * arch.num_heads
            tried = replace(config, architecture=replace(arch, channels=channels, mlp_ratio=ratio))
            if off(tried) <= TOLERANCE:
                return tried
    raise SystemExit(f"no width of {arch} comes within {TOLERANCE:.0%} of {wanted:,} parameters")


def _count(config: RolloutConfig) -> int:
    with torch.device("meta"):
        return parameters(FlareRollout(config))
