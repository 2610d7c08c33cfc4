"""ANSYS MAPDL archives (CDWRITE in its blocked form): nodes, elements with their degenerate forms, components."""

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import assemble
from flare_connect.mesh.files.columns import columns
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.labels import Labels
from flare_connect.mesh.files.sides import free_name
from flare_connect.mesh.mesh import Mesh, NamedSet

_COMMAND = re.compile(rb"\n[ \t]*(NBLOCK|EBLOCK|CMBLOCK|ET|TYPE)[ \t]*,([^\n]*)", re.IGNORECASE)
_FORMAT = re.compile(rb"[ \t]*\((\d{1,3})i(\d{1,2})(?:,(\d{1,2})e(\d{1,2})[.\de]*)?\)[ \t]*\n", re.IGNORECASE)
_END = re.compile(rb"\n[ \t]*(?:-1[ \t]*\n|[A-Za-z/!*()])")
_MOST_NODES = 20  # of an element
_WIDEST = 32  # columns of a field

# numbers of element types (MAPDL Element Reference)
_SOLIDS = {
    *(5, 30, 45, 62, 64, 65, 69, 70, 73, 90, 95, 96, 97, 117, 122, 147, 164, 185, 186, 190, 191, 215, 216, 220, 226),
    *(231, 236, 239, 278, 279),
}
_TETRAHEDRA = {72, 87, 92, 98, 119, 123, 127, 148, 168, 187, 217, 221, 227, 232, 237, 240, 285, 291}
_FLAT = {
    *(2, 13, 25, 28, 29, 35, 41, 42, 43, 53, 55, 56, 57, 63, 67, 75, 77, 78, 79, 81, 82, 83, 91, 93, 99, 121, 131, 132),
    *(141, 143, 145, 146, 150, 157, 163, 181, 182, 183, 212, 213, 223, 230, 233, 238, 272, 273, 281, 292, 293),
}
_LINES = {1, 3, 4, 8, 10, 11, 16, 18, 20, 23, 24, 32, 33, 34, 44, 54, 59, 60, 68, 160, 161, 167, 180, 188, 288}
_LINES_WITH_MIDDLE = {189, 289, 290}

# nodes of a brick, in MAPDL's order (which is ours), that are left where it is collapsed
_COLLAPSED: dict[str, list[int]] = {
    "tetra": [0, 1, 2, 4],
    "pyramid": [0, 1, 2, 3, 4],
    "wedge": [0, 1, 2, 4, 5, 6],
    "hexahedron": [*range(8)],
    "tetra10": [0, 1, 2, 4, 8, 9, 11, 16, 17, 18],
    "pyramid13": [0, 1, 2, 3, 4, 8, 9, 10, 11, 16, 17, 18, 19],
    "wedge15": [0, 1, 2, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 18],
    "hexahedron20": [*range(20)],
}


class _Elements(NamedTuple):
    """Elements `[n]` of any type: labels, numbers of the type, how many nodes, nodes `[n, 20]` with 0 for none."""

    labels: np.ndarray
    types: np.ndarray
    counts: np.ndarray
    nodes: np.ndarray


