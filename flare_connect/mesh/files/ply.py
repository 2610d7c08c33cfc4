"""PLY files (Stanford): points, polygons, and whatever other numbers their points and faces carry."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from flare_connect.mesh.files.assemble import assemble
from flare_connect.mesh.files.failed import NO_CELLS, CutShortError, FailedError
from flare_connect.mesh.files.polyhedra import cut_polygons
from flare_connect.mesh.mesh import Mesh

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
Order = Literal["=", "<", ">"]
_ORDERS: dict[str, Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_VECTORS = {"normals": ("nx", "ny", "nz")}

Property = tuple[str, np.dtype[Any], np.dtype[Any] | None]
"""Name, type, and for a list the type of its length."""


def read_ply(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads points and faces with their scalar properties; polygons of more than four corners are cut into triangles.

    Raises:
        FailedError: the file is no PLY file or has no faces.
        CutShortError: it ends before the points and faces that its header announces.
        MeshError: its arrays do not make a mesh.
    """
    data = path.read_bytes()
    end = data.find(b"end_header")
    place = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or place == 0:
        raise FailedError("is no PLY file")
    order, elements = _header(data[:end].decode("latin-1"))
    with np.errstate(invalid="raise"):  # NaN has no integer
        found = _text(data[place:], elements) if order == "=" else _binary(data, place, elements)
    points, fields = _points(found.get("vertex", {}))
    if not np.isfinite(points).all():
        raise FailedError("its points hold NaN or infinite numbers")
    faces = found.get("face", {})
    lists = [values for name, values in faces.items() if name in ("vertex_indices", "vertex_index")]
    if not lists or not len(lists[0]):
        raise FailedError(NO_CELLS)
    cells, rows = _cells(points, lists[0])
    scalars = {name: values for name, values in faces.items() if isinstance(values, np.ndarray) and values.ndim == 1}
    cell_data = {name: {kind: values[ids] for kind, ids in rows.items()} for name, values in scalars.items()}
    return assemble(points, cells, fields, cell_data, allow_nonfinite=allow_nonfinite)


def _header(text: str) -> tuple[Order, dict[str, tuple[int, list[Property]]]]:
    order: Order | None = None
    elements: dict[str, tuple[int, list[Property]]] = {}
    last = ""
    for line in text.splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) > 1 and words[1] in _ORDERS:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3:
            last = words[1]
            elements[last] = (int(words[2]), [])
        elif (
            words[0] == "property"
            and last
            and order
            and all(word in _TYPES for word in words[-2:0:-1] if word != "list")
        ):
            types = [np.dtype(_TYPES[word]).newbyteorder(order) for word in words[1:-1] if word != "list"]
            elements[last][1].append((words[-1], types[-1], types[0] if len(types) == 2 else None))
        else:
            raise FailedError(f"a line of its header is not understood: {line[:60]!r}")
    if order is None:
        raise FailedError("its header names no known format")
    if any(count < 0 for count, _ in elements.values()):
        raise FailedError("an element has a negative count")
    return order, elements


