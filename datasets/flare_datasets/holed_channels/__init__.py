"""Flow through channels with holes in it, over time: velocity, and a temperature that it carries.

```python
from flare_datasets.holed_channels import HoledChannelConfig, generate

if __name__ == "__main__":  # workers import this file again
    generate("channels.h5", HoledChannelConfig(num_train=120))
```

Generation needs gmsh and scikit-fem (`pip install 'flare-connect[generate]'`); reading the file needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flare_datasets.holed_channels.config import HoledChannelConfig

if TYPE_CHECKING:
    from flare_datasets.holed_channels.flow import Flow, FlowSolver
    from flare_datasets.holed_channels.generation import GENERATOR_VERSION, generate
    from flare_datasets.holed_channels.geometry import Hole
    from flare_datasets.holed_channels.layouts import draw_holes
    from flare_datasets.holed_channels.meshing import ChannelMesh, mesh_channel
    from flare_datasets.holed_channels.sample import generate_sample

__all__ = [
    "HoledChannelConfig",
    "generate",
    "generate_sample",
    "GENERATOR_VERSION",
    "Hole",
    "draw_holes",
    "ChannelMesh",
    "mesh_channel",
    "Flow",
    "FlowSolver",
]

_HOME = {
    "generate": "generation",
    "generate_sample": "sample",
    "GENERATOR_VERSION": "generation",
    "Hole": "geometry",
    "draw_holes": "layouts",
    "ChannelMesh": "meshing",
    "mesh_channel": "meshing",
    "Flow": "flow",
    "FlowSolver": "flow",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
