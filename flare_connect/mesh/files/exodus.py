"""Exodus files: element blocks, node sets and side sets, and fields at one of many times.

They are netCDF files, of the old kind (read by SciPy) or inside HDF5 (read by h5py). Reading them here keeps side sets
as facets, and a damaged file cannot end the program.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import assemble
from flare_connect.mesh.files.failed import NO_CELLS, CutShortError, FailedError
from flare_connect.mesh.files.hdf5 import dataset_array
from flare_connect.mesh.files.sides import facet_set, facets_of, free_name
from flare_connect.mesh.mesh import Mesh, NamedSet

# start of the element's name: kinds by number of nodes
_KINDS: dict[str, dict[int, str]] = {
    "TRI": {3: "triangle", 6: "triangle6"},
    "QUA": {4: "quad", 8: "quad8", 9: "quad9"},
    "SHE": {3: "triangle", 4: "quad", 6: "triangle6", 8: "quad8", 9: "quad9"},
    "TET": {4: "tetra", 10: "tetra10"},
    "HEX": {8: "hexahedron", 20: "hexahedron20", 27: "hexahedron27"},
    "WED": {6: "wedge", 15: "wedge15"},
    "PYR": {5: "pyramid", 13: "pyramid13"},
    "BAR": {2: "line", 3: "line3"},
    "BEA": {2: "line", 3: "line3"},
    "TRU": {2: "line", 3: "line3"},
    "EDG": {2: "line", 3: "line3"},
    "SPH": {1: "vertex"},
    "CIR": {1: "vertex"},
    "POI": {1: "vertex"},
}
# the order of our nodes in Exodus, which counts vertical edges before those of the top, and the body before its faces
_ORDER = {
    "hexahedron20": [*range(12), 16, 17, 18, 19, 12, 13, 14, 15],
    "hexahedron27": [*range(12), 16, 17, 18, 19, 12, 13, 14, 15, 23, 24, 25, 26, 21, 22, 20],
    "wedge15": [*range(9), 12, 13, 14, 9, 10, 11],
}
# corners of side 1, 2 … of each corner kind, counted from 0 (Exodus II: A Finite Element Data Model, table of sides)
SIDES: dict[str, tuple[tuple[int, ...], ...]] = {
    "triangle": ((0, 1), (1, 2), (2, 0)),
    "quad": ((0, 1), (1, 2), (2, 3), (3, 0)),
    "tetra": ((0, 1, 3), (1, 2, 3), (0, 2, 3), (0, 1, 2)),
    "hexahedron": ((0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (0, 4, 7, 3), (0, 3, 2, 1), (4, 5, 6, 7)),
    "wedge": ((0, 1, 4, 3), (1, 2, 5, 4), (0, 3, 5, 2), (0, 2, 1), (3, 4, 5)),
    "pyramid": ((0, 1, 4), (1, 2, 4), (2, 3, 4), (0, 4, 3), (0, 3, 2, 1)),
}


def read_exodus(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads the mesh and the fields of one time step; `x`, `y`, `z` components become one field.

    Raises:
        FailedError: the file is no Exodus file, or has elements that are not known here.
        MeshError: its arrays do not make a mesh.
    """
    with _variables(path) as file:
        return _Exodus(file, step).mesh(allow_nonfinite)


