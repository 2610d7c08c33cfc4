"""Writing Gmsh files: msh 4.1, binary."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.arrays import host
from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import SET_PREFIX, as_array, points3d
from flare_connect.mesh.files.gmsh.types import GMSH_ORDER, GMSH_TYPES
from flare_connect.mesh.mesh import Mesh

_TYPES = {kind: number for number, kind in GMSH_TYPES.items()}
_MAX_NAME = 200  # Gmsh reads names into 255 bytes, quotes and numbers before them included


def write_gmsh(mesh: Mesh, path: Path) -> list[str]:
    """Writes a mesh: cells, fields, sets, periodic nodes.

    Sets of cells become physical groups under their names, those of nodes and facets a field `set:<name>` on the nodes,
    1 in the set and 0 elsewhere, out of which `read_gmsh` makes a node set. Fields are of 1, 3 or 9 components: pairs
    are padded with 0, other widths are written as one field `<name>_<i>` for each component. Numbers are float64.

    Args:
        mesh: the mesh.
        path: the file, which is written over.

    Returns:
        What the file cannot hold, in words: "units", "global 'load'", "field 'x'", "set 'y'".

    Raises:
        MeshError: Gmsh has no such cells; the message names them.
    """
    unknown = [kind for kind in mesh.cells if kind not in _TYPES]
    if unknown:
        raise MeshError(f"Gmsh files cannot hold cells of kind {', '.join(unknown)}; write a .vtu file")
    lost = ["units"] * bool(mesh.units) + [f"global {name!r}" for name in mesh.global_data]
    lost += [f"set {name!r}" for name in mesh.sets if not _is_line(name)]
    with path.open("wb") as file:
        file.write(b"$MeshFormat\n4.1 1 8\n" + _ints(1) + b"\n$EndMeshFormat\n")
        _Parts(mesh).write(file)
        if mesh.periodic_pairs is not None:
            _write_periodic(file, as_array(mesh.periodic_pairs))
        taken: set[str] = set()
        for name, values in mesh.point_data.items():
            lost += _write_field(file, "NodeData", name, [(0, as_array(values))], taken)
        for name, named in mesh.sets.items():
            if named.entity != "cell" and _is_line(name):
                mark = np.zeros(mesh.num_nodes)
                mark[as_array(mesh.set_nodes(name))] = 1
                lost += _write_field(file, "NodeData", SET_PREFIX + name, [(0, mark)], taken)
        starts = dict(zip(mesh.cells, np.cumsum([0, *map(len, mesh.cells.values())]).tolist(), strict=False))
        taken = set()
        for name, blocks in mesh.cell_data.items():
            parts = [(starts[kind], as_array(values)) for kind, values in blocks.items()]
            lost += _write_field(file, "ElementData", name, parts, taken)
    return lost


class _Parts:
    """The mesh cut into entities, each the cells of one dimension that are in the same sets."""

    def __init__(self, mesh: Mesh):
        self.mesh, self.points = mesh, points3d(mesh)
        self.groups = [name for name, named in mesh.sets.items() if named.entity == "cell" and _is_line(name)]
        self.dims = np.concatenate([np.full(len(nodes), CELL_KINDS[kind].dim) for kind, nodes in mesh.cells.items()])
        # the cells of a set are cut from the part they were in so far, and make a new part
        self.part = self.dims.astype(np.int64)
        self.of_part: dict[int, tuple[int, tuple[int, ...]]] = {dim: (dim, ()) for dim in range(4)}  # dimension, groups
        for group, name in enumerate(self.groups, start=1):
            ids = np.unique(as_array(mesh.sets[name].ids))
            old, which = np.unique(self.part[ids], return_inverse=True)
            new = len(self.of_part)
            for i, part in enumerate(old.tolist()):
                dim, groups = self.of_part[part]
                self.of_part[new + i] = dim, (*groups, group)
            self.part[ids] = new + which.reshape(-1)
        self.of_dim: list[list[int]] = [[] for _ in range(4)]
        for part in np.unique(self.part).tolist():
            self.of_dim[self.of_part[part][0]].append(part)
        # number of each entity; those of each dimension are counted from 1
        self.entity = {part: i for parts in self.of_dim for i, part in enumerate(parts, start=1)}

    def write(self, file: BinaryIO) -> None:
        self._names(file)
        self._entities(file)
        self._nodes(file)
        self._elements(file)

    def _names(self, file: BinaryIO) -> None:
        used = {(dim, group) for dim, parts in enumerate(self.of_dim) for p in parts for group in self.of_part[p][1]}
        empty = set(range(1, len(self.groups) + 1)) - {group for _, group in used}
        used |= {(int(self.dims.max()), group) for group in empty}
        if used:
            lines = [
                f'{dim} {group} "{self.groups[group - 1]}"\n' for dim, group in sorted(used, key=lambda key: key[::-1])
            ]
            file.write(f"$PhysicalNames\n{len(lines)}\n{''.join(lines)}$EndPhysicalNames\n".encode())

    def _entities(self, file: BinaryIO) -> None:
        low, high = self.points.min(0), self.points.max(0)
        # periodic nodes are those of two entities, of which Gmsh wants to know; these two have no cells
        sides = 2 * (self.mesh.periodic_pairs is not None)
        counts = [len(parts) for parts in self.of_dim]
        counts[1] += sides
        file.write(b"$Entities\n" + _sizes(*counts))
        for dim, parts in enumerate(self.of_dim):
            box = np.concatenate([low, high]) if dim else low
            entities = [(self.entity[part], self.of_part[part][1]) for part in parts]
            if dim == 1:
                entities += [(side, ()) for side in _SIDES[:sides]]
            for number, groups in entities:
                file.write(_ints(number) + box.astype("<f8").tobytes() + _sizes(len(groups)) + _ints(*groups))
                file.write(_sizes(0) if dim else b"")
        file.write(b"\n$EndEntities\n")

    def _nodes(self, file: BinaryIO) -> None:
        count, dim = len(self.points), int(self.dims.max())
        file.write(b"$Nodes\n" + _sizes(1, count, 1, count) + _ints(dim, 1, 0) + _sizes(count))
        file.write(np.arange(1, count + 1, dtype="<i8").tobytes() + self.points.astype("<f8").tobytes())
        file.write(b"\n$EndNodes\n")

    def _elements(self, file: BinaryIO) -> None:
        blocks = list(self._blocks())
        count = len(self.part)
        file.write(b"$Elements\n" + _sizes(len(blocks), count, 1, count))
        for kind, part, numbers, nodes in blocks:
            rows = np.concatenate([numbers[:, None], nodes], axis=1).astype("<i8", copy=False)
            file.write(_ints(CELL_KINDS[kind].dim, self.entity[part], _TYPES[kind]) + _sizes(len(rows)))
            file.write(rows.tobytes())
        file.write(b"\n$EndElements\n")

    def _blocks(self) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
        """Kind, part, numbers and nodes of elements, both counted from 1; numbers keep the order of the cells."""
        start = 0
        for kind, tensor in self.mesh.cells.items():
            nodes = host(tensor) + 1
            if kind in GMSH_ORDER:
                nodes = nodes[:, np.argsort(GMSH_ORDER[kind])]
            part = self.part[start : start + len(nodes)]
            order = np.argsort(part, kind="stable")
            values, first = np.unique(part[order], return_index=True)
            for value, rows in zip(values.tolist(), np.split(order, first[1:]), strict=True):
                yield kind, value, start + rows + 1, nodes[rows]
            start += len(nodes)


_SIDES = (2**30, 2**30 + 1)  # numbers of the entities of periodic nodes, which no part has


def _write_periodic(file: BinaryIO, pairs: np.ndarray) -> None:
    """Pairs `[2, P]`."""
    file.write(b"$Periodic\n" + _sizes(1) + _ints(1, *_SIDES) + _sizes(0, pairs.shape[1]))
    file.write((pairs.T + 1).astype("<i8").tobytes() + b"\n$EndPeriodic\n")


def _write_field(
    file: BinaryIO, section: str, name: str, parts: list[tuple[int, np.ndarray]], taken: set[str]
) -> list[str]:
    """Writes a field whose parts are values and the number of nodes or cells before them; names it if it cannot."""
    width = parts[0][1].shape[1] if parts[0][1].ndim == 2 else 1
    if not _is_line(name) or not width or any(values.ndim == 2 and values.shape[1] != width for _, values in parts):
        return [f"field {name!r}"]
    numbers = np.concatenate([np.arange(start, start + len(values)) for start, values in parts]) + 1
    table = np.concatenate([values.reshape(len(values), -1) for _, values in parts]).astype("<f8", copy=False)
    if width == 2:
        table = np.pad(table, ((0, 0), (0, 1)))
    columns = {name: table} if width in (1, 2, 3, 9) else {f"{name}_{i}": table[:, i : i + 1] for i in range(width)}
    for title, values in columns.items():
        while title in taken:
            title += "_"
        taken.add(title)
        rows = np.empty(len(values), dtype=[("number", "<i4"), ("values", "<f8", (values.shape[1],))])
        rows["number"], rows["values"] = numbers, values
        # its name; the time; number of the step, components, rows
        head = f'${section}\n1\n"{title}"\n1\n0.0\n3\n0\n{values.shape[1]}\n{len(values)}\n'
        file.write(head.encode() + rows.tobytes() + f"\n$End{section}\n".encode())
    return []


def _is_line(name: str) -> bool:
    """Whether Gmsh can read a name back: it is short, and on one line."""
    return len(name.encode()) <= _MAX_NAME and len(name.splitlines()) < 2 and not set(name) & {"\n", "\r", "\0"}


def _ints(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def _sizes(*values: int) -> bytes:
    return np.array(values, dtype="<i8").tobytes()
