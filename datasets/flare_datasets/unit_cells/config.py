"""The settings of the unit-cell data set; needs neither gmsh nor torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare_connect.errors import ConfigError
from flare_datasets.config import SplitConfig, check_number, check_range
from flare_datasets.meshing import element_width

if TYPE_CHECKING:
    import numpy as np

SHAPES = ("circle", "ellipse", "slot")
SPLITS = ("train", "test", "shift", "val", "contact", "thin")


@dataclass(frozen=True, kw_only=True)
class UnitCellConfig(SplitConfig):
    r"""What to draw: periodic unit cells $[0, 1]^2$ with holes, under a macroscopic strain.

    Normalised units: the side of the cell is 1 and $E$ is 1 unless told, so lengths are in cell sides and stresses in
    the unit of `youngs_modulus`. The problem is linear: scale stress by any other $E$, length by any other side.

    Args:
        num_train: samples of the split "train".
        num_test: samples of the split "test", drawn from the same distribution as "train".
        num_val: samples of the split "val", likewise; they choose the best epoch, so that "test" stays unseen.
        num_shift: samples of the split "shift": the same physics with `shift_holes` holes. The samples of a split do
            not change when another split grows.
        num_contact: samples of the split "contact": holes in pairs that nearly touch; the solid between them is drawn
            evenly in its logarithm, from what elements of the mesh still resolve (`contact_gap`) to the least
            `close_gap`.
        num_thin: samples of the split "thin": `thin_holes` holes so large that thin bridges, as wide as `close_gap`,
            are all that is left between them; `porosity` does not hold here (it comes to 0.5 to 0.65).
        num_nodes: mesh vertices aimed at, met within 15 %; one number, or (least, most) to draw from evenly.
        num_holes: (least, most) holes of a cell in "train", "val" and "test".
        shift_holes: (least, most) holes of a cell in "shift".
        thin_holes: (least, most) holes of a cell in "thin".
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
        geometry_nodes: `num_nodes` of another data set of the same seed: its holes and strains are drawn, meshed with
            `num_nodes` vertices (one number then): the same problem in other elements. None draws for `num_nodes`.
        log_nodes: draw nodes evenly in their logarithm: as many meshes from 2,000 to 4,000 as from 4,000 to 8,000.
        grading: (least, most) edge length at holes over that away from them, drawn evenly in its logarithm; 1 for edges
            that are the same everywhere.
        grading_reach: (least, most) distance from a hole over which edges grow, in cell sides, drawn likewise.
        fine_spots: (least, most) places, drawn anywhere in the cell, around which edges are shorter besides; how much
            and how far is drawn as it is for holes.

    Raises:
        ConfigError: a value is out of range, or holes of the least porosity do not fit into the cell.

    Good values: the defaults; `num_nodes=5_000` for smooth stress around thin ligaments, `(1_000, 4_000)` to train over
    mesh sizes; `porosity` up to 0.4 with up to 12 holes; `min_gap` 0.01 or more at 1,000 nodes. `grading` of (0.15, 1),
    `grading_reach` of (0.03, 0.4) and `fine_spots` of (0, 3) for a model that is to read meshes from elsewhere: where
    all meshes are graded alike, their elements tell where stress is high, and on others that is wrong.
    """

    splits = SPLITS
    added = frozenset({
        "num_contact", "num_thin", "thin_holes", "geometry_nodes", "log_nodes", "grading", "grading_reach",
        "fine_spots",
    })  # fmt: skip

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
    num_contact: int = 0
    num_thin: int = 0
    thin_holes: tuple[int, int] = (8, 14)
    geometry_nodes: int | tuple[int, int] | None = None
    log_nodes: bool = False
    grading: tuple[float, float] = (0.5, 0.5)
    grading_reach: tuple[float, float] = (0.1, 0.1)
    fine_spots: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_geometry()
        self._check_physics()

    @property
    def contact_gap(self) -> tuple[float, float]:
        """(least, most) solid between two holes of a pair in "contact": two or three elements are the least."""
        most = self.close_gap[0]
        return min(max(0.25 * element_width(self.node_range[0]), 1.5e-3), most), most

    def holes_of(self, split: str) -> tuple[int, int]:
        """(least, most) holes of a cell of `split`."""
        least, most = {"shift": self.shift_holes, "thin": self.thin_holes}.get(split, self.num_holes)
        return (max(2, least), most) if split == "contact" else (least, most)

    def draw_grading(self, rng: np.random.Generator) -> tuple[float, float]:
        """Of a mesh: edge length at holes over that away from them, and the distance over which edges grow."""
        ranges = self.grading, self.grading_reach
        # Nothing is drawn where there is nothing to choose, so that samples stay what they were before there was.
        drawn = [least if least == most else least * (most / least) ** rng.random() for least, most in ranges]
        return drawn[0], drawn[1]

    def _check_geometry(self) -> None:
        check_range("num_holes", self.num_holes, 1, 64, integer=True)
        check_range("shift_holes", self.shift_holes, 1, 64, integer=True)
        check_range("thin_holes", self.thin_holes, 4, 36, integer=True)
        if self.num_contact and self.num_holes[1] < 2:
            raise ConfigError(f"`num_holes` {self.num_holes} allows no pair for `num_contact`: allow 2 holes or more")
        check_range("porosity", self.porosity, 0.005, 0.5)
        if not self.shapes or len(set(self.shapes)) != len(self.shapes) or not set(self.shapes) <= set(SHAPES):
            raise ConfigError(f"`shapes` must be some of {SHAPES}, each once, got {self.shapes!r}")
        check_number("max_aspect", self.max_aspect, 1.2, 6.0)
        check_number("min_gap", self.min_gap, 0.004, 0.2)
        check_number("close_pair_probability", self.close_pair_probability, 0.0, 1.0)
        check_number("crossing_probability", self.crossing_probability, 0.0, 1.0)
        check_range("close_gap", self.close_gap, self.min_gap, 0.2, low_name="`min_gap`")
        check_range("grading", self.grading, 0.1, 1.0)
        check_range("grading_reach", self.grading_reach, 0.02, 0.5)
        check_range("fine_spots", self.fine_spots, 0, 16, integer=True)
        per_side = math.ceil(math.sqrt(self.thin_holes[1]))
        if self.num_thin and self.close_gap[1] > 0.25 / per_side:
            raise ConfigError(
                f"{self.thin_holes[1]} holes (`thin_holes`) with bridges of `close_gap` {self.close_gap} between them "
                f"are hardly holes: lower their number, or `close_gap` to {0.25 / per_side:.3f}"
            )
        used = [self.num_holes] if self.num_train + self.num_test + self.num_val + self.num_contact else []
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
        check_number("youngs_modulus", self.youngs_modulus, 1e-30, 1e30)
        check_number("strain_amplitude", self.strain_amplitude, 1e-12, 1.0)
        # Plane strain locks at 1/2; P2 elements stay accurate up to about 0.49.
        check_number("poisson_ratio", self.poisson_ratio, -0.9, 0.49)
