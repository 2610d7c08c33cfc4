"""The data sets of the study: what is generated, what a model reads and predicts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StudySet:
    """One data set.

    Attributes:
        name: in tables.
        output: the point field to predict.
        measured: the scalar point field that errors are of: the output itself, or von Mises stress of a stress.
        conditions: per-mesh numbers that models read.
        directional: those of them that act along normals.
        inputs: point fields that models read.
        boundary: what the named sets are.
        splits: split of the file → its name in tables.
        counts: samples of each split, whole and quick.
        nodes: of each mesh, or the least and the most: differences along the mesh have to be seen at several sizes.
        options: further settings of the generator.
        kind: "slit_plates" or "unit_cells".
        harmonic: what the harmonic inputs are of.
        loads: what the output is linear in.
        models: who takes part; empty for all.
    """

    name: str
    output: str
    measured: str
    conditions: tuple[str, ...]
    directional: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    boundary: dict[str, str]
    splits: dict[str, str]
    counts: dict[str, int]
    nodes: int | tuple[int, int] = 5_000
    options: dict[str, Any]
    kind: str
    harmonic: str
    loads: tuple[str, ...]
    models: tuple[str, ...] = ()

    def scalar(self, output: Any) -> Any:
        """What errors are of, from an output `[N, width]`."""
        from flare_connect.metrics import von_mises

        if self.output == self.measured:
            return output[:, 0]
        return von_mises(output, poisson_ratio=self.config(quick=False).poisson_ratio)

    def config(self, quick: bool) -> Any:
        """Settings of the generator."""
        from flare_datasets.slit_plates import SlitPlateConfig
        from flare_datasets.unit_cells import UnitCellConfig

        cls = SlitPlateConfig if self.kind == "slit_plates" else UnitCellConfig
        counts = self.counts
        if quick:
            counts = {name: 8 if name == "num_train" else 1 for name in counts}
        # Coarse elements are wide, and openings are counted in them.
        narrow = {"opening": (0.25, 1.0)} if quick and self.kind == "slit_plates" else {}
        return cls(num_nodes=800 if quick else self.nodes, **counts, **(self.options | narrow))

    def sizes(self) -> str:
        """How many nodes a mesh has, in words."""
        least, most = (self.nodes, self.nodes) if isinstance(self.nodes, int) else self.nodes
        return f"{most:,} nodes" if least == most else f"{least:,} to {most:,} nodes"

    def generate(self, folder: Path, quick: bool, num_workers: int | None) -> Path:
        """Make the file, or take it as it is."""
        from flare_datasets import slit_plates, unit_cells

        module = slit_plates if self.kind == "slit_plates" else unit_cells
        path = folder / f"{self.name}{'_quick' if quick else ''}.h5"
        return module.generate(path, self.config(quick), num_workers=num_workers)


_PLATES = {"num_train": 2_000, "num_val": 50, "num_test": 100} | {
    f"num_{name}": 50 for name in ("more", "serpentine", "comb", "spiral")
}
_PLATE_SPLITS = {"test": "id", "more": "more slits", "serpentine": "serpentine", "comb": "comb", "spiral": "spiral"}

SETS = {
    s.name: s
    for s in (
        StudySet(
            name="plates", kind="slit_plates", output="stress", measured="von_mises",
            conditions=("traction",), directional=("traction",), nodes=(2_500, 7_500),
            boundary={"left": "fixed", "right": "traction:traction", "*": "free"}, harmonic="boundary",
            loads=("traction",), splits=_PLATE_SPLITS, counts=_PLATES,
            options={"physics": "elasticity", "serpentine_slits": (2, 3), "long_slit": (0.45, 0.6),
                     "opening": (0.25, 2.25)},
        ),
        StudySet(
            name="heat", kind="slit_plates", output="temperature", measured="temperature",
            conditions=("temperatures",), inputs=("source",),
            boundary={"left": "value:temperatures[0]", "right": "value:temperatures[1]", "*": "free"},
            harmonic="boundary", loads=("temperatures", "source"),
            splits=_PLATE_SPLITS, counts=_PLATES, nodes=(2_500, 7_500),
            options={"physics": "heat", "opening": (0.25, 2.25)},
        ),
        StudySet(
            name="cells", kind="unit_cells", output="stress", measured="von_mises", conditions=("macro_strain",),
            directional=("macro_strain",), boundary={"holes": "free"}, harmonic="macro_strain", options={},
            nodes=(2_000, 8_000),
            loads=("macro_strain",),
            splits={"test": "id", "shift": "more holes", "contact": "near contact", "thin": "thin bridges"},
            counts={"num_train": 2_000, "num_val": 50, "num_test": 100, "num_shift": 100, "num_contact": 50,
                    "num_thin": 50},
        ),
        StudySet(
            name="wide", kind="unit_cells", output="stress", measured="von_mises", conditions=("macro_strain",),
            directional=("macro_strain",), boundary={"holes": "free"}, harmonic="macro_strain",
            options={"log_nodes": True}, nodes=(1_500, 40_000), loads=("macro_strain",), splits={"test": "id"},
            counts={"num_train": 1_500, "num_val": 50, "num_test": 50, "num_shift": 0},
            models=("ours", "no differences", "FLARE"),
        ),
        # Elsewhere edges are half as long at holes as away from them, which tells a model where holes are.
        StudySet(
            name="graded", kind="unit_cells", output="stress", measured="von_mises", conditions=("macro_strain",),
            directional=("macro_strain",), boundary={"holes": "free"}, harmonic="macro_strain",
            options={"log_nodes": True, "grading": (0.12, 1.0), "grading_reach": (0.03, 0.4), "fine_spots": (0, 3)},
            nodes=(1_000, 40_000),
            loads=("macro_strain",), splits={"test": "id"},
            counts={"num_train": 2_000, "num_val": 50, "num_test": 50, "num_shift": 0},
            models=("ours", "no differences", "FLARE", "geoflare"),
        ),
    )
}  # fmt: skip