def _binary(data: bytes, place: int, elements: dict[str, tuple[int, list[Property]]]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for name, (count, properties) in elements.items():
        if not properties or not count:
            out[name] = {}
            continue
        # Nearly all files have faces of one size, and are read in one go; the first face says which.
        row = _row(data, place, name, properties)
        lists = [f"n{i}" for i, p in enumerate(properties) if p[2] is not None]
        if place + count * row.itemsize <= len(data):
            table = np.frombuffer(data, row, count, place)
            if all((table[length] == table[length][0]).all() for length in lists):
                out[name] = {p[0]: _native(table[f"v{i}"]) for i, p in enumerate(properties)}
                place += count * row.itemsize
                continue
        if not lists or count > len(data):
            raise CutShortError(f"announces {count} of element {name!r} and has {len(data)} bytes in all")
        out[name], place = _one_by_one(data, place, name, count, properties)
    return out


def _row(data: bytes, place: int, name: str, properties: list[Property]) -> np.dtype[Any]:
    """What the first row looks like: `v0`, `v1` … are the properties, `n0` … the lengths of those that are lists."""
    fields: list[Any] = []
    for i, (_, dtype, length) in enumerate(properties):
        if length is None:
            fields.append((f"v{i}", dtype))
            continue
        at = place + np.dtype(fields).itemsize
        size = _length(data, at, name, length)
        if not 0 <= size * dtype.itemsize <= len(data):
            raise FailedError(f"a list claims {size} entries")
        fields += [(f"n{i}", length), (f"v{i}", dtype, (size,))]
    return np.dtype(fields)


def _one_by_one(
    data: bytes, place: int, name: str, count: int, properties: list[Property]
) -> tuple[dict[str, Any], int]:
    found: list[list[Any]] = [[] for _ in properties]
    for _ in range(count):
        for (_, dtype, length), values in zip(properties, found, strict=True):
            size = 1
            if length is not None:
                size = _length(data, place, name, length)
                place += length.itemsize
            if size < 0 or place + size * dtype.itemsize > len(data):
                raise CutShortError(f"announces {count} of element {name!r} and ends before the last")
            array = np.frombuffer(data, dtype, size, place)
            values.append(array if length is not None else array[0])
            place += size * dtype.itemsize
    return {p[0]: v if p[2] is not None else np.array(v) for p, v in zip(properties, found, strict=True)}, place


def _length(data: bytes, place: int, name: str, dtype: np.dtype[Any]) -> int:
    if place + dtype.itemsize > len(data):
        raise CutShortError(f"ends before the last element {name!r} that it announces")
    return int(np.frombuffer(data, dtype, 1, place)[0])


def _text(data: bytes, elements: dict[str, tuple[int, list[Property]]]) -> dict[str, dict[str, Any]]:
    words, place = data.split(), 0
    out: dict[str, dict[str, Any]] = {}
    for name, (count, properties) in elements.items():
        if count > len(words):
            raise CutShortError(f"announces {count} of element {name!r} and has {len(words)} numbers in all")
        width = len(properties)
        if all(length is None for _, _, length in properties):
            if place + count * width > len(words):
                raise CutShortError(f"announces {count} of element {name!r} and ends before the last")
            table = np.array(words[place : place + count * width], dtype=float).reshape(count, width)
            out[name] = {p[0]: table[:, i].astype(p[1]) for i, p in enumerate(properties)}
            place += count * width
            continue
        found: list[list[Any]] = [[] for _ in properties]
        for _ in range(count):
            for (_, _, length), values in zip(properties, found, strict=True):
                size = 1 if length is None or place >= len(words) else int(words[place])
                place += length is not None
                if size < 0 or place + size > len(words):
                    raise CutShortError(f"announces {count} of element {name!r} and ends before the last")
                values.append(words[place : place + size] if length is not None else words[place])
                place += size
        out[name] = {
            p[0]: [np.array(row, dtype=float).astype(p[1]) for row in v] if p[2] else np.array(v, float).astype(p[1])
            for p, v in zip(properties, found, strict=True)
        }
    return out


def _points(vertex: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if not all(axis in vertex for axis in "xyz"):
        raise FailedError("its points have no x, y and z")
    points = np.stack([vertex.pop(axis).astype(float) for axis in "xyz"], axis=1)
    for name, parts in _VECTORS.items():
        if all(part in vertex for part in parts):
            vertex[name] = np.stack([vertex.pop(part) for part in parts], axis=1)
    return points, {name: values for name, values in vertex.items() if isinstance(values, np.ndarray)}


def _cells(points: np.ndarray, faces: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Kinds and their nodes, and which face each cell is of; faces `[F, k]`, or one array each."""
    if isinstance(faces, np.ndarray):
        by_size = {faces.shape[1]: (faces, np.arange(len(faces)))}
    else:
        sizes = np.array([len(face) for face in faces])
        by_size = {
            size: (np.stack([faces[i] for i in np.flatnonzero(sizes == size)]), np.flatnonzero(sizes == size))
            for size in dict.fromkeys(sizes.tolist())
        }
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for size, (nodes, ids) in by_size.items():
        nodes = nodes.astype(np.int64)
        if nodes.size and not (nodes.min() >= 0 and nodes.max() < len(points)):
            raise FailedError(f"a face names a point outside 0 to {len(points) - 1}")
        kind = {1: "vertex", 2: "line", 3: "triangle", 4: "quad"}.get(size, "triangle")
        if size > 4:
            nodes, of = cut_polygons(points, nodes)
            ids = ids[of]
        if size:
            parts.setdefault(kind, []).append((nodes, ids))
    return (
        {kind: np.concatenate([nodes for nodes, _ in found]) for kind, found in parts.items()},
        {kind: np.concatenate([ids for _, ids in found]) for kind, found in parts.items()},
    )


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="))