class _Exodus:
    def __init__(self, file: Any, step: int):
        self.file = file
        self.times = self._get("time_whole", np.zeros(0)).reshape(-1).astype(float).tolist()
        if self.times and not -len(self.times) <= step < len(self.times):
            raise FailedError(f"there is no step {step}; the file has {len(self.times)}")
        self.step = step
        self.blocks: list[tuple[str, np.ndarray, np.ndarray, bool]] = []  # kind, nodes, numbers of elements, shell
        axes = [self._get(f"coord{axis}") for axis in "xyz"]
        together = self._get("coord")
        points = [axis for axis in axes if axis is not None] if together is None else list(together)
        self.points = np.stack([np.asarray(axis, dtype=float).reshape(-1) for axis in points], axis=1)
        self.names = self._strings("eb_names")

    def mesh(self, allow_nonfinite: bool) -> Mesh:
        count = 0
        ids = self._get("eb_prop1", np.arange(1, 10**4)).reshape(-1)
        numbers = [n for n in range(1, len(ids) + 1) if f"connect{n}" in self.file]
        titles = []
        for number in numbers:
            nodes, name = self.file[f"connect{number}"], self._type(number)
            nodes = np.asarray(nodes).astype(np.int64) - 1
            if nodes.ndim != 2:
                raise FailedError(f"connect{number} has shape {list(nodes.shape)}")
            kind = _KINDS.get(name[:3], {}).get(nodes.shape[1])
            if kind is None:
                raise FailedError(f"elements {name!r} of {nodes.shape[1]} nodes are not known")
            if kind in _ORDER:
                nodes = nodes[:, _ORDER[kind]]
            flat = CELL_KINDS[kind].dim == 2 and (name.startswith("SHE") or self.points.shape[1] == 3)
            self.blocks.append((kind, nodes, np.arange(count, count + len(nodes)), flat))
            titles.append(self._title(self.names, number, f"block_{ids[number - 1]}"))
            count += len(nodes)
        if not count:
            raise FailedError(NO_CELLS)
        kinds = dict.fromkeys(kind for kind, *_ in self.blocks)
        cells = {kind: np.concatenate([b[1] for b in self.blocks if b[0] == kind]) for kind in kinds}
        order = np.concatenate([numbers for kind in kinds for k, _, numbers, _ in self.blocks if k == kind])
        self.row = np.empty(count, dtype=np.int64)  # element of the file → cell of the mesh
        self.row[order] = np.arange(count)
        sets = {
            title: NamedSet("cell", torch.from_numpy(np.sort(self.row[block[2]])))
            for title, block in zip(titles, self.blocks, strict=True)
        }
        self._node_sets(sets)
        self._side_sets(sets)
        mesh = assemble(
            self.points,
            cells,
            self._point_data(),
            self._cell_data(numbers, list(kinds)),
            sets=sets,
            global_data=self._global_data(),
            allow_nonfinite=allow_nonfinite,
        )
        mesh.time_steps = self.times
        return mesh

    def _get(self, name: str, default: Any = None) -> Any:
        return np.asarray(self.file[name]) if name in self.file else default

    def _strings(self, name: str) -> list[str]:
        rows = self._get(name)
        if rows is None or rows.ndim != 2:
            return []
        return [b"".join(bytes(c) for c in row).split(b"\0")[0].decode("latin-1").strip() for row in rows]

    def _type(self, number: int) -> str:
        name = self.file.attribute(f"connect{number}", "elem_type")
        return (name.decode("latin-1") if isinstance(name, bytes) else str(name)).upper().strip("\0 ")

    @staticmethod
    def _title(names: list[str], number: int, otherwise: str) -> str:
        return (names[number - 1] if number <= len(names) else "") or otherwise

    def _node_sets(self, sets: dict[str, NamedSet]) -> None:
        names, ids = self._strings("ns_names"), self._get("ns_prop1", np.zeros(0)).reshape(-1)
        for number, value in enumerate(ids.tolist(), start=1):
            nodes = self._get(f"node_ns{number}")
            if nodes is not None:
                found = torch.from_numpy(np.sort(nodes.reshape(-1).astype(np.int64) - 1))
                sets[free_name(self._title(names, number, f"nodeset_{value}"), "nodes", sets)] = NamedSet("node", found)

    def _side_sets(self, sets: dict[str, NamedSet]) -> None:
        names, ids = self._strings("ss_names"), self._get("ss_prop1", np.zeros(0)).reshape(-1)
        for number, value in enumerate(ids.tolist(), start=1):
            elements, sides = self._get(f"elem_ss{number}"), self._get(f"side_ss{number}")
            if elements is None or sides is None or len(elements) != len(sides):
                continue
            facets: list[np.ndarray] = []
            for kind, nodes, numbers, flat in self.blocks:
                inside = np.isin(elements - 1, numbers)
                rows, side = elements[inside] - 1 - numbers[0] if len(numbers) else elements[:0], sides[inside]
                for which in np.unique(side).tolist():
                    facets += facets_of(kind, nodes[rows[side == which]], _corners(kind, which, flat))
            named = facet_set(facets)
            if named is not None:
                sets[free_name(self._title(names, number, f"sideset_{value}"), "surface", sets)] = named

    def _point_data(self) -> dict[str, np.ndarray]:
        names, out = self._strings("name_nod_var"), {}
        together = self._get("vals_nod_var")
        for i, name in enumerate(names):
            values = self._get(f"vals_nod_var{i + 1}") if together is None else together[:, i]
            if values is not None and len(values):
                out[name] = values[self.step]
        return _vectors(out)

    def _cell_data(self, numbers: list[int], kinds: list[str]) -> dict[str, dict[str, np.ndarray]]:
        out: dict[str, dict[str, np.ndarray]] = {}
        for i, name in enumerate(self._strings("name_elem_var")):
            of_kind: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
            for number, block in zip(numbers, self.blocks, strict=True):
                values = self._get(f"vals_elem_var{i + 1}eb{number}", np.zeros(0))
                of_kind[block[0]] += [values[self.step]] if len(values) else []
            for kind, parts in of_kind.items():
                if len(parts) == sum(block[0] == kind for block in self.blocks):
                    out.setdefault(kind, {})[name] = np.concatenate(parts)
                elif parts:
                    warnings.warn(f"cell field {name!r} left out on {kind!r}: not all blocks have it", stacklevel=6)
        fields: dict[str, dict[str, np.ndarray]] = {}
        for kind, values in out.items():
            for name, array in _vectors(values).items():
                fields.setdefault(name, {})[kind] = array
        return fields

    def _global_data(self) -> dict[str, np.ndarray]:
        values = self._get("vals_glo_var")
        if values is None or not len(values):
            return {}
        return dict(zip(self._strings("name_glo_var"), values[self.step].reshape(-1, 1), strict=False))


