"""The settings of the slit-plate data set; needs neither gmsh nor torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from flare_connect.errors import ConfigError
from flare_datasets.config import SplitConfig, check_number, check_range
from flare_datasets.meshing import element_width

PHYSICS = ("heat", "elasticity")
SPLITS = ("train", "val", "test", "more", "serpentine", "comb", "spiral")

JITTER = 0.15
"""Largest shift of a slit of "serpentine" or "comb" from its even place, in spacings."""
SPIRAL = ((0.36, 0.4), 0.08)
"""(least, most) distance of the outermost turn from the centre, and distance of the inner end."""

_ONLY_IN = {
    "heat": ("temperature", "num_sources", "source_width", "source_power"),
    "elasticity": ("traction", "youngs_modulus", "poisson_ratio"),
}


@dataclass(frozen=True, kw_only=True)
class SlitPlateConfig(SplitConfig):
    r"""What to draw: plates $[0, 1]^2$ with thin slits, in steady heat flow or in plane strain.

    Normalised units: the side of the plate, its conductivity and, unless told, $E$ are 1. Both problems are linear:
    scale temperature by any other power over conductivity, stress by any other $E$, length by any other side. The same
    settings give the same plates and meshes in both.

    Args:
        physics: "heat" holds the left and the right side at temperatures and heats the plate by sources; "elasticity"
            clamps the left side and pulls at the right one. Slits are insulated, or free of traction (lips in contact
            go through each other: the problem is linear).
        num_train: samples of the split "train": `num_slits` slits of random place, direction and length, none of which
            touches a side. The samples of a split do not change when another split grows.
        num_val: samples of the split "val", drawn as "train"; they choose the best epoch.
        num_test: samples of the split "test", drawn as "train".
        num_more: samples of the split "more": as "train" with `more_slits` slits.
        num_serpentine: samples of the split "serpentine": long slits from the top and the bottom in turn, so that the
            only way from left to right winds between them.
        num_comb: samples of the split "comb": long parallel slits from one side, any of the four.
        num_spiral: samples of the split "spiral": one slit along a square spiral, so that the way in is long.
        num_nodes: mesh vertices aimed at, met within 15 %; one number, or (least, most) to draw from evenly.
        num_slits: (least, most) slits in "train", "val" and "test".
        more_slits: (least, most) slits in "more".
        serpentine_slits: (least, most) slits in "serpentine".
        comb_slits: (least, most) slits in "comb".
        spiral_turns: (least, most) turns in "spiral", in steps of a quarter.
        slit_length: (least, most) length of a slit in "train", "val", "test" and "more", in plate sides.
        long_slit: (least, most) length of a slit in "serpentine" and "comb", in plate sides.
        min_gap: least width of the plate left between two slits, and between a slit and a side, in plate sides.
        crack_probability: share of the plates whose slits are cracks of no opening: both lips are in one place.
        opening: (least, most) distance of the lips in the other plates, the same for all slits of a plate, in widths
            of an element, `element_width(num_nodes)`, or of `geometry_nodes` where they are given.
        temperature: "heat" only: the temperatures of both sides are drawn evenly from this much below to above 0.
        num_sources: "heat" only: (least, most) Gaussian sources.
        source_width: "heat" only: (least, most) standard deviation of a source, in plate sides.
        source_power: "heat" only: the power of a source, its integral over an endless plate, is drawn evenly from this
            much below to above 0.
        traction: "elasticity" only: (least, most) size of the traction, its direction drawn evenly, in the unit of
            `youngs_modulus`.
        youngs_modulus: "elasticity" only: $E$; the unit of every stress.
        poisson_ratio: "elasticity" only: $\nu$, plane strain.
        seed: same seed, same samples.
        geometry_nodes: `num_nodes` of another data set of the same seed: its slits and loads are drawn, meshed with
            `num_nodes` vertices (one number then): the same problem in other elements. None draws for `num_nodes`.
        log_nodes: draw nodes evenly in their logarithm: as many meshes from 2,000 to 4,000 as from 4,000 to 8,000.

    Raises:
        ConfigError: a value is out of range, a setting belongs to the other physics, or slits do not fit.

    Good values: the defaults; `num_nodes=(2_000, 8_000)` to train over mesh sizes. In elasticity a serpentine bends
    like a spring: von Mises stress over traction is 2 in the median of "train" and 24 of "serpentine", but 11 with
    `serpentine_slits=(2, 3), long_slit=(0.45, 0.6)`. In heat `long_slit=(0.7, 0.9)` makes the way longer still.
    """

    splits = SPLITS
    added = frozenset({"geometry_nodes", "log_nodes"})

    physics: str
    num_train: int = 1_000
    num_val: int = 100
    num_test: int = 200
    num_more: int = 200
    num_serpentine: int = 200
    num_comb: int = 200
    num_spiral: int = 200
    num_nodes: int | tuple[int, int] = 5_000
    num_slits: tuple[int, int] = (2, 4)
    more_slits: tuple[int, int] = (6, 8)
    serpentine_slits: tuple[int, int] = (3, 5)
    comb_slits: tuple[int, int] = (3, 6)
    spiral_turns: tuple[float, float] = (1.5, 2.5)
    slit_length: tuple[float, float] = (0.2, 0.6)
    long_slit: tuple[float, float] = (0.55, 0.8)
    min_gap: float = 0.04
    crack_probability: float = 0.4
    opening: tuple[float, float] = (0.25, 3.0)
    temperature: float = 1.0
    num_sources: tuple[int, int] = (1, 3)
    source_width: tuple[float, float] = (0.04, 0.1)
    source_power: float = 1.0
    traction: tuple[float, float] = (0.005, 0.015)
    youngs_modulus: float = 1.0
    poisson_ratio: float = 0.3
    seed: int = 0
    geometry_nodes: int | tuple[int, int] | None = None
    log_nodes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.physics not in PHYSICS:
            raise ConfigError(f"`physics` must be one of {PHYSICS}, got {self.physics!r}")
        self._check_use()
        self._check_geometry()
        self._check_physics()

    @property
    def widest(self) -> float:
        """Largest opening that may be drawn, in plate sides."""
        return 0.0 if self.crack_probability == 1.0 else self.opening[1] * element_width(self.node_range[0])

    def slits_of(self, split: str) -> tuple[int, int]:
        """(least, most) slits of a plate of `split`."""
        counts = {"more": self.more_slits, "serpentine": self.serpentine_slits, "comb": self.comb_slits}
        return (1, 1) if split == "spiral" else counts.get(split, self.num_slits)

    def _check_use(self) -> None:
        default = {field.name: field.default for field in fields(self)}
        for physics in PHYSICS:
            for name in _ONLY_IN[physics]:
                if physics != self.physics and getattr(self, name) != default[name]:
                    raise ConfigError(
                        f"`{name}` does nothing with physics={self.physics!r}, got {getattr(self, name)!r}: leave it "
                        f"out, or choose physics={physics!r}"
                    )

    def _check_geometry(self) -> None:
        for name in ("num_slits", "more_slits", "serpentine_slits", "comb_slits"):
            check_range(name, getattr(self, name), 1, 16, integer=True)
        check_range("spiral_turns", self.spiral_turns, 1.0, 6.0)
        check_number("min_gap", self.min_gap, 0.01, 0.1)
        check_range("slit_length", self.slit_length, 0.05, 0.9)
        check_range("long_slit", self.long_slit, 0.2, 1.0 - self.min_gap)
        check_number("crack_probability", self.crack_probability, 0.0, 1.0)
        check_range("opening", self.opening, 0.1, 5.0)
        random = [self.num_slits] if self.num_train + self.num_val + self.num_test else []
        random += [self.more_slits] if self.num_more else []
        for _, most in random:
            # Slits of the least length on a square lattice: a plate falls back to them when no layout is found.
            to_side = 0.5 / math.ceil(math.sqrt(most)) - 0.5 * self.slit_length[0]
            self._check_fit(f"{most} slits on a lattice", to_side + 0.5 * self.widest)
        if random and self.slit_length[0] < 3.0 * self.widest:
            raise ConfigError(
                f"`slit_length` from {self.slit_length[0]} makes slits shorter than three of their widest opening, "
                f"{self.widest:.3f}: lengthen them, lower `opening` or raise `num_nodes`"
            )
        for split in ("serpentine", "comb"):
            if getattr(self, f"num_{split}"):
                most = self.slits_of(split)[1]
                self._check_fit(f"{most} slits in a {split}", (1.0 - 2.0 * JITTER) / (most + 1))
        if self.num_spiral:
            (closest, farthest), inner = SPIRAL
            self._check_fit(f"{self.spiral_turns[1]:g} turns of a spiral", (closest - inner) / self.spiral_turns[1])
            self._check_fit("the turns of a spiral", 0.5 - farthest + 0.5 * self.widest)

    def _check_fit(self, what: str, apart: float) -> None:
        if apart - self.widest < self.min_gap:
            raise ConfigError(
                f"{what} leave a width of {apart - self.widest:.3f} between them, less than `min_gap` {self.min_gap}: "
                f"lower their number, length, `opening` (now up to {self.widest:.3f} plate sides) or `min_gap`, or "
                "raise `num_nodes`"
            )

    def _check_physics(self) -> None:
        check_number("temperature", self.temperature, 0.0, 1e30)
        check_range("num_sources", self.num_sources, 0, 16, integer=True)
        check_range("source_width", self.source_width, 0.01, 1.0)
        check_number("source_power", self.source_power, 0.0, 1e30)
        if self.temperature == 0.0 and (self.num_sources[0] == 0 or self.source_power == 0.0):
            raise ConfigError(
                f"`temperature` 0 with `num_sources` {self.num_sources} and `source_power` {self.source_power} leaves "
                "plates cold: raise one"
            )
        check_range("traction", self.traction, 1e-12, 1e30)
        check_number("youngs_modulus", self.youngs_modulus, 1e-30, 1e30)
        # Plane strain locks at 1/2; P2 elements stay accurate up to about 0.49.
        check_number("poisson_ratio", self.poisson_ratio, -0.9, 0.49)
