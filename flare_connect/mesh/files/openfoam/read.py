"""OpenFOAM cases: the mesh of faces as cells, patches and zones as sets, and fields at one of many times."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from flare_connect.mesh.files.assemble import add_centres, assemble
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.openfoam.text import HEAD, WIDTHS, Foam, content, stored
from flare_connect.mesh.files.polyhedra import Loops, Pieces, cut_loops, cut_polygons, taken
from flare_connect.mesh.files.sides import facet_set, free_name
from flare_connect.mesh.mesh import Mesh, NamedSet


def read_openfoam(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads the mesh of a case and its fields at one time.

    Cells that are no tetrahedra, hexahedra, wedges or pyramids are cut around an added centre. A planar case is one
    layer of cells in OpenFOAM (its patches are of type `empty`) and stays so. Patches become facet sets (of nodes where
    triangles and quadrilaterals mix), zones sets of their kind. `vol…Field` becomes `cell_data`, `point…Field` becomes
    `point_data`; symmetric tensors come in VTK's order xx, yy, zz, xy, yz, xz. Fields on faces are left out. Units
    follow from `dimensions`, in SI.

    Args:
        path: folder of the case, or a `.foam` file in it.
        step: number of the time folder, by time.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        FailedError: the folder is no case, is still in parts, or a file of the mesh is damaged.
        MeshError: the arrays do not make a mesh.
    """
    return _Case(path if path.is_dir() else path.parent, step).mesh(allow_nonfinite)


_TIME = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?")
_BASE = ("kg", "m", "s", "K", "mol", "A", "cd")


