"""Square plates with thin slits, in steady heat flow or in plane strain: fields that jump between close points.

```python
from flare_datasets.slit_plates import SlitPlateConfig, generate

if __name__ == "__main__":  # workers import this file again
    generate("plates.h5", SlitPlateConfig(physics="heat", num_train=1_000))
```

Generation needs gmsh and scikit-fem (`pip install 'flare-connect[generate]'`); reading the file needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flare_datasets.slit_plates.config import SlitPlateConfig

if TYPE_CHECKING:
    from flare_datasets.slit_plates.elasticity import ElasticSolution, solve_elasticity
    from flare_datasets.slit_plates.generation import GENERATOR_VERSION, generate
    from flare_datasets.slit_plates.geometry import Slit
    from flare_datasets.slit_plates.heat import HeatSolution, solve_heat
    from flare_datasets.slit_plates.layouts import draw_slits
    from flare_datasets.slit_plates.meshing import PlateMesh, mesh_plate
    from flare_datasets.slit_plates.sample import generate_sample

__all__ = [
    "SlitPlateConfig",
    "generate",
    "generate_sample",
    "GENERATOR_VERSION",
    "Slit",
    "draw_slits",
    "PlateMesh",
    "mesh_plate",
    "HeatSolution",
    "solve_heat",
    "ElasticSolution",
    "solve_elasticity",
]

_HOME = {
    "generate": "generation",
    "generate_sample": "sample",
    "GENERATOR_VERSION": "generation",
    "Slit": "geometry",
    "draw_slits": "layouts",
    "PlateMesh": "meshing",
    "mesh_plate": "meshing",
    "HeatSolution": "heat",
    "solve_heat": "heat",
    "ElasticSolution": "elasticity",
    "solve_elasticity": "elasticity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
