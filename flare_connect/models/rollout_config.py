"""What a model of time series is, as plain data."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flare_connect.errors import ConfigError

from .config import Architecture, FlareConnectConfig, build


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """A model that steps fields on a mesh through time.

    Args:
        dim: space dimension of the meshes, 2 or 3; a line is a curve in the plane.
        fields: point fields that are stepped, and their widths, in order.
        history: k, frames that are read for the next one: the last, and k − 1 changes before it.
        memory: latents remember all frames before these, see `flare_connect.nn.MemoryBlock`.
        differences: rounds a block of learned differences along the mesh, which the frames go through linearly, steered
            by all that the model knows (`flare_connect.nn.LoadBlock`): what most equations say of a change is such
            differences, times something. 0 for none.
        attended: the frames also go through attention in each block, linearly, with weights that follow from the
            points: for what spreads farther from frame to frame than differences reach.
        relative: a frame is also read relative to its size on the mesh (the root mean square of each field about its
            usual mean, by volume), and changes are told relative to it: for what fades or grows by orders of magnitude.
            Not for what is driven from rest: changes of a field that is its usual mean everywhere are nothing.
        conserved: stepped fields whose mean over the mesh, by volume, stays what it is: where nothing comes in or goes
            out and nothing is made, as of a conserved density on a mesh that repeats.
        inputs: point fields that stay (a material, a source), and their widths.
        conditions: per-mesh numbers (`global_data`): parameters of the equation, and the time from frame to frame
            where it differs from series to series.
        directional: as in `FlareConnectConfig`.
        boundary: as in `FlareConnectConfig`.
        harmonic: as in `FlareConnectConfig`.
        held: stepped field → named sets on whose nodes it stays what it is in the frames given: values at the boundary
            that do not vary in time.
        periodic: as in `FlareConnectConfig`.
        closed: as in `FlareConnectConfig`; twins also change alike, so that they stay one material point.
        units: of the fields.
        architecture: sizes and switches; those of loads do nothing here.

    Raises:
        ConfigError: if a number is out of range, nothing is stepped, or a setting would do nothing.

    Good values: `history` 2 where a field has a velocity of its own that is not among the fields (waves), else 1: an
    error in a change that is read goes on as a change, and rollouts drift sooner. `differences` such that all
    blocks together reach as far as anything moves from frame to frame: 3 where that is ten edges.
    """

    dim: int
    fields: dict[str, int]
    history: int = 1
    memory: bool = True
    differences: int = 1
    attended: bool = False
    relative: bool = False
    conserved: tuple[str, ...] = ()
    inputs: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, int] = field(default_factory=dict)
    directional: tuple[str, ...] = ()
    boundary: dict[str, str] = field(default_factory=dict)
    harmonic: str = ""
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    periodic: bool = False
    closed: bool = True
    units: dict[str, str] = field(default_factory=dict)
    architecture: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        """Refuse what cannot work or would do nothing."""
        if self.history < 1:
            raise ConfigError(f"`history` must be at least 1, got {self.history}")
        if self.differences < 0:
            raise ConfigError(f"`differences` must be 0 or more, got {self.differences}")
        if self.differences and not self.architecture.message_passing:
            raise ConfigError("`differences` need the edges of `message_passing`: switch that on, or set them to 0")
        if self.attended and not (self.differences and self.architecture.attention):
            raise ConfigError("`attended` needs `differences` and the architecture's `attention`: switch both on")
        if not self.fields:
            raise ConfigError("`fields` is empty: name at least one point field to step through time")
        if self.architecture.load_rounds or self.architecture.load_channels is not None:
            raise ConfigError("`load_rounds` and `load_channels` do nothing in a rollout: leave them out")
        for setting, names in {"held": self.held, "conserved": self.conserved}.items():
            for name in names:
                if name not in self.fields:
                    known = ", ".join(self.fields)
                    raise ConfigError(f"`{setting}` names {name!r}, which is not stepped; stepped are {known}")
        for name in self.conserved:
            if name in self.held:
                raise ConfigError(
                    f"{name!r} is held on a boundary, where it comes in and goes out: it is not conserved"
                )
        _ = self.reads  # checks the rest

    @cached_property
    def reads(self) -> FlareConnectConfig:
        """What its graphs hold of a mesh."""
        return FlareConnectConfig(
            dim=self.dim, outputs=self.fields, inputs=self.inputs, conditions=self.conditions,
            directional=self.directional, boundary=self.boundary, harmonic=self.harmonic, closed=self.closed,
            periodic=self.periodic, units=self.units, architecture=self.architecture,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """V, columns of a frame."""
        return sum(self.fields.values())

    @property
    def num_frame_features(self) -> int:
        """Columns of what is read of frames: themselves, and where that is so, they relative to their sizes."""
        return (2 if self.relative else 1) * self.history * self.width

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return dataclasses.asdict(self) | {"directional": list(self.directional), "conserved": list(self.conserved)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RolloutConfig":
        """From JSON data; unknown keys are errors.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        data = {"closed": False} | data  # models from before there was a choice
        architecture = Architecture.from_dict(data.pop("architecture", {}))
        directional = tuple(data.get("directional", ()))
        held = {name: tuple(sets) for name, sets in data.get("held", {}).items()}
        tuples = {"directional": directional, "held": held, "conserved": tuple(data.get("conserved", ()))}
        found: RolloutConfig = build(cls, data | {"architecture": architecture} | tuples, "rollout")
        return found
