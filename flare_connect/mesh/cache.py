"""What was computed on a mesh, kept in files: named by the mesh's content, never stale, never half-written."""

import hashlib
import inspect
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.files import write_atomically
from flare_connect.mesh.anchoring import anchor_costs
from flare_connect.mesh.arrays import host
from flare_connect.mesh.diffusion import diffusion_cost
from flare_connect.mesh.distances import anchors, clusters, geodesic_cost, geodesic_distance
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.modes import laplacian_modes
from flare_connect.mesh.partitioning import partition
from flare_connect.mesh.periodic import find_periodic_pairs
from flare_connect.mesh.thinness import component_distances, local_thickness

# What may be kept, and the version of its algorithm: raise it when results change, and old files are not found again.
_VERSIONS: dict[Callable[..., Any], int] = {
    anchor_costs: 1,
    anchors: 1,
    clusters: 1,
    component_distances: 1,
    diffusion_cost: 1,
    find_periodic_pairs: 1,
    geodesic_cost: 1,
    geodesic_distance: 1,
    laplacian_modes: 1,
    local_thickness: 1,
    partition: 1,
}


class MeshCache:
    """A folder of results, one file for each function, mesh and arguments.

    ```python
    cache = MeshCache.beside("bracket.vtk")
    at, _ = cache(anchors, mesh, 64)
    cost = cache(diffusion_cost, mesh, at, scales=(1.0, 60.0))  # computed once, then read
    ```

    A result is found by what it was computed from: positions, cells and periodic pairs of the mesh, all arguments
    (defaults included, the device left out), the function and its version. Nothing else is looked at, so a file that
    was renamed, copied or changed cannot give an old result. Several processes may share a folder. A damaged file is
    computed again.

    Args:
        folder: made on first use; delete it whenever you like.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    def beside(cls, path: str | Path) -> "MeshCache":
        """The cache of a mesh file or a prepared data set: the folder of its name with `.cache` behind it."""
        path = Path(path)
        return cls(path.with_name(path.name + ".cache"))

    def __call__(self, function: Callable[..., Any], mesh: Mesh, *args: Any, **kwargs: Any) -> Any:
        """`function(mesh, *args, **kwargs)`, from the folder if it is there, else computed and put there.

        Returns:
            What the function returns, on the mesh's device.

        Raises:
            MeshError: the function is not one whose results can be kept; the message lists those.
        """
        path = self._path(function, mesh, args, kwargs)
        found = _read(path)
        if found is None:
            result = function(mesh, *args, **kwargs)
            found = [result] if isinstance(result, Tensor) else list(result)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _packed(found))
        tensors = tuple(tensor.to(mesh.pos.device) for tensor in found)
        return tensors if len(tensors) > 1 else tensors[0]

    def __contains__(self, call: tuple[Any, ...]) -> bool:
        """Whether `(function, mesh, *args)` is there and whole."""
        function, mesh, *args = call
        return _read(self._path(function, mesh, args, {})) is not None

    def clear(self) -> None:
        """Deletes all results."""
        for path in self.folder.glob("*.npz"):
            path.unlink(missing_ok=True)

    def _path(self, function: Callable[..., Any], mesh: Mesh, args: Sequence[Any], kwargs: dict[str, Any]) -> Path:
        if function not in _VERSIONS:
            known = ", ".join(known.__name__ for known in _VERSIONS)
            raise MeshError(
                f"results of {getattr(function, '__name__', function)!r} cannot be kept; those of {known} can"
            )
        bound = inspect.signature(function).bind(mesh, *args, **kwargs)
        bound.apply_defaults()
        given = {name: value for name, value in list(bound.arguments.items())[1:] if name != "device"}
        key = hashlib.sha256()
        _add(key, [function.__name__, _VERSIONS[function], given])
        _add(key, [mesh.pos, mesh.cells, mesh.periodic_pairs])
        return self.folder / f"{function.__name__}-{key.hexdigest()[:32]}.npz"


def _add(key: Any, value: Any) -> None:
    """Feeds a value to the hash; what follows cannot be mistaken for a part of it."""
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(host(value) if isinstance(value, Tensor) else value)
        key.update(f"array {array.dtype.str} {array.shape} ".encode())
        key.update(array.data)
    elif isinstance(value, dict):
        key.update(f"dict {len(value)} ".encode())
        for name, item in value.items():
            _add(key, name)
            _add(key, item)
    elif isinstance(value, list | tuple):
        key.update(f"list {len(value)} ".encode())
        for item in value:
            _add(key, item)
    else:
        text = json.dumps(value)
        key.update(f"{len(text)} {text} ".encode())


def _packed(tensors: Sequence[Tensor]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{f"a{i}": host(tensor) for i, tensor in enumerate(tensors)})
    return file.getvalue()


def _read(path: Path) -> list[Tensor] | None:
    """The tensors of a file; None where it is not there, or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [torch.from_numpy(arrays[f"a{i}"]) for i in range(len(arrays.files))]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
