"""What a model is, as plain data: light to import, written to JSON, checked before any work starts."""

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from flare_connect.errors import ConfigError

from .roles import ESSENTIAL, HARMONIC_OF_BOUNDARY, Role, read_roles

# What the backward pass computes again instead of keeping it; a matter of training, not of the model that is saved.
Recompute = Literal["nothing", "blocks", "layers"]
Response = Literal["linear", "homogeneous"]
Anchoring = Literal["diffusion", "geodesic", "straight", "none"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes and switches of `FlareConnect`.

    Args:
        channels: C, width of the points.
        num_blocks: hybrid blocks.
        num_heads: H; must divide `channels`.
        num_latents: M, latents a head.
        attention: global FLARE attention in each block.
        anchors: where latents sit and how scores decay: along the mesh by "diffusion" or "geodesic" cost, by "straight"
            distance (a control that knows no topology), or "none", which is plain FLARE.
        anchor_scales: κ of the diffusion costs, see `flare_connect.mesh.diffusion_cost`; heads take them in turn.
        message_passing: message passing along the mesh in each block, after the attention.
        num_rounds: rounds of it a block.
        boundary_tokens: boundary nodes as tokens that the latents gather from.
        quadrature: weigh points by their node volume in the gather, so that refining the mesh keeps the answer.
        queries: latent queries, "fixed" or "adapted" to each mesh.
        num_kv_layers: hidden layers of the key and value perceptrons; −1 for one linear map.
        qk_norm: normalise queries and keys (always on with adapted queries).
        separate_decode: own queries and keys from latents to points.
        mlp_ratio: hidden width of the feed-forward in units of C, and of that of the loads in units of their width.
        load_rounds: rounds a block of learned differences along the mesh of what carries the loads, where the model has
            `loads`; 0 for none. For stresses, trained on meshes of several sizes: differences shrink with the elements.
        load_channels: width of what carries the loads, where the model has `loads`; None for `channels`.
        num_frequencies: octaves of sines and cosines of the position; the first has the period of the domain.

    Good values: 64 channels, 4 blocks for 500 meshes; 128 channels, 8 blocks for thousands.
    """

    channels: int = 64
    num_blocks: int = 4
    num_heads: int = 8
    num_latents: int = 64
    attention: bool = True
    anchors: Anchoring = "diffusion"
    anchor_scales: tuple[float, ...] = (1.0, 60.0)
    message_passing: bool = True
    num_rounds: int = 1
    boundary_tokens: bool = True
    quadrature: bool = True
    queries: Literal["fixed", "adapted"] = "fixed"
    num_kv_layers: int = 1
    qk_norm: bool = False
    separate_decode: bool = False
    mlp_ratio: float = 2.0
    load_channels: int | None = None
    load_rounds: int = 0
    num_frequencies: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot work or would do nothing."""
        for name in ("channels", "num_blocks", "num_heads", "num_latents", "num_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.channels % self.num_heads:
            raise ConfigError(
                f"`channels` must be divisible by `num_heads`, got {self.channels} and {self.num_heads}; "
                f"try {math.ceil(self.channels / self.num_heads) * self.num_heads} channels"
            )
        if not (self.attention or self.message_passing):
            raise ConfigError("switch on `attention` or `message_passing`: with both off no point sees another")
        if self.num_frequencies < 0 or self.num_kv_layers < -1:
            raise ConfigError(
                f"`num_frequencies` must be ≥ 0 and `num_kv_layers` ≥ −1, got {self.num_frequencies} and "
                f"{self.num_kv_layers}"
            )
        if self.load_rounds < 0:
            raise ConfigError(f"`load_rounds` must be 0 or more, got {self.load_rounds}")
        if self.num_rounds > 1 and not self.message_passing:
            raise ConfigError("`num_rounds` does nothing without `message_passing`: set it to 1")
        if self.load_rounds and not self.message_passing:
            raise ConfigError("`load_rounds` needs the edges of `message_passing`: switch that on, or set it to 0")
        if self.load_channels is not None and (self.load_channels < 1 or self.load_channels % self.num_heads):
            raise ConfigError(
                f"`load_channels` must be divisible by `num_heads`, got {self.load_channels} and {self.num_heads}"
            )
        if self.mlp_ratio <= 0:
            raise ConfigError(f"`mlp_ratio` must be positive, got {self.mlp_ratio}")
        if self.qk_norm and self.queries == "adapted":
            raise ConfigError("adapted queries always normalise queries and keys: leave `qk_norm` off")
        self._check_anchors()
        if not self.attention:
            idle = {
                "anchors": "none",
                "boundary_tokens": False,
                "queries": "fixed",
                "qk_norm": False,
                "separate_decode": False,
            }
            for name, off in {**idle, "quadrature": False}.items():
                if getattr(self, name) != off:
                    raise ConfigError(f"`{name}` does nothing without `attention`: set it to {off!r}")

    @property
    def num_scales(self) -> int:
        """S, costs between an anchor and a node; 0 without anchors."""
        return {"none": 0, "diffusion": len(self.anchor_scales)}.get(self.anchors, 1)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Architecture":
        """From JSON data; unknown keys are errors.

        Raises:
            ConfigError: on an unknown key.
        """
        data = dict(data)
        if "anchor_scales" in data:
            data["anchor_scales"] = tuple(data["anchor_scales"])
        found: Architecture = build(cls, data, "architecture")
        return found

    def _check_anchors(self) -> None:
        if self.anchors not in get_args(Anchoring):
            raise ConfigError(f"`anchors` must be one of {', '.join(get_args(Anchoring))}, got {self.anchors!r}")
        scales = self.anchor_scales
        if self.anchors != "diffusion":
            return
        if not scales or not all(scale > 0 for scale in scales):
            raise ConfigError(f"`anchor_scales` must be positive numbers, got {self.anchor_scales}")
        if len(scales) > self.num_heads:
            raise ConfigError(
                f"`anchor_scales` names {len(scales)} scales for `num_heads` = {self.num_heads}: a head has one scale"
            )


@dataclass(frozen=True, kw_only=True)
class FlareConnectConfig:
    """A whole model: what it reads, what it predicts, and its architecture.

    Args:
        dim: space dimension of the meshes, 2 or 3.
        outputs: predicted point fields and their widths, in order.
        inputs: point fields that the model reads, and their widths.
        conditions: per-mesh numbers (`global_data`) that the model reads, and their widths.
        directional: those of the conditions that have a direction: vectors (width `dim`), or symmetric tensors (width
            3 in 2-D as xx, yy, xy; 6 in 3-D as xx, yy, zz, yz, xz, xy). Each node is also given their projection on
            the normal of the boundary nearby, which is how a load or a strain acts on a hole.
        boundary: named set → what it is to the model: "free"; "fixed", held at zero; "value:NAME", held at the
            condition NAME; "flux:NAME" or "traction:NAME", passed or pulled by it. NAME may be one number of a
            condition, as in "value:temperatures[0]". The set "*" is the boundary in no other set. Each role is told
            apart, values are given to its nodes. Empty: all boundary nodes are of one type.
        harmonic: inputs from Laplace's equation on each mesh: "boundary" for the values and loads of `boundary`, and
            for how far each point is from what is held; or a condition that is the mean gradient (a vector or a
            symmetric tensor) of a periodic cell.
        loads: those of the conditions and inputs that act in proportion: twice the loads, twice the outputs. They go
            through the model apart from the geometry, which learns how the mesh answers to a load instead of an answer
            for every load. Empty: nothing is known of the kind.
        response: what the outputs are to the loads: "linear", so that answers to two loads add up (displacement,
            temperature, stress components); "homogeneous", only in proportion (von Mises stress, magnitudes).
        closed: on a periodic mesh each node has the edges of its twins too, as if there were no seam; if not, it is
            joined to its twins by edges of a kind of their own.
        periodic: meshes repeat: one without `periodic_pairs` gets those that its opposite sides tell, and is refused
            where no two of these match.
        units: units of the fields, carried along to predictions.
        architecture: sizes and switches.

    Raises:
        ConfigError: if a width is not positive, nothing is predicted, or a role of the boundary cannot be.
    """

    dim: int
    outputs: dict[str, int]
    inputs: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, int] = field(default_factory=dict)
    directional: tuple[str, ...] = ()
    boundary: dict[str, str] = field(default_factory=dict)
    harmonic: str = ""
    loads: tuple[str, ...] = ()
    response: Response = "linear"
    closed: bool = False
    periodic: bool = False
    units: dict[str, str] = field(default_factory=dict)
    architecture: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.dim not in (2, 3):
            raise ConfigError(f"`dim` must be 2 or 3, got {self.dim}")
        if not self.outputs:
            raise ConfigError("`outputs` is empty: name at least one point field to predict")
        for group in ("outputs", "inputs", "conditions"):
            for name, width in getattr(self, group).items():
                if width < 1:
                    raise ConfigError(f"`{group}`: the width of {name!r} must be at least 1, got {width}")
        for name in self.directional:
            self._check_directed("directional", name)
        both = sorted(set(self.outputs) & set(self.inputs))
        if both:
            raise ConfigError(f"{both[0]!r} is an input and an output; predicting what is given tells nothing")
        self._check_harmonic(self.roles)
        self._check_loads()

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """The entries of `boundary`, read."""
        return read_roles(self.boundary, self.conditions)

    def _check_harmonic(self, roles: tuple[Role, ...]) -> None:
        if self.harmonic == HARMONIC_OF_BOUNDARY:
            kinds = {role.kind for role in roles}
            if not kinds & set(ESSENTIAL) or not any(role.condition for role in roles):
                raise ConfigError(
                    "`harmonic` is 'boundary', so `boundary` must hold some set (fixed, value) and give a value, flux "
                    f"or traction; it is {self.boundary}"
                )
        elif self.harmonic:
            self._check_directed("harmonic", self.harmonic)

    def _check_loads(self) -> None:
        if self.response not in get_args(Response):
            raise ConfigError(f"`response` must be one of {', '.join(get_args(Response))}, got {self.response!r}")
        for name in self.loads:
            if name not in self.conditions and name not in self.inputs:
                raise ConfigError(f"`loads` names {name!r}, which is neither a condition nor an input")
        if not self.loads:
            return
        if not self.architecture.attention:
            raise ConfigError("`loads` go through the attention of each block, which is switched off")
        # Their values share columns, and their extension is one solution.
        given = {role.condition for role in self.roles if role.condition}
        apart = sorted(given - set(self.loads))
        if apart and given & set(self.loads):
            raise ConfigError(f"`boundary` gives {apart[0]!r}, which is no load, along with loads: name all or none")

    def _check_directed(self, what: str, name: str) -> None:
        allowed = (self.dim, self.dim * (self.dim + 1) // 2)
        if self.conditions.get(name) not in allowed:
            raise ConfigError(
                f"`{what}` names {name!r}: it must be a condition of width {allowed[0]} (vector) or "
                f"{allowed[1]} (symmetric tensor), got {self.conditions.get(name, 'no such condition')}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return dataclasses.asdict(self) | {name: list(getattr(self, name)) for name in _TUPLES}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FlareConnectConfig":
        """From JSON data; unknown keys are errors.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        data = dict(data)
        architecture = Architecture.from_dict(data.pop("architecture", {}))
        lists = {name: tuple(data.get(name, ())) for name in _TUPLES}
        return build(cls, data | {"architecture": architecture} | lists, "model")


_TUPLES = ("directional", "loads")


def build(cls: type, data: dict[str, Any], what: str) -> Any:
    """A dataclass from its fields.

    Raises:
        ConfigError: on an unknown or missing key.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            raise ConfigError(
                f"unknown key {key!r} in the {what} configuration; known keys: {', '.join(sorted(known))}"
            )
    required = {n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(data))
    if missing:
        raise ConfigError(f"the {what} configuration lacks {', '.join(map(repr, missing))}")
    return cls(**data)
