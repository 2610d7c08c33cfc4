"""Who takes part: ours, ours without a part, and MeshGraphNet, all with about as many parameters."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.models.baselines.stepping import rollout_peer
from flare_connect.train import UnrollConfig

TOLERANCE = 0.1
# Of the past ours reads one change, and nothing that latents would remember: a frame and its Reynolds number say all
# that is to come, and a change says it again where a frame has an error.
_READS: dict[str, Any] = {"history": 2, "memory": False}
_ALONE = {"attention": False, "anchors": "none", "boundary_tokens": False, "quadrature": False}
# What is read is off by as much as a frame changes, or down to a tenth of that: an error of a step is a third of a
# change here, and many of them add up.
_TAUGHT = UnrollConfig(own_steps=2, noise=1.0, decades=1.0)
# The peer as it was published: with noise alone.
_NOISE = UnrollConfig(own_steps=0, noise=1.0)
_SMALL = 0.3


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model and how it is taught.

    Attributes:
        unroll: noise and own predictions.
        changes: of the architecture of ours.
        rollout: settings of `RolloutConfig`, in place of those of ours.
        peer: name of a baseline in place of ours; empty for ours.
        rate_of: whose learning rate it takes; empty for one of its own.
    """

    unroll: UnrollConfig = _TAUGHT
    changes: dict[str, Any] | None = None
    rollout: dict[str, Any] = field(default_factory=lambda: _READS)
    peer: str = ""
    rate_of: str = ""


PEER, PEER_RATE = "meshgraphnet", "MeshGraphNet"
CONTESTANTS = {
    "ours": Contestant(),
    PEER_RATE: Contestant(peer=PEER, unroll=_NOISE, rollout={}),
    "MeshGraphNet, small noise": Contestant(
        peer=PEER, unroll=replace(_NOISE, noise=_SMALL), rollout={}, rate_of=PEER_RATE
    ),
    "MeshGraphNet, taught as ours": Contestant(peer=PEER, rollout={}, rate_of=PEER_RATE),
    "MeshGraphNet, 2 frames": Contestant(peer=PEER, unroll=_NOISE, rollout={"history": 2}, rate_of=PEER_RATE),
    "ours, noise alone": Contestant(unroll=replace(_TAUGHT, own_steps=0), rate_of="ours"),
    "ours, small noise": Contestant(unroll=replace(_TAUGHT, noise=_SMALL, decades=0.0), rate_of="ours"),
    "ours, 1 frame": Contestant(rollout={"memory": False}, rate_of="ours"),
    "ours, memory": Contestant(rollout={"history": 2}, rate_of="ours"),
    "no anchors": Contestant(changes={"anchors": "none"}, rate_of="ours"),
    "no attention": Contestant(changes=_ALONE, rate_of="ours"),
    "no differences": Contestant(rollout=_READS | {"differences": 0}, rate_of="ours"),
}
SIZES = {
    "full": Architecture(channels=80, num_blocks=4, num_heads=8, num_latents=64),
    "quick": Architecture(channels=16, num_blocks=2, num_heads=2, num_latents=8),
}
ROUNDS = {"full": 15, "quick": 3}


def make(name: str, around: RolloutConfig, size: str) -> FlareRollout:
    """A model by name, its width such that it has about as many parameters as ours.

    Args:
        name: of `CONTESTANTS`.
        around: what models read and step; its architecture is not looked at.
        size: of `SIZES`.
    """
    chosen, arch = CONTESTANTS[name], SIZES[size]
    wanted = _count(replace(around, architecture=arch, **_READS))
    config = replace(around, **chosen.rollout)
    if chosen.peer:
        config = replace(config, architecture=arch)
        return rollout_peer(chosen.peer, config, parameters=wanted, tolerance=TOLERANCE, num_blocks=ROUNDS[size])
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