class _Case:
    def __init__(self, folder: Path, step: int):
        self.folder = folder
        named = [(float(p.name), p) for p in folder.iterdir() if _TIME.fullmatch(p.name) and p.is_dir()]
        named = sorted((time, p) for time, p in named if any(_files(p)))
        self.times = [time for time, _ in named]
        if (self.times or step not in (-1, 0)) and not -len(named) <= step < len(named):
            raise FailedError(f"there is no step {step}; the case has {len(named)}")
        self.now = named[step][1] if named else None
        # what does not move or change stands in an older folder
        moved = sorted((float(p.name), p) for p in folder.iterdir() if _TIME.fullmatch(p.name) and p.is_dir())
        until = [p for time, p in moved if named and time <= named[step][0]]
        self.meshes = [p / "polyMesh" for p in (*reversed(until), folder / "constant")]
        if not any(stored(p, "faces") for p in self.meshes):
            if any(folder.glob("processor*")):
                raise FailedError("the case is still in parts (processor0 …); run reconstructPar")
            regions = sorted(p.parent.name for p in folder.glob("constant/*/polyMesh"))
            more = f"; it has regions {', '.join(regions)}, which are not read" if regions else ""
            raise FailedError(f"the folder has no constant/polyMesh/faces{more}")

    def mesh(self, allow_nonfinite: bool) -> Mesh:
        points = self._mesh_file("points").numbers("vector").astype(float)
        self.nodes, self.offset = self._mesh_file("faces").lists()
        num_faces = len(self.offset) - 1
        owner = self._mesh_file("owner").numbers("label", num_faces).astype(np.int64)
        neighbour = self._mesh_file("neighbour").numbers("label").astype(np.int64)
        used = np.flatnonzero(neighbour >= 0)  # old files fill up with -1
        neighbour = neighbour[: used[-1] + 1 if len(used) else 0]
        self._check(len(points), owner, neighbour)
        self.num_cells = int(max(owner.max(initial=-1), neighbour.max(initial=-1))) + 1
        if not self.num_cells:
            raise FailedError(NO_CELLS)
        pieces = cut_loops(points, self._cells(owner, neighbour))
        self.num_points = len(points)
        sets = self._sets(points, pieces)
        point_data, cell_data, units = self._fields()
        if pieces.centres:
            points, point_data = add_centres(points, point_data, pieces.centres)
        mesh = assemble(
            points,
            pieces.cells,
            point_data,
            {name: {kind: values[rows] for kind, rows in pieces.rows.items()} for name, values in cell_data.items()},
            sets=sets,
            units=units,
            allow_nonfinite=allow_nonfinite,
        )
        mesh.time_steps = self.times
        return mesh

    def _mesh_file(self, name: str) -> Foam:
        path = next((found for folder in self.meshes if (found := stored(folder, name))), None)
        if path is None:
            raise FailedError(f"the case has no polyMesh/{name}")
        return Foam(content(path), f"polyMesh/{name}")

    def _check(self, num_points: int, owner: np.ndarray, neighbour: np.ndarray) -> None:
        """Counts and ids in range; a cell has four faces or more, so that there cannot be more cells than faces."""
        num_faces = len(owner)
        if len(neighbour) > num_faces:
            raise FailedError(f"polyMesh/neighbour has {len(neighbour)} faces, polyMesh/owner {num_faces}")
        for name, ids, end in (
            ("faces", self.nodes, num_points),
            ("owner", owner, num_faces),
            ("neighbour", neighbour, num_faces),
        ):
            if len(ids) and (ids.min() < 0 or ids.max() >= end):
                bad = int(ids[(ids < 0) | (ids >= end)][0])
                raise FailedError(f"polyMesh/{name} holds {bad}, but it must be from 0 to {end - 1}")

    def _cells(self, owner: np.ndarray, neighbour: np.ndarray) -> Loops:
        of = np.concatenate([owner, neighbour])
        order = np.argsort(of, kind="stable")
        faces = np.where(order < len(owner), order, order - len(owner))
        corners, offset = taken(self.offset, faces)
        return Loops(self.nodes[corners], offset, of[order], self.num_cells)

    def _sets(self, points: np.ndarray, pieces: Pieces) -> dict[str, NamedSet]:
        sets: dict[str, NamedSet] = {}
        num_faces = len(self.offset) - 1
        for name, patch in _entries(self._mesh_file("boundary")):
            start, size = patch.get("startFace", ""), patch.get("nFaces", "")
            if not re.fullmatch(r"[0-9]{1,18}", start) or not re.fullmatch(r"[0-9]{1,18}", size):
                raise FailedError(f"polyMesh/boundary: patch {name!r} has startFace {start!r} and nFaces {size!r}")
            first, count = int(start), int(size)
            if first + count > num_faces:
                raise FailedError(
                    f"polyMesh/boundary: patch {name!r} has {count} faces from {first} on, of {num_faces}"
                )
            named = self._facets(points, np.arange(first, first + count))
            if named is not None:
                sets[free_name(name, "patch", sets)] = named
        of_cell = np.concatenate(list(pieces.rows.values()))
        for file, entity in (("cellZones", "cell"), ("faceZones", "facet"), ("pointZones", "node")):
            for name, ids in self._zones(file, f"{file[:-5]}Labels"):
                if entity == "cell":
                    named = NamedSet("cell", torch.from_numpy(np.flatnonzero(np.isin(of_cell, ids))))
                elif entity == "node":
                    named = NamedSet("node", torch.from_numpy(np.unique(ids)))
                else:
                    named = self._facets(points, ids)
                if named is not None:
                    sets[free_name(name, entity, sets)] = named
        return sets

    def _facets(self, points: np.ndarray, faces: np.ndarray) -> NamedSet | None:
        """Faces as facets; those with more than four corners as the triangles that they were cut into."""
        if len(faces) and (faces.min() < 0 or faces.max() >= len(self.offset) - 1):
            raise FailedError(f"a set holds face {faces.max()}, but the faces are 0 to {len(self.offset) - 2}")
        sizes, tables = self.offset[faces + 1] - self.offset[faces], []
        for size in np.unique(sizes).tolist():
            of_size = self.nodes[self.offset[faces[sizes == size]][:, None] + np.arange(size)]
            tables.append(cut_polygons(points, of_size)[0] if size > 4 else of_size)
        return facet_set(tables)

    def _zones(self, file: str, key: str) -> list[tuple[str, np.ndarray]]:
        if not any(stored(folder, file) for folder in self.meshes):
            return []
        try:
            end = {"cell": self.num_cells, "face": len(self.offset) - 1, "point": self.num_points}[file[:-5]]
            zones = list(_labels(self._mesh_file(file), key))
            for name, ids in zones:
                if len(ids) and (ids.min() < 0 or ids.max() >= end):
                    raise FailedError(f"zone {name!r} holds {ids.max()}, but it must be from 0 to {end - 1}")
            return zones
        except (FailedError, ValueError) as error:
            warnings.warn(f"{file} left out: {error}", stacklevel=6)
            return []

    def _fields(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
        """Point fields, cell fields and their units."""
        point_data: dict[str, np.ndarray] = {}
        cell_data: dict[str, np.ndarray] = {}
        units: dict[str, str] = {}
        for path in sorted(_files(self.now)) if self.now else []:
            name = path.name.removesuffix(".gz")
            try:
                found = re.search(rb"\sclass\s+(vol|point)(\w+)Field(::Internal)?\s*;", content(path, HEAD))
                if found is None:
                    continue
                kind = found[2][:1].lower().decode() + found[2][1:].decode()
                if kind not in WIDTHS:
                    raise FailedError(f"its values are of type {kind}")
                of_cells = found[1] == b"vol"
                num = self.num_cells if of_cells else self.num_points
                values, unit = _field(Foam(content(path, room=64 * WIDTHS[kind] * num), name), kind, num)
            except (FailedError, ValueError, OSError) as error:
                warnings.warn(f"field {name!r} left out: {error}", stacklevel=5)
                continue
            (cell_data if of_cells else point_data)[name] = values
            if unit:
                units[name] = unit
        return point_data, cell_data, units


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _field(file: Foam, kind: str, num: int) -> tuple[np.ndarray, str]:
    """Values `[num]` or `[num, c]` inside the domain, and their unit."""
    unit = ""
    while file.peek():
        if file.peek() == b"#":
            raise FailedError("it holds a directive (#), which only OpenFOAM can follow")
        key = file.word()
        if key not in (b"internalField", b"value"):
            start = file.place
            file.skip_entry()
            if key == b"dimensions":
                unit = _unit(file.data[start : file.place])
            continue
        how = file.word()
        if how == b"uniform":
            values = np.repeat(file.value(kind), num, axis=0)
        elif how == b"nonuniform":
            if not file.peek().isdigit() and file.word() != f"List<{kind}>".encode():
                raise FailedError(f"its values are no List<{kind}>")
            values = file.numbers(kind, num)
        else:
            raise FailedError(f"its values are given as {how[:20].decode('latin-1')!r}")
        return (values[:, [0, 3, 5, 1, 4, 2]] if kind == "symmTensor" else values), unit
    raise FailedError("it has no internalField")


def _unit(text: bytes) -> str:
    """`kg m^-1 s^-2` for `[1 -1 -2 0 0 0 0]`; empty for a number without a unit."""
    words = text.decode("latin-1").strip(" \t\r\n;[]").split()
    if len(words) not in (5, 7) or not all(re.fullmatch(r"[-+]?\d+(\.\d*)?", word) for word in words):
        return " ".join(words)[:80]
    powers = [float(word) for word in words]
    return " ".join(
        base if power == 1 else f"{base}^{power:g}" for base, power in zip(_BASE, powers, strict=False) if power
    )


def _entries(file: Foam) -> list[tuple[str, dict[str, str]]]:
    """A list `N ( name { … } … )` of dictionaries."""
    count = file.number()
    out: list[tuple[str, dict[str, str]]] = []
    file.take(b"(")
    while file.peek() != b")" and len(out) < count:
        name = file.word().decode("latin-1").strip('"')
        out.append((name, file.dictionary()))
    file.take(b")")
    return out


def _labels(file: Foam, key: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and labels of each zone."""
    count = file.number()
    if not count:
        return
    file.take(b"(")
    while file.peek() != b")":
        name = file.word().decode("latin-1").strip('"')
        file.take(b"{")
        labels = np.zeros(0, dtype=np.int64)
        while file.peek() != b"}":
            found = file.word()
            if not found:
                raise file.failed("a key is expected")
            if found in (key.encode(), b"flipMap"):
                if not file.peek().isdigit():
                    file.word()  # List<label>
                if found == b"flipMap":
                    _skip_flags(file)
                else:
                    labels = file.numbers("label").astype(np.int64)
            if file.peek() == b";":
                file.place += 1
            elif found not in (key.encode(), b"flipMap"):
                file.skip_entry()
        file.place += 1
        yield name, labels


def _skip_flags(file: Foam) -> None:
    """A list of booleans, which are one byte each; the sides of faces do not matter here."""
    count = file.number()
    if file.peek() == b"(" and file.binary:
        file.place += count + 1
        file.take(b")")
    elif file.peek() in (b"(", b"{"):
        end = file.data.find(b")" if file.peek() == b"(" else b"}", file.place)
        if end < 0:
            raise file.failed("a list does not end")
        file.place = end + 1
