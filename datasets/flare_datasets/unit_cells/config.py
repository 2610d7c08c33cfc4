"""The settings of the unit-cell data set; needs neither gmsh nor torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flare_connect.errors import ConfigError

SHAPES = ("circle", "ellipse", "slot")
SPLITS = ("train", "test", "shift", "val")


@dataclass(frozen=True, kw_only=True)
class UnitCellConfig:
    r"""What to draw: periodic unit cells $[0, 1]^2$ with holes, under a macroscopic strain.

    Normalised units: the side of the cell is 1 and $E$ is 1 unless told, so lengths are in cell sides and stresses in
    the unit of `youngs_modulus`. The problem is linear: scale stress by any other $E$, length by any other side.

    Args:
        num_train: samples of the split "train".
        num_test: samples of the split "test", drawn from the same distribution as "train".
        num_val: samples of the split "val", likewise; they choose the best epoch, so that "test" stays unseen.
        num_shift: samples of the split "shift": the same physics with `shift_holes` holes. The samples of a split do
            not change when another split grows.
        num_nodes: mesh vertices aimed at, met within 15 %; one number, or (least, most) to draw from evenly.
        num_holes: (least, most) holes of a cell in "train", "val" and "test".
        shift_holes: (least, most) holes of a cell in "shift".
        porosity: (least, most) void fraction; the holes' areas add up to a value drawn from it.
        shapes: which of "circle", "ellipse", "slot" to draw from.
        max_aspect: longest ellipse or slot, length over width.
        min_gap: least solid left between two holes, in cell sides.
        close_pair_probability: share of the cells with two holes or more in which two nearly touch.
        close_gap: (least, most) solid between the two that nearly touch, in cell sides.
        crossing_probability: share of the cells in which a hole crosses a side and goes on at the opposite side; in the
            others every hole lies inside.
        youngs_modulus: $E$ of the solid; the unit of every stress.
        poisson_ratio: $\nu$ of the solid, plane strain.
        strain_amplitude: Frobenius norm $\sqrt{e_{xx}^2 + e_{yy}^2 + 2 e_{xy}^2}$ of the macroscopic strain, whose
            direction is drawn evenly from the sphere.
        seed: same seed, same samples.

    Raises:
        ConfigError: a value is out of range, or holes of the least porosity do not fit into the cell.

    Good values: the defaults; `num_nodes=5_000` for smooth stress around thin ligaments, `(1_000, 4_000)` to train over
    mesh sizes; `porosity` up to 0.4 with up to 12 holes; `min_gap` 0.01 or more at 1,000 nodes.
    """

    num_train: int = 1_000
    num_test: int = 200
    num_val: int = 100
    num_shift: int = 200
    num_nodes: int | tuple[int, int] = 2_000
    num_holes: tuple[int, int] = (1, 4)
    shift_holes: tuple[int, int] = (5, 12)
    porosity: tuple[float, float] = (0.08, 0.3)
    shapes: tuple[str, ...] = SHAPES
    max_aspect: float = 3.0
    min_gap: float = 0.015
    close_pair_probability: float = 0.5
    close_gap: tuple[float, float] = (0.015, 0.03)
    crossing_probability: float = 0.7
    youngs_modulus: float = 1.0
    poisson_ratio: float = 0.3
    strain_amplitude: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_nodes", "num_holes", "shift_holes", "porosity", "shapes", "close_gap"):
            value = getattr(self, name)
            if isinstance(value, list):  # from JSON or YAML
                object.__setattr__(self, name, tuple(value))
        self._check_counts()
        self._check_geometry()
        self._check_physics()

    @property
    def num_samples(self) -> int:
        """Samples of all splits together."""
        return sum(self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each split, in the order of `SPLITS` and of the file."""
        return (self.num_train, self.num_test, self.num_shift, self.num_val)

    @property
    def node_range(self) -> tuple[int, int]:
        """(least, most) mesh vertices aimed at."""
        return (self.num_nodes, self.num_nodes) if isinstance(self.num_nodes, int) else self.num_nodes

    def split_of(self, index: int) -> tuple[str, int]:
        """The split of sample `index`, and its place in that split.

        Raises:
            ConfigError: there is no such sample.
        """
        place = index
        for split, count in zip(SPLITS, self.counts, strict=True):
            if 0 <= place < count:
                return split, place
            place -= count
        raise ConfigError(f"`index` must be in 0..{self.num_samples - 1}, got {index}")

    def holes_of(self, split: str) -> tuple[int, int]:
        """(least, most) holes of a cell of `split`."""
        return self.shift_holes if split == "shift" else self.num_holes

    def parameters(self) -> dict[str, Any]:
        """Every setting as plain JSON values, as kept in the data file."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def _check_counts(self) -> None:
        for name in ("num_train", "num_test", "num_shift", "num_val", "seed"):
            _check_integer(name, getattr(self, name), 0)
        if self.num_samples == 0:
            raise ConfigError(
                "`num_train`, `num_test`, `num_shift` and `num_val` are all 0: ask for one sample or more"
            )
        if isinstance(self.num_nodes, tuple):
            _check_range("num_nodes", self.num_nodes, 200, 200_000, integer=True)
        else:
            _check_integer("num_nodes", self.num_nodes, 200, 200_000)
        _check_range("num_holes", self.num_holes, 1, 64, integer=True)
        _check_range("shift_holes", self.shift_holes, 1, 64, integer=True)

    def _check_geometry(self) -> None:
        _check_range("porosity", self.porosity, 0.005, 0.5)
        if not self.shapes or len(set(self.shapes)) != len(self.shapes) or not set(self.shapes) <= set(SHAPES):
            raise ConfigError(f"`shapes` must be some of {SHAPES}, each once, got {self.shapes!r}")
        _check_number("max_aspect", self.max_aspect, 1.2, 6.0)
        _check_number("min_gap", self.min_gap, 0.004, 0.2)
        _check_number("close_pair_probability", self.close_pair_probability, 0.0, 1.0)
        _check_number("crossing_probability", self.crossing_probability, 0.0, 1.0)
        _check_range("close_gap", self.close_gap, self.min_gap, 0.2, low_name="`min_gap`")
        used = [self.num_holes] if self.num_train + self.num_test + self.num_val else []
        used += [self.shift_holes] if self.num_shift else []
        for low, high in used:
            for num_holes in range(low, high + 1):
                self._check_fit(num_holes)

    def _check_fit(self, num_holes: int) -> None:
        """Equal circles on a square lattice must fit: a cell falls back to them when no random layout is found."""
        per_side = math.ceil(math.sqrt(num_holes))
        gap = 1.0 / per_side - 2.0 * math.sqrt(self.porosity[0] / (num_holes * math.pi))
        if gap < max(self.min_gap, 0.04):
            raise ConfigError(
                f"{num_holes} holes of void fraction {self.porosity[0]} (the least `porosity`) leave gaps of {gap:.3f} "
                f"on a lattice, less than {max(self.min_gap, 0.04)}: lower `porosity`, `min_gap` or the number of holes"
            )

    def _check_physics(self) -> None:
        _check_number("youngs_modulus", self.youngs_modulus, 1e-30, 1e30)
        _check_number("strain_amplitude", self.strain_amplitude, 1e-12, 1.0)
        # Plane strain locks at 1/2; P2 elements stay accurate up to about 0.49.
        _check_number("poisson_ratio", self.poisson_ratio, -0.9, 0.49)


def _check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    bound = f"of {low} or more" if high is None else f"in {low}..{high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(f"`{name}` must be a whole number {bound}, got {value!r}")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN fails too
        raise ConfigError(f"`{name}` must be a number in [{low:g}, {high:g}], got {value!r}")


def _check_range(
    name: str, value: Any, low: float, high: float, *, integer: bool = False, low_name: str | None = None
) -> None:
    kinds = int if integer else int | float
    right = (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
        and low <= value[0] <= value[1] <= high
    )
    if not right:
        of = f" ({low_name})" if low_name else ""
        raise ConfigError(
            f"`{name}` must be (least, most) with {low:g}{of} <= least <= most <= {high:g}, got {value!r}"
        )