def _corners(kind: str, side: int, flat: bool) -> tuple[int, ...]:
    """Corners of a side; a shell has its two faces before its edges."""
    corners = SIDES.get(CELL_KINDS[kind].corners, ())
    if flat:
        if side in (1, 2):
            return tuple(range(CELL_KINDS[kind].num_corners))
        side -= 2
    if not 1 <= side <= len(corners):
        raise FailedError(f"a side set names side {side} of a {kind}")
    return corners[side - 1]


def _vectors(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`ux`, `uy`, `uz` (or with `_` before the axis, or two of them in the plane) become one field."""
    out: dict[str, np.ndarray] = {}
    for name, values in fields.items():
        stem = re.fullmatch(r"(.+?)(_?)([xXyYzZ])", name)
        if stem is None:
            out[name] = values
            continue
        upper = stem[3].isupper()
        parts = [f"{stem[1]}{stem[2]}{axis.upper() if upper else axis}" for axis in "xyz"]
        there = [part for part in parts if part in fields]
        if len(there) < 2 or parts[:2] != there[:2] or stem[1] in fields:
            out[name] = values
        elif name == there[0]:
            out[stem[1]] = np.stack([fields[part] for part in there], axis=1)
    return out


class _Variables:
    """The variables of a netCDF file by name, whichever library reads it."""

    def __init__(self, variables: Any, hdf5: bool):
        self.variables, self.hdf5 = variables, hdf5

    def __contains__(self, name: str) -> bool:
        return name in self.variables

    def __getitem__(self, name: str) -> np.ndarray:
        if self.hdf5:
            return dataset_array(self.variables[name])
        # a copy: what SciPy gives may lie in the file, which is about to be closed
        values = np.array(self.variables[name][...])
        return values.astype(values.dtype.newbyteorder("="))

    def attribute(self, name: str, attribute: str) -> Any:
        if self.hdf5:
            value = self.variables[name].attrs.get(attribute, b"")
            return value[0] if isinstance(value, np.ndarray) and value.size else value
        return getattr(self.variables[name], attribute, b"")


@contextmanager
def _variables(path: Path) -> Iterator[_Variables]:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:3] == b"CDF":
        from scipy.io import netcdf_file

        try:
            data = netcdf_file(str(path), mmap=False)
        except ValueError as error:  # an array is shorter than its shape says
            raise CutShortError(f"ends before its arrays do ({error})") from error
        with data:
            yield _Variables(data.variables, False)
    elif magic == b"\x89HDF":
        import h5py

        with h5py.File(path, "r") as data:
            yield _Variables(data, True)
    else:
        raise FailedError("is no netCDF file")
