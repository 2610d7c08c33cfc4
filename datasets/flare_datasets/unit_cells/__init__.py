"""Periodic 2-D unit cells with holes, under a macroscopic strain: stress that concentrates in thin ligaments.

```python
from flare_datasets.unit_cells import UnitCellConfig, generate

if __name__ == "__main__":  # workers import this file again
    generate("cells.h5", UnitCellConfig(num_train=1_000, num_nodes=2_000))
```

Generation needs gmsh and scikit-fem (`pip install 'flare-connect[generate]'`); reading the file needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flare_datasets.unit_cells.config import UnitCellConfig

if TYPE_CHECKING:
    from flare_datasets.unit_cells.elasticity import PeriodicElasticity, Solution, solve
    from flare_datasets.unit_cells.generation import GENERATOR_VERSION, generate
    from flare_datasets.unit_cells.geometry import Hole, draw_holes
    from flare_datasets.unit_cells.meshing import CellMesh, mesh_cell
    from flare_datasets.unit_cells.sample import generate_sample

__all__ = [
    "UnitCellConfig",
    "generate",
    "generate_sample",
    "GENERATOR_VERSION",
    "Hole",
    "draw_holes",
    "CellMesh",
    "mesh_cell",
    "PeriodicElasticity",
    "Solution",
    "solve",
]

_HOME = {
    "generate": "generation",
    "generate_sample": "sample",
    "GENERATOR_VERSION": "generation",
    "Hole": "geometry",
    "draw_holes": "geometry",
    "CellMesh": "meshing",
    "mesh_cell": "meshing",
    "PeriodicElasticity": "elasticity",
    "Solution": "elasticity",
    "solve": "elasticity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
