"""The mesh: positions, cells, fields, named sets, and what follows from them, computed once on demand."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.errors import MeshError
from flare_connect.mesh import connectivity, geometry, topology
from flare_connect.mesh.arrays import as_indices, as_tensor, map_tensors, numpy_of, to_torch
from flare_connect.mesh.checks import summary, validate

Entity = Literal["node", "facet", "cell"]


@dataclass(frozen=True, eq=False)
class NamedSet:
    """A named part of a mesh.

    Args:
        entity: what the ids count: nodes, facets or cells.
        ids: node ids `[K]`; facets as a table of nodes `[F, k]`; cells as indices into all kinds in dict order.
    """

    entity: Entity
    ids: Int[Tensor, "..."]

    def __repr__(self) -> str:  # as PyG shows tensors: of a thousand ids nobody reads one
        return f"NamedSet({self.entity}, ids={list(self.ids.shape)})"


class Mesh(Data):
    """A mesh with fields on it: a `torch_geometric.data.Data` that knows its cells.

    Build it with `Mesh.from_arrays`, `Mesh.from_pyvista`, `Mesh.from_meshio` or `load_mesh`. What is derived from the
    arrays (edges, boundary, components, volumes) is computed on first use and kept; assigning `pos`, `cells` or `sets`
    forgets it, changing one of these tensors in place does not. A PyG batch of meshes is again a mesh.

    Attributes:
        pos: node positions `[N, dim]`, float64, dim 2 or 3.
        cells: cell kind (meshio's name and node order) → node indices `[n, k]`.
        point_data: field name → values `[N]` or `[N, c]`; of a series `[N, T]` or `[N, T, c]`.
        cell_data: field name → cell kind → values `[n]` or `[n, c]`.
        global_data: name → numbers of the whole mesh `[c]` (`[B, c]` in a batch).
        sets: name → `NamedSet`.
        units: field name → unit.
    """

    cells: dict[str, Tensor]
    point_data: dict[str, Tensor]
    cell_data: dict[str, dict[str, Tensor]]
    global_data: dict[str, Tensor]
    sets: dict[str, NamedSet]
    units: dict[str, str]

    @classmethod
    def from_arrays(
        cls,
        pos: Any,
        cells: Mapping[str, Any],
        *,
        point_data: Mapping[str, Any] | None = None,
        cell_data: Mapping[str, Mapping[str, Any]] | None = None,
        global_data: Mapping[str, Any] | None = None,
        sets: Mapping[str, Any] | None = None,
        units: Mapping[str, str] | None = None,
        periodic_pairs: Any = None,
        allow_nonfinite: bool = False,
    ) -> "Mesh":
        """Builds a mesh from numpy arrays, tensors or nested lists, and checks it.

        Args:
            pos: node positions `[N, dim]`, dim 2 or 3.
            cells: cell kind → node indices `[n, k]`; kinds without cells are left out.
            point_data: field name → `[N]` or `[N, c]`; of a series `[N, T]` or `[N, T, c]`.
            cell_data: field name → cell kind → `[n]` or `[n, c]`.
            global_data: name → number or `[c]`.
            sets: name → `NamedSet`, or node ids `[K]`.
            units: field name → unit.
            periodic_pairs: pairs of matching nodes `[2, P]`.
            allow_nonfinite: accept NaN and infinite field values (never positions).

        Raises:
            MeshError: the arrays do not make a mesh; the message says which, where, and how to mend it.
        """
        blocks = {kind: as_indices(f"cells {kind!r}", nodes) for kind, nodes in cells.items()}
        used = {kind for kind, nodes in blocks.items() if nodes.numel()}
        mesh = cls(
            pos=as_tensor("positions", pos).to(torch.float64),
            cells={kind: nodes for kind, nodes in blocks.items() if kind in used},
            point_data={str(n): as_tensor(f"field {n!r}", v) for n, v in (point_data or {}).items()},
            cell_data={
                str(n): {
                    k: as_tensor(f"cell field {n!r} on {k!r}", v) for k, v in values.items() if k in used or len(v)
                }
                for n, values in (cell_data or {}).items()
            },
            global_data={str(n): as_tensor(f"global {n!r}", v).reshape(-1) for n, v in (global_data or {}).items()},
            sets={str(n): _named_set(str(n), v) for n, v in (sets or {}).items()},
            units={str(n): str(u) for n, u in (units or {}).items()},
        )
        if periodic_pairs is not None:
            mesh.periodic_pairs = as_indices("periodic_pairs", periodic_pairs)
        mesh.validate(allow_nonfinite=allow_nonfinite)
        return mesh

    @classmethod
    def from_pyvista(cls, grid: Any, *, allow_nonfinite: bool = False) -> "Mesh":
        """Builds a mesh from any PyVista or VTK data set (see `flare_connect.mesh.files.vtk.from_vtk.from_pyvista`)."""
        from flare_connect.mesh.files.vtk.from_vtk import from_pyvista

        return from_pyvista(grid, allow_nonfinite=allow_nonfinite)

    @classmethod
    def from_meshio(cls, m: Any, *, allow_nonfinite: bool = False) -> "Mesh":
        """Builds a mesh from a `meshio.Mesh` (see `flare_connect.mesh.files.via_meshio.from_meshio`)."""
        from flare_connect.mesh.files.via_meshio import from_meshio

        return from_meshio(m, allow_nonfinite=allow_nonfinite)

    def to_pyvista(self) -> Any:
        """Returns a `pyvista.UnstructuredGrid` with all fields; node sets become uint8 arrays `set:<name>`."""
        from flare_connect.mesh.files.vtk.to_vtk import to_pyvista

        return to_pyvista(self)

    def to_meshio(self) -> Any:
        """Returns a `meshio.Mesh` with all fields; node sets become arrays `set:<name>`."""
        from flare_connect.mesh.files.via_meshio import to_meshio

        return to_meshio(self)

    def save(self, path: str | Path) -> None:
        """Writes the mesh to a file whose extension picks the format; a failure leaves no half-written file.

        Raises:
            MeshError: the extension is not known, or the format cannot hold this mesh.
        """
        from flare_connect.mesh.files.save import save

        save(self, path)

    def validate(self, *, allow_nonfinite: bool = False) -> None:
        """Checks shapes, dtypes, indices and values.

        Raises:
            MeshError: names the array at fault, the first place, and the mend.
        """
        validate(self, allow_nonfinite)

    # Sets

    def set_nodes(self, name: str) -> Int[Tensor, " K"]:
        """Returns the sorted node ids of a set, whatever it is made of.

        Raises:
            MeshError: there is no such set; the message lists the sets there are.
        """
        if name not in self.sets:
            known = ", ".join(repr(n) for n in self.sets) or "none"
            raise MeshError(f"the mesh has no set {name!r}; its sets: {known}")
        named = self.sets[name]
        if isinstance(named, list):  # a PyG batch keeps the sets of its meshes side by side
            parts = [self.get_example(i).set_nodes(name) + self.ptr[i] for i in range(len(named))]
            return torch.cat(parts) if parts else self.pos.new_zeros(0, dtype=torch.long)
        if named.entity != "cell":
            return torch.unique(named.ids)
        nodes, start = [], 0
        for block in self.cells.values():
            local = named.ids[(named.ids >= start) & (named.ids < start + len(block))] - start
            nodes.append(block[local].reshape(-1))
            start += len(block)
        return torch.unique(torch.cat(nodes))

    # Derived

    @property
    def dim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.pos.shape[1])

    @property
    def num_cells(self) -> int:
        """Number of cells of all kinds."""
        return sum(len(nodes) for nodes in self.cells.values())

    @property
    def topological_dim(self) -> int:
        """Dimension of the highest-dimensional cells: 3 solid, 2 surface or planar, 1 lines, 0 points."""
        return connectivity.topological_dim(self.cells)

    @property
    def time_steps(self) -> list[float]:
        """Times that the file of this mesh holds, none if it is no series; `load_mesh(path, step=i)` reads the i-th.

        A property of the file: prepared data sets and batches do not keep it.
        """
        return self.__dict__.get("_time_steps", [])

    @time_steps.setter
    def time_steps(self, times: Sequence[float]) -> None:
        self.__dict__["_time_steps"] = [float(time) for time in times]

    @property
    def periodic_pairs(self) -> Int[Tensor, "2 P"] | None:
        """Pairs of matching nodes `[2, P]`, or None."""
        return self._store.get("periodic_pairs")

    @periodic_pairs.setter
    def periodic_pairs(self, pairs: Tensor | None) -> None:
        for derived in ("topology", "boundary_component"):
            self.__dict__.get("_cache", {}).pop(derived, None)
        if pairs is None:
            self._store.pop("periodic_pairs", None)
        else:
            self._store["periodic_pairs"] = pairs

    @property
    def edge_index(self) -> Int[Tensor, "2 E"]:
        """Edges of all cells `[2, E]`, both directions, unique, sorted by (source, target).

        Where an `edge_index` was stored on the mesh (`mesh.edge_index = ...`) that one is returned.
        """
        if "edge_index" in self._store:
            return self._store["edge_index"]
        return self._derived("edge_index", lambda m: m.edge_index)

    @edge_index.setter
    def edge_index(self, edges: Tensor) -> None:
        self._store["edge_index"] = edges

    @property
    def num_edges(self) -> int:
        """Number of directed edges, E."""
        return int(self.edge_index.shape[1])

    @property
    def boundary_facets(self) -> dict[str, Int[Tensor, "_ _"]]:
        """Facet kind → nodes `[F, k]`: facets that belong to exactly one cell, oriented outward."""
        return self._derived("boundary_facets", lambda m: m.boundary.nodes)

    @property
    def boundary_nodes(self) -> Int[Tensor, " Nb"]:
        """Sorted ids of the nodes on boundary facets `[Nb]`."""
        return self._derived("boundary_nodes", lambda m: m.boundary.node_ids())

    @property
    def boundary_normals(self) -> Float[Tensor, "Nb dim"]:
        """Unit outward normals at `boundary_nodes` `[Nb, dim]`, weighted by facet measure.

        On a surface in 3-D they lie in the surface. Zero where all facets at a node have measure zero.
        """
        return self._derived("boundary_normals", lambda m: geometry.boundary_normals(m.pos, m.cells, m.boundary))

    def normals_on(self, nodes: Int[Tensor, " K"]) -> Float[Tensor, "K dim"]:
        """Unit outward normals of one part of the boundary, at its own nodes `[K, dim]`.

        Only facets between these nodes count, so that where two parts meet (a hole and a side) each has its own
        normal. A node without such a facet has the normal of the whole boundary; an inner node has zero.
        """
        marked = np.zeros(self.num_nodes, dtype=bool)
        marked[nodes.numpy()] = True
        arrays = self._arrays()
        own = geometry.boundary_normals(arrays.pos, arrays.cells, arrays.boundary, marked)
        whole = self.boundary_normals.numpy()
        found = np.where(np.any(own != 0, axis=1, keepdims=True), own, whole)
        normals = np.zeros((self.num_nodes, self.dim))
        normals[self.boundary_nodes.numpy()] = found
        return torch.from_numpy(normals)[nodes]

    @property
    def component(self) -> Int[Tensor, " N"]:
        """Connected component of each node `[N]`, ids by size descending; -1 for nodes that no cell uses."""
        return self._derived("component", lambda m: connectivity.components(m.edge_index, m.cells, m.num_nodes))

    @property
    def num_components(self) -> int:
        """Number of connected components, orphan nodes left out."""
        return int(self.component.max()) + 1

    @property
    def boundary_component(self) -> Int[Tensor, " N"]:
        """Connected part of the boundary that each node is on `[N]`; -1 inside.

        0 is the part of largest extent (the outer skin), the others follow by extent: holes, cavities. Parts that
        periodic pairs join are one.
        """
        return self._derived(
            "boundary_component", lambda m: topology.boundary_component(m.boundary, m.pos, self._pairs())
        )

    @property
    def dual_edges(self) -> Int[Tensor, "2 D"]:
        """Pairs of highest-dimensional cells that share a facet, once each; cells numbered over all kinds in order."""
        return self._derived("dual_edges", lambda m: topology.dual_edges(m.cells, m.num_nodes))

    @property
    def topology(self) -> topology.Topology:
        """Betti numbers, Euler characteristic, genus, boundary parts; sides of a periodic planar mesh are glued."""
        cache = self.__dict__.setdefault("_cache", {})
        if "topology" not in cache:
            arrays = self._arrays()
            cache["topology"] = topology.topology(arrays.cells, arrays.num_nodes, self._pairs())
        return cache["topology"]

    def _pairs(self) -> np.ndarray | None:
        return None if self.periodic_pairs is None else self.periodic_pairs.cpu().numpy()

    @property
    def orphan_nodes(self) -> Int[Tensor, " K"]:
        """Sorted ids of the nodes that no cell uses."""
        return torch.nonzero(self.component < 0).reshape(-1)

    @property
    def node_volume(self) -> Float[Tensor, " N"]:
        """Lumped measure of each node `[N]` (length, area or volume in units of `pos`), float64, >= 0.

        Sums to the total measure of the highest-dimensional cells; orphan nodes have none.
        """
        return self._derived("node_volume", lambda m: geometry.node_volume(m.pos, m.cells))

    @property
    def total_measure(self) -> float:
        """Length, area or volume of the highest-dimensional cells."""
        return float(self.node_volume.sum())

    @property
    def length_scale(self) -> float:
        """Diagonal of the box around the nodes that a cell uses, in units of `pos`."""
        pos = self.pos[self.component >= 0]
        return float((pos.amax(0) - pos.amin(0)).norm())

    @property
    def boundary_distance(self) -> Float[Tensor, " N"]:
        """Straight-line distance to the nearest boundary *node* `[N]`; infinite where there is no boundary.

        Nearest node, not nearest point of a facet: up to half a facet too long close to the boundary.
        """
        return self._derived("boundary_distance", lambda m: geometry.distance_to(m.pos, m.boundary.node_ids()))

    def distance_to_set(self, name: str) -> Float[Tensor, " N"]:
        """Straight-line distance to the nearest node of a set `[N]`; infinite where the set is empty.

        Raises:
            MeshError: there is no such set.
        """
        nodes = self.set_nodes(name)
        return self._derived(f"distance_to_set:{name}", lambda m: geometry.distance_to(m.pos, nodes.cpu().numpy()))

    @property
    def cell_measure(self) -> dict[str, Float[Tensor, " _"]]:
        """Cell kind → measure of each cell `[n]`, >= 0 (length, area or volume by the kind's own dimension)."""
        return self._derived("cell_measure", lambda m: {k: np.abs(v) for k, v in m.signed_measure.items()})

    def cell_quality(self) -> dict[str, Float[Tensor, " _"]]:
        """Cell kind → shape quality of the corner cell `[n]` in [0, 1]; 1 ideal, 0 degenerate or inverted.

        Mean ratio for triangles and tetrahedra, smallest scaled Jacobian at a corner for the others.
        """
        return self._derived("cell_quality", lambda m: geometry.cell_quality(m.pos, m.cells))

    @property
    def num_inverted_cells(self) -> int:
        """Number of cells with negative or zero measure (sign counts where cell and space have one dimension)."""
        return geometry.num_inverted(self.pos.cpu().numpy(), numpy_of(self.cells), self._arrays().signed_measure)

    def summary(self) -> dict[str, Any]:
        """Describes the mesh in plain numbers and strings, as `flare-connect info` prints it."""
        return summary(self)

    def _arrays(self) -> "_Arrays":
        cache = self.__dict__.setdefault("_cache", {})
        if "arrays" not in cache:
            cache["arrays"] = _Arrays(self)
        return cache["arrays"]

    def _derived(self, key: str, compute: Callable[["_Arrays"], Any]) -> Any:
        cache = self.__dict__.setdefault("_cache", {})
        if key not in cache:
            cache[key] = to_torch(compute(self._arrays()), self.pos.device)
        return cache[key]

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ("pos", "cells", "sets", "periodic_pairs"):
            self.__dict__.pop("_cache", None)
        super().__setattr__(key, value)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __copy__(self) -> "Mesh":
        out = super().__copy__()
        out.__dict__["_cache"] = dict(self.__dict__.get("_cache", {}))
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_cache"}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mesh":
        bare = copy.copy(self)
        bare.__dict__.pop("_cache", None)
        return super(Mesh, bare).__deepcopy__(memo)

    def apply(self, func: Callable[[Tensor], Tensor], *args: str) -> "Mesh":
        """Applies `func` to all tensors (or those of the attributes named), sets included; PyG's `to` uses it."""
        super().apply(func, *args)
        if "sets" in self._store and (not args or "sets" in args):
            self._store["sets"] = {name: _apply_to_set(func, value) for name, value in self._store["sets"].items()}
        self.__dict__.pop("_cache", None)
        return self

    def to(self, device: Any, *args: str, non_blocking: bool = False) -> "Mesh":
        """Moves all tensors to a device, what has been derived included."""
        cache = self.__dict__.get("_cache", {})
        super().to(device, *args, non_blocking=non_blocking)
        if not args:
            self.__dict__["_cache"] = {
                key: value
                if key in ("arrays", "topology")
                else map_tensors(lambda t: t.to(device, non_blocking=non_blocking), value)
                for key, value in cache.items()
            }
        return self

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        owner = self._owner(value)
        if owner == "global_data":
            return None
        if owner is not None:
            return 0
        if key == "periodic_pairs":
            return 1
        return super().__cat_dim__(key, value, *args, **kwargs)

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        owner = self._owner(value)
        if owner is not None:
            return self.num_nodes if owner == "cells" else 0
        if key == "periodic_pairs":
            return self.num_nodes
        return super().__inc__(key, value, *args, **kwargs)

    def _owner(self, value: Any) -> str | None:
        """Names the container that holds this very tensor: PyG passes inner keys, and a field may be called 'face'."""
        for container in ("cells", "point_data", "global_data"):
            if any(value is held for held in self._store.get(container, {}).values()):
                return container
        for blocks in self._store.get("cell_data", {}).values():
            if any(value is held for held in blocks.values()):
                return "cell_data"
        return None


class _Arrays:
    """The numpy view that derived quantities share, so that no two of them compute the same thing."""

    def __init__(self, mesh: Mesh):
        self.pos: np.ndarray = mesh.pos.detach().cpu().numpy()
        self.cells: dict[str, np.ndarray] = numpy_of(mesh.cells)
        self.num_nodes: int = len(self.pos)
        self._cache: dict[str, Any] = {}

    @property
    def edge_index(self) -> np.ndarray:
        return self._once("edge_index", lambda: connectivity.edge_index(self.cells, self.num_nodes))

    @property
    def signed_measure(self) -> dict[str, np.ndarray]:
        return self._once("signed_measure", lambda: geometry.signed_measure(self.pos, self.cells))

    @property
    def boundary(self) -> connectivity.Boundary:
        return self._once("boundary", self._boundary)

    def _boundary(self) -> connectivity.Boundary:
        return connectivity.boundary(self.cells, self.num_nodes, geometry.orientation(self.pos, self.cells))

    def _once(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]


def _apply_to_set(func: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, list):
        return [_apply_to_set(func, item) for item in value]
    return NamedSet(value.entity, func(value.ids))


def _named_set(name: str, value: Any) -> NamedSet:
    if isinstance(value, NamedSet):
        return NamedSet(value.entity, as_indices(f"set {name!r}", value.ids))
    return NamedSet("node", as_indices(f"set {name!r}", value).reshape(-1))