def read_cdb(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads nodes and elements; collapsed bricks become tetrahedra, wedges, pyramids; components become sets.

    Args:
        path: the archive.
        step: an archive holds no results; ignored.
        allow_nonfinite: as for the other readers; an archive holds no fields.

    Raises:
        FailedError: the file is no blocked archive, or is damaged.
        MeshError: its arrays do not make a mesh.
    """
    text = b"\n" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\n"
    labels, points, elements, components = [], [], [], []
    types: dict[int, int] = {}
    current = 1
    for command in _COMMAND.finditer(text):
        name, words = command[1].upper(), [word.strip() for word in command[2].split(b"!")[0].split(b",")]
        if name == b"ET" and len(words) > 1:
            digits = re.search(rb"\d{1,9}$", words[1])
            if words[0].isdigit() and digits:
                types[int(words[0][:18])] = int(digits[0])
        elif name == b"TYPE":
            current = int(words[0][:18]) if words[0].isdigit() else current
        elif name == b"NBLOCK":
            (integers, width, _, real), lines = _block(text, command)
            labels.append(columns(lines, 0, width, 1)[:, 0])
            points.append(columns(lines, integers * width, real or 16, 3, float))
        elif name == b"EBLOCK":
            solid = len(words) > 1 and words[1].upper() == b"SOLID"
            elements.append(_elements(text, command, solid, current, types))
        elif name == b"CMBLOCK" and len(words) > 2:
            (_, width, *_), lines = _block(text, command)
            count = int(words[3][:9]) if len(words) > 3 and words[3].isdigit() else 10**9
            entity = "node" if words[1].upper() == b"NODE" else "cell"
            components.append((words[0].decode("latin-1"), entity, _items(lines, width, count)))
    if not points:
        raise FailedError("there is no NBLOCK; write the archive by CDWRITE in its blocked form")
    return _mesh(np.concatenate(labels), np.concatenate(points), elements, types, components, allow_nonfinite)


def _block(text: bytes, command: re.Match[bytes]) -> tuple[list[int], list[bytes]]:
    """Counts and widths of the fields (integers, their width, reals, their width), and the lines of a block."""
    form = _FORMAT.match(text, command.end() + 1)
    if form is None or not 0 < int(form[2]) <= _WIDEST or int(form[4] or 0) > _WIDEST:
        raise FailedError(f"{command[1].decode().upper()} has no format such as (3i9,6e21.13e3) in its next line")
    end = _END.search(text, form.end() - 1)
    block = text[form.end() : end.start() if end else len(text)]
    return [int(value or 0) for value in form.groups()], [line for line in block.split(b"\n") if line.strip()]


def _elements(text: bytes, command: re.Match[bytes], solid: bool, current: int, types: dict[int, int]) -> _Elements:
    (fields, width, *_), lines = _block(text, command)
    head = 11 if solid else 5  # fields before the nodes
    if fields <= head:
        raise FailedError(f"EBLOCK has {fields} fields; {head + 1} or more are needed")
    table = columns(lines, 0, width, min(fields, head + _MOST_NODES))
    if not solid:
        nodes = np.zeros((len(table), _MOST_NODES), dtype=np.int64)
        nodes[:, : table.shape[1] - head] = table[:, head:]
        kinds = np.where(np.isin(table[:, 1], list(types)), table[:, 1], current)
        return _Elements(table[:, 0], kinds, (nodes > 0).sum(1), nodes)
    first = table.shape[1] - head  # nodes on the first line
    starts, row, counts = [], 0, table[:, 8].tolist()
    while row < len(counts):
        starts.append(row)
        if not 0 < counts[row] <= _MOST_NODES:
            raise FailedError(f"element {table[row, 10]} has {counts[row]} nodes; give 1 to {_MOST_NODES}")
        row += 1 + -(-max(0, counts[row] - first) // table.shape[1])
    if row > len(counts):
        raise FailedError("EBLOCK ends within an element; is the file cut off?")
    at = np.array(starts, dtype=np.int64)
    count = table[at, 8]
    wide = np.zeros((len(at), head + 2 * table.shape[1] + _MOST_NODES), dtype=np.int64)
    wide[:, : table.shape[1]] = table[at]
    more = count > first
    wide[more, table.shape[1] : 2 * table.shape[1]] = table[at[more] + 1]
    nodes = wide[:, head : head + _MOST_NODES]
    nodes[np.arange(_MOST_NODES) >= count[:, None]] = 0
    return _Elements(table[at, 10], table[at, 1], count, nodes)


def _items(lines: list[bytes], width: int, count: int) -> np.ndarray:
    """Items `[n]` of a component, zeros left out."""
    per_line = max((len(line.rstrip()) for line in lines[:1]), default=0) // width + 1
    items = columns(lines, 0, width, min(per_line, 100)).reshape(-1)
    return items[items != 0][:count]


def _mesh(
    labels: np.ndarray,
    points: np.ndarray,
    elements: list[_Elements],
    types: dict[int, int],
    components: list[tuple[str, str, np.ndarray]],
    allow_nonfinite: bool,
) -> Mesh:
    last = Labels(labels).rows(labels) == np.arange(len(labels))
    nodes = Labels(labels[last])
    parts: dict[str, list[np.ndarray]] = {}
    owners: dict[str, list[np.ndarray]] = {}
    left_out: dict[int, int] = {}
    linear = 0
    numbers = [np.zeros(0, dtype=np.int64)]
    for block in elements:
        for value in np.unique(block.types).tolist():
            at = np.flatnonzero(block.types == value)
            found, incomplete = _kinds(types.get(value, 0), block.counts[at], block.nodes[at])
            linear += incomplete
            for kind, rows, table in found:
                parts.setdefault(kind, []).append(nodes.nodes(block.labels[at[rows]], table))
                owners.setdefault(kind, []).append(block.labels[at[rows]])
            missing = len(at) - sum(len(rows) for _, rows, _ in found)
            if missing:
                left_out[types.get(value, 0)] = left_out.get(types.get(value, 0), 0) + missing
    said = ", ".join(f"{count} of type {number}" for number, count in left_out.items())
    if not parts:
        raise FailedError(f"no elements but {said}, which are not understood" if said else NO_CELLS)
    if said:
        warnings.warn(f"elements left out: {said}", stacklevel=4)
    if linear:
        warnings.warn(f"{linear} elements lack some midside nodes and were read as linear ones", stacklevel=4)
    cells = {kind: np.concatenate(tables) for kind, tables in parts.items()}
    numbers += [table for kind in cells for table in owners[kind]]
    known = {"node": nodes, "cell": Labels(np.concatenate(numbers))}
    sets: dict[str, NamedSet] = {}
    for name, entity, items in components:
        of = known[entity]
        until = np.flatnonzero(items < 0)  # up to here, from the item before
        spans = [of.between(int(items[i - 1]), -int(items[i])) for i in until.tolist() if i]
        ids = np.unique(np.concatenate([of.known(items[items > 0]), *spans]))
        named = NamedSet("node" if entity == "node" else "cell", torch.from_numpy(ids))
        sets[free_name(name, f"{entity}s", sets)] = named
    return assemble(points[last], cells, {}, {}, sets=sets, allow_nonfinite=allow_nonfinite)


def _kinds(number: int, counts: np.ndarray, nodes: np.ndarray) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], int]:
    """Kind, rows and nodes `[n, k]` of elements of one type, and how many lack some of their midside nodes."""
    picks: list[tuple[str, np.ndarray, list[int]]] = []  # kind with midside nodes where there are any, rows, columns
    quadratic = counts > 8
    if number in _SOLIDS or (not number and (counts == 20).all()):
        top = (nodes[:, 4:7] == nodes[:, 5:8]).all(1)
        side, lid = nodes[:, 2] == nodes[:, 3], nodes[:, 6] == nodes[:, 7]
        whole = (nodes[:, :8] > 0).all(1)
        forms = {"tetra": side & top, "pyramid": ~side & top, "wedge": side & lid & ~top}
        forms["hexahedron"] = ~(side & lid) & ~top
        full = {"tetra": "tetra10", "pyramid": "pyramid13", "wedge": "wedge15", "hexahedron": "hexahedron20"}
        for corners, form in forms.items():
            for kind, mids in ((corners, ~quadratic), (full[corners], quadratic)):
                picks.append((kind, np.flatnonzero(form & mids & whole), _COLLAPSED[kind]))
    elif number in _TETRAHEDRA or (not number and (counts == 10).all()):
        picks = [("tetra", np.flatnonzero(counts == 4), [*range(4)])]
        picks.append(("tetra10", np.flatnonzero(counts == 10), [*range(10)]))
    elif number in _FLAT:
        quadratic = counts == 8
        three = (counts == 3) | ((nodes[:, 2] == nodes[:, 3]) & (counts != 6))
        picks = [
            ("triangle", np.flatnonzero(three & ~quadratic), [0, 1, 2]),
            ("triangle6", np.flatnonzero(three & quadratic), [0, 1, 2, 4, 5, 7]),
            ("triangle6", np.flatnonzero(counts == 6), [*range(6)]),
            ("quad", np.flatnonzero(~three & (counts == 4)), [*range(4)]),
            ("quad8", np.flatnonzero(~three & quadratic), [*range(8)]),
        ]
    elif number in _LINES_WITH_MIDDLE:
        picks = [("line3", np.flatnonzero(counts >= 3), [0, 1, 2])]
    elif number in _LINES or (not number and (counts == 2).all()):
        picks = [("line", np.flatnonzero(counts >= 2), [0, 1])]
    out: list[tuple[str, np.ndarray, np.ndarray]] = []
    incomplete = 0
    for kind, rows, pick in picks:
        table = nodes[rows][:, pick]
        mids = table[:, CELL_KINDS[kind].num_corners :] > 0
        whole = mids.all(1)
        incomplete += int((mids.any(1) & ~whole).sum())
        out.append((kind, rows[whole], table[whole]))
        out.append((CELL_KINDS[kind].corners, rows[~whole], table[~whole, : CELL_KINDS[kind].num_corners]))
    return [part for part in out if len(part[1])], incomplete
