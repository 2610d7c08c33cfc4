"""Who takes part: ours, its ablations, and the peers, all with about as many parameters."""

from dataclasses import replace
from typing import Any

import torch
from sets import StudySet

from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig
from flare_connect.models.baselines import BASELINES, build, matching_channels
from flare_connect.models.features import num_condition_features, num_edge_features, num_node_features

TOLERANCE = 0.1
OURS = Architecture(channels=64, num_blocks=4, num_heads=8, num_latents=64)
# A stress follows from derivatives: for it ours has differences along the mesh, and narrower perceptrons for that.
_DIFFERENCES = {"load_rounds": 2, "mlp_ratio": 0.75}
_PLAIN = {"message_passing": False, "boundary_tokens": False, "quadrature": False, "anchors": "none"}
_FLARE = Architecture(channels=64, num_blocks=8, num_heads=8, num_latents=64, num_kv_layers=3, mlp_ratio=2.5, **_PLAIN)
# Peers see the same features, edges and boundary nodes; their trunks take what they know how to read.
_AROUND = replace(OURS, anchors="none", quadrature=False)

# Ours with a part more, less or otherwise.
PARTS: dict[str, Architecture] = {
    "differences": replace(OURS, **_DIFFERENCES),
    "no differences": OURS,
    "1 round of differences": replace(OURS, load_rounds=1, mlp_ratio=1.25),
    "no message passing": replace(OURS, message_passing=False),
    "3 rounds of messages": replace(OURS, num_rounds=3),
    "no attention": replace(
        OURS, attention=False, anchors="none", boundary_tokens=False, quadrature=False, num_rounds=3
    ),
    "no anchors": replace(OURS, anchors="none"),
    "no boundary tokens": replace(OURS, boundary_tokens=False),
    "no quadrature": replace(OURS, quadrature=False),
    # How many anchors, which costs.
    **{f"{count} anchors": replace(OURS, num_latents=count) for count in (16, 32, 128, 256)},
    "any rank": OURS,
    "one scale, 1": replace(OURS, anchor_scales=(1.0,)),
    "one scale, 60": replace(OURS, anchor_scales=(60.0,)),
    "geodesic": replace(OURS, anchors="geodesic"),
    "straight": replace(OURS, anchors="straight"),
    "loads among the rest": OURS,
}
SETTINGS: dict[str, Architecture] = {
    "ours": OURS,
    **PARTS,
    "FLARE": _FLARE,
    "FLARE, adapted": replace(_FLARE, queries="adapted"),
    "FLARE, loads apart": _FLARE,
}
# What sees the loads among its other inputs, as peers do.
MIXED = ("loads among the rest", "no attention", "FLARE", "FLARE, adapted")
PEERS: dict[str, dict[str, Any]] = {
    "transolver": {"num_blocks": 8, "temperature_range": (0.1, 5.0), "floor": 1e-5},
    "geotransolver": {"mlp_ratio": 2},
    "geoflare": {},
    "meshgraphnet": {},
    "graphnet": {},
    "pointwise": {},
}
NAMES = (*SETTINGS, *PEERS)
# Trained with some batches at a lower rank, so that one can be chosen afterwards.
NESTED = ("any rank",)


def of(study: StudySet) -> list[str]:
    """Names of all who take part in a set, without those that are ours by another name."""
    same = "differences" if study.output == "stress" else "no differences"
    return [name for name in study.models or NAMES if name != same]


def make(name: str, around: FlareConnectConfig) -> FlareConnect:
    """A model by name, its width such that it has about as many parameters as ours.

    Args:
        name: of `NAMES`.
        around: what models read and predict, with loads; its architecture is not looked at.
    """
    wanted = _count(replace(around, architecture=_fit("ours", around) if _mine(name) else OURS))
    if not loads_apart(name):
        around = replace(around, loads=())
    if name in SETTINGS:
        return FlareConnect(replace(around, architecture=_matched(_fit(name, around), around, wanted)))
    config = replace(around, architecture=_AROUND)
    sizes = {
        "features": num_node_features(config), "edge_features": num_edge_features(config),
        "conditions": num_condition_features(config), "outputs": sum(config.outputs.values()), "dim": config.dim,
    }  # fmt: skip
    assert name in BASELINES
    channels = matching_channels(name, wanted, tolerance=TOLERANCE, **sizes, **PEERS[name])
    model = FlareConnect(config)
    model.trunk = build(name, channels=channels, **sizes, **PEERS[name])
    return model


def architecture(name: str) -> Architecture:
    """What a contestant reads; peers read what ours would without anchors."""
    return SETTINGS.get(name, _AROUND)


def loads_apart(name: str) -> bool:
    """Whether a contestant takes loads apart from geometry."""
    return name in SETTINGS and name not in MIXED


def parameters(model: FlareConnect) -> int:
    """Learned numbers."""
    return sum(p.numel() for p in model.trunk.parameters())


def _mine(name: str) -> bool:
    return name == "ours" or name in PARTS


def _fit(name: str, around: FlareConnectConfig) -> Architecture:
    """The setting of a name for what is predicted."""
    arch = SETTINGS[name]
    settled = arch.load_rounds or not arch.message_passing or name == "no differences"
    if settled or not (_mine(name) and loads_apart(name)) or "stress" not in around.outputs:
        return arch
    return replace(arch, **_DIFFERENCES)


def _count(config: FlareConnectConfig) -> int:
    with torch.device("meta"):
        return parameters(FlareConnect(config))


def _matched(arch: Architecture, around: FlareConnectConfig, wanted: int) -> Architecture:
    # A block more or less where heads leave widths too far apart.
    best = min(
        (
            replace(arch, channels=channels, num_blocks=arch.num_blocks + more)
            for more in (0, 1, -1)
            for channels in range(arch.num_heads, 129, arch.num_heads)
        ),
        key=lambda a: (
            round(abs(_count(replace(around, architecture=a)) - wanted) / wanted / TOLERANCE),
            abs(a.num_blocks - arch.num_blocks),
        ),
    )
    off = abs(_count(replace(around, architecture=best)) - wanted) / wanted
    if off > TOLERANCE:
        raise SystemExit(f"{arch} differs by {off:.0%} in parameters with {best.channels} channels")
    return best
