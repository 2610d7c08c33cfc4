"""The grids of a file as meshes, which are PyG graphs: lines, quadrilaterals or hexahedra, closed where they repeat."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flare_connect.mesh import Mesh
from flare_datasets.pdebench.file import PDEBenchFile
from flare_datasets.pdebench.opening import open_pdebench
from flare_datasets.pdebench.tensors import number_in_split

_KINDS = {
    1: ("line", ((0,), (1,))),
    2: ("quad", ((0, 0), (1, 0), (1, 1), (0, 1))),
    3: (
        "hexahedron",
        ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class GridMesh:
    """A grid as a mesh, and how values go from one to the other.

    Where the domain repeats, the mesh has a layer of nodes more along each axis, one period after the first: the same
    material points, so the values are repeated there and `mesh.periodic_pairs` joins them. Published coordinates are
    cell centres, whose first and last points are neighbours and not the same point.

    Attributes:
        mesh: N nodes, without fields.
        shape: points of the grid along each axis.
        point_of_node: which point of the grid, in C order, each node is `[N]`.
        node_of_point: the node of each point of the grid, the first of those that repeat `[X·Y·Z]`.
    """

    mesh: Mesh
    shape: tuple[int, ...]
    point_of_node: Tensor
    node_of_point: Tensor

    def to_nodes(self, values: Tensor) -> Tensor:
        """Values on the grid `[X[, Y[, Z]], …]` at the nodes `[N, …]`."""
        return values.flatten(0, len(self.shape) - 1)[self.point_of_node]

    def to_grid(self, values: Tensor) -> Tensor:
        """Values at the nodes `[N, …]` on the grid `[X[, Y[, Z]], …]`."""
        return values[self.node_of_point].reshape(*self.shape, *values.shape[1:])


def grid_mesh(file: PDEBenchFile, *, periodic: bool | None = None) -> GridMesh:
    """The grid of a file as a mesh.

    Args:
        file: an open file; its strides count.
        periodic: whether opposite sides are joined; by default as the family is, and for compressible flow as the
            file's name says. One-dimensional grids lie on the x axis of a plane.

    Raises:
        MeshError: the coordinates make no mesh.
    """
    closed = file.periodic if periodic is None else periodic
    return mesh_of_axes(file.coordinates, period=file.period if closed else None)


def mesh_of_axes(coordinates: Sequence[np.ndarray], *, period: Sequence[float] | None = None) -> GridMesh:
    """A grid as a mesh.

    Args:
        coordinates: places along each axis `[X]`. One-dimensional grids lie on the x axis of a plane.
        period: length of the domain along each axis if it is repeated; None if it is not.

    Raises:
        MeshError: the coordinates make no mesh.
    """
    shape = tuple(len(x) for x in coordinates)
    axes = [x.astype(np.float64) for x in coordinates]
    if period is not None:
        axes = [np.append(x, float(x[0]) + length) for x, length in zip(axes, period, strict=True)]
    sizes = tuple(len(axis) for axis in axes)
    pos = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    if len(axes) == 1:
        pos = np.concatenate([pos, np.zeros_like(pos)], axis=1)
    nodes = np.arange(len(pos)).reshape(sizes)
    kind, corners = _KINDS[len(axes)]
    cells = np.stack(
        [nodes[tuple(slice(c, n - 1 + c) for c, n in zip(corner, sizes, strict=True))].ravel() for corner in corners],
        axis=1,
    )
    pairs = None
    if period is not None:
        pairs = np.concatenate(
            [np.stack([nodes.take(0, axis).ravel(), nodes.take(-1, axis).ravel()]) for axis in range(len(axes))],
            axis=1,
        )
    wrapped = np.ix_(*(np.arange(n) % size for n, size in zip(sizes, shape, strict=True)))
    points = np.arange(int(np.prod(shape))).reshape(shape)
    inner = tuple(slice(size) for size in shape)
    return GridMesh(
        mesh=Mesh.from_arrays(pos, {kind: cells}, periodic_pairs=pairs),
        shape=shape,
        point_of_node=torch.from_numpy(points[wrapped].ravel()),
        node_of_point=torch.from_numpy(nodes[inner].ravel()),
    )


class PDEBenchGraphs(Dataset[Mesh]):
    """A split of a PDEBench file as graphs: a `Mesh` a sample, read when it is asked for.

    PyG's `DataLoader` batches them, and `flare_connect.mesh.write_store` packs them into a prepared data set.
    Each channel is a point field `[N, T]`, what does not vary in time a point field `[N]`, the times `[T]` and the
    file's parameters are numbers of the mesh. All samples share one mesh, so its edges are found once.

    Args:
        file: an open file with its strides, or a path, which is read without any.
        split: "train", "test", or "val", which is the same as "test".
        periodic: see `grid_mesh`.

    Raises:
        ConfigError: there is no such split, or it is empty.
        StoreError: the file cannot be read.
    """

    def __init__(self, file: PDEBenchFile | str | Path, split: str, *, periodic: bool | None = None):
        self.file = file if isinstance(file, PDEBenchFile) else open_pdebench(file)
        self.indices = self.file.split(split)
        self.grid = grid_mesh(self.file, periodic=periodic)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Mesh]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Mesh:
        """Reads one sample; negative indices count from the end.

        Raises:
            StoreError: there is no such sample, or it is damaged or not finite.
        """
        i = number_in_split(self.indices, index)
        frames = self.grid.to_nodes(torch.from_numpy(self.file.read(i)))  # [N, T, V]
        static = self.grid.to_nodes(torch.from_numpy(self.file.static(i)))  # [N, W]
        self.grid.mesh.edge_index  # noqa: B018 - found once in each process, and kept by the copies
        mesh = copy.copy(self.grid.mesh)
        fields = {name: frames[..., v].contiguous() for v, name in enumerate(self.file.channels)}
        mesh.point_data = fields | {name: static[:, w].contiguous() for w, name in enumerate(self.file.static_channels)}
        numbers = {name: torch.tensor([value]) for name, value in self.file.parameters.items()}
        mesh.global_data = {"time": torch.from_numpy(self.file.times(i).copy()), **numbers}
        return mesh
