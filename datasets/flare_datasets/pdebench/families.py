"""What each family of PDEBench files holds: keys, channels, parameters, how many frames are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flare_connect.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One array of a file.

    Attributes:
        key: its name; in the group layout, within the group of a sample.
        channels: what its components are.
        trailing: whether the components are its last axis; else it has one channel and no such axis.
    """

    key: str
    channels: tuple[str, ...]
    trailing: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of PDEBench file.

    Attributes:
        name: what `open_pdebench` calls it.
        dim: spatial axes.
        layout: "array" holds all samples in one array a key, `(N, T, X[, Y[, Z]])`; "group" a group a sample.
        fields: arrays that vary in time, in the order of the channels in memory.
        static: arrays without time: a coefficient, a force.
        parameters: attributes that tell the family from others, all required.
        optional: parameters that a file may have, as attributes or in its name.
        initial_step: frames that a model is given; 0 where it is given the static arrays alone.
        periodic: whether the domain repeats; None where the file's name tells.
        times: "shared" is one `t-coordinate`, "sample" an array `t` of a row a sample, "none" no time at all. In groups
            each sample has its own.
        extra_time: whether `t-coordinate` is written with an entry more than there are frames.
        usual: strides in space and in time of the published results.
    """

    name: str
    dim: int
    layout: Literal["array", "group"] = "array"
    fields: tuple[Stored, ...]
    static: tuple[Stored, ...] = ()
    parameters: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    initial_step: int = 10
    periodic: bool | None = False
    times: Literal["shared", "sample", "none"] = "shared"
    extra_time: bool = False
    usual: tuple[int, int] = (1, 1)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels V, in memory's order."""
        return tuple(channel for stored in self.fields for channel in stored.channels)

    @property
    def static_channels(self) -> tuple[str, ...]:
        """Names of the channels that do not vary in time."""
        return tuple(channel for stored in self.static for channel in stored.channels)


def _tensor(*channels: str) -> tuple[Stored, ...]:
    return (Stored(key="tensor", channels=channels),)


def _data(*channels: str) -> tuple[Stored, ...]:
    return (Stored(key="data", channels=channels, trailing=True),)


def _compressible(dim: int, usual: tuple[int, int]) -> Family:
    names = ("density", "pressure", "Vx", "Vy", "Vz")[: 2 + dim]
    return Family(
        name=f"compressible_{dim}d",
        dim=dim,
        fields=tuple(Stored(key=name, channels=(name,)) for name in names),
        optional=("M", "eta", "zeta"),
        periodic=None,
        usual=usual,
    )


_ALL = (
    Family(
        name="advection",
        dim=1,
        fields=_tensor("u"),
        parameters=("beta",),
        periodic=True,
        extra_time=True,
        usual=(4, 5),
    ),
    Family(
        name="burgers", dim=1, fields=_tensor("u"), parameters=("Nu",), periodic=True, extra_time=True, usual=(4, 5)
    ),
    Family(
        name="reaction_diffusion",
        dim=1,
        fields=_tensor("u"),
        parameters=("Nu", "rho"),
        initial_step=5,
        periodic=True,
        extra_time=True,
        usual=(4, 1),
    ),
    Family(name="diffusion_sorption", dim=1, layout="group", fields=_data("u")),
    _compressible(1, (8, 5)),
    _compressible(2, (2, 1)),
    _compressible(3, (2, 1)),
    Family(
        name="darcy",
        dim=2,
        fields=_tensor("u"),
        static=(Stored(key="nu", channels=("nu",)),),
        optional=("beta",),
        initial_step=0,
        times="none",
        usual=(2, 1),
    ),
    Family(name="diffusion_reaction", dim=2, layout="group", fields=_data("u", "v")),
    Family(name="shallow_water", dim=2, layout="group", fields=_data("h")),
    Family(
        name="incompressible",
        dim=2,
        fields=(
            Stored(key="velocity", channels=("Vx", "Vy"), trailing=True),
            Stored(key="particles", channels=("particles",), trailing=True),
        ),
        static=(Stored(key="force", channels=("force_x", "force_y"), trailing=True),),
        times="sample",
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""Every family by name."""

AXES = ("x", "y", "z")


def family_of(name: str) -> Family:
    """The family of this name.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in FAMILIES:
        raise ConfigError(f"`pde` must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]
