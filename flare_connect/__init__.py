"""flare_connect: surrogates of physics on real meshes.

Everything a user needs is listed in `__all__` and loads on first use, so that importing the package costs nothing and
a machine that only trains needs no PyVista, meshio or gmsh.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import FlareConnectError as FlareConnectError
    from .errors import InputError as InputError
    from .errors import MeshError as MeshError
    from .errors import MeshReadError as MeshReadError
    from .errors import StoreError as StoreError
    from .mesh import Mesh as Mesh
    from .mesh import MeshCache as MeshCache
    from .mesh import MeshStore as MeshStore
    from .mesh import NamedSet as NamedSet
    from .mesh import load_mesh as load_mesh
    from .mesh import prepare_meshes as prepare_meshes
    from .mesh import write_store as write_store
    from .metrics import evaluate_fields as evaluate_fields
    from .models import Architecture as Architecture
    from .models import Fixed as Fixed
    from .models import FlareConnect as FlareConnect
    from .models import FlareConnectConfig as FlareConnectConfig
    from .models import FlareRollout as FlareRollout
    from .models import Flux as Flux
    from .models import Free as Free
    from .models import RolloutConfig as RolloutConfig
    from .models import Traction as Traction
    from .models import Value as Value
    from .models import shipped_models as shipped_models
    from .train import DataConfig as DataConfig
    from .train import OptimiserConfig as OptimiserConfig
    from .train import RolloutTrainConfig as RolloutTrainConfig
    from .train import SeriesConfig as SeriesConfig
    from .train import TrainConfig as TrainConfig
    from .train import UnrollConfig as UnrollConfig
    from .train import evaluate as evaluate
    from .train import fit as fit
    from .viz import plot_curves as plot_curves
    from .viz import plot_field as plot_field
    from .viz import plot_mesh as plot_mesh
    from .viz import plot_spectra as plot_spectra
    from .viz import plot_topology as plot_topology
    from .viz import plot_worst as plot_worst
    from .viz import save_fields as save_fields
    from .viz import save_movie as save_movie
    from .viz import save_series as save_series

__version__ = "0.1.0"

_HOME = {
    "errors": (
        "CheckpointError",
        "ConfigError",
        "FlareConnectError",
        "InputError",
        "MeshError",
        "MeshReadError",
        "StoreError",
    ),
    "mesh": ("Mesh", "MeshCache", "MeshStore", "NamedSet", "load_mesh", "prepare_meshes", "write_store"),
    "metrics": ("evaluate_fields",),
    "models": (
        "Architecture",
        "Fixed",
        "FlareConnect",
        "FlareConnectConfig",
        "FlareRollout",
        "Flux",
        "Free",
        "RolloutConfig",
        "Traction",
        "Value",
        "shipped_models",
    ),
    "train": (
        "DataConfig",
        "OptimiserConfig",
        "RolloutTrainConfig",
        "SeriesConfig",
        "TrainConfig",
        "UnrollConfig",
        "evaluate",
        "fit",
    ),
    "viz": (
        "plot_curves",
        "plot_field",
        "plot_mesh",
        "plot_spectra",
        "plot_topology",
        "plot_worst",
        "save_fields",
        "save_movie",
        "save_series",
    ),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
__all__ += ["__version__"]
