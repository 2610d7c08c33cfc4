"""Nastran bulk data: nodes in any coordinate system, elements, properties and constraints as sets."""

import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import assemble
from flare_connect.mesh.files.columns import columns
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.labels import Labels
from flare_connect.mesh.files.nastran.cards import Cards, bulk, cards, fields
from flare_connect.mesh.files.nastran.systems import SYSTEMS, in_basic
from flare_connect.mesh.files.sides import free_name
from flare_connect.mesh.mesh import Mesh, NamedSet

_EVERY_OTHER = [0, 2, 4, 1, 3, 5]  # corners and midside nodes in turn
_HEXA = [*range(12), 16, 17, 18, 19, 12, 13, 14, 15]  # vertical edges come before those of the top
_PENTA = [*range(9), 12, 13, 14, 9, 10, 11]
# card: field of the first node, the kind with all its nodes, its order where it is not ours
_ELEMENTS: dict[str, tuple[int, str, list[int] | None]] = {
    "CBAR": (2, "line", None), "CBEAM": (2, "line", None), "CBEND": (2, "line", None), "CROD": (2, "line", None),
    "CTUBE": (2, "line", None), "CONROD": (1, "line", None), "CBEAM3": (2, "line3", None),
    "CTRIA3": (2, "triangle", None), "CTRIAR": (2, "triangle", None), "CTRIA6": (2, "triangle6", None),
    "CTRAX3": (2, "triangle", None), "CTRAX6": (2, "triangle6", _EVERY_OTHER),
    "CTRIAX6": (2, "triangle6", _EVERY_OTHER),
    "CQUAD4": (2, "quad", None), "CQUADR": (2, "quad", None), "CSHEAR": (2, "quad", None),
    "CQUADX4": (2, "quad", None), "CQUAD8": (2, "quad8", None), "CQUADX8": (2, "quad8", None),
    "CTETRA": (2, "tetra10", None), "CPYRAM": (2, "pyramid13", None), "CPYRA": (2, "pyramid13", None),
    "CPENTA": (2, "wedge15", _PENTA), "CHEXA": (2, "hexahedron20", _HEXA),
}  # fmt: skip
_WITHOUT_PROPERTY = ("CONROD", "CTRIAX6")  # they name a material, in another field or in its place
_NO_CELLS_OF_OURS = (
    *("CELAS1", "CELAS2", "CELAS3", "CELAS4", "CBUSH", "CBUSH1D", "CBUSH2D", "CDAMP1", "CDAMP2", "CDAMP3", "CDAMP4"),
    *("CGAP", "CMASS1", "CMASS2", "CMASS3", "CMASS4", "CVISC", "CWELD", "CFAST", "CSEAM", "CQUAD", "CQUADX", "CTRIAX"),
    *("CHACAB", "CHACBR", "CHBDYE", "CHBDYG", "CHBDYP", "CHEX8"),
)
# names of properties, as HyperMesh, ANSA and Femap leave them in comments; the first that names a property counts
_NAMES = (
    re.compile(rb'\n\$HMNAME PROP[ \t]+(\d{1,9})[ \t]*"([^"\n]+)"'),
    re.compile(rb'\n\$HMNAME COMP[ \t]+(\d{1,9})[ \t]*"([^"\n]+)"'),
    re.compile(rb"\n\$ANSA_NAME_COMMENT;(\d{1,9});P[A-Z]+;([^;\n]+);"),
    re.compile(rb"\n\$ Femap Property (\d{1,9}) : ([^\n]+)"),
)


def read_nastran(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads nodes and elements; properties become sets `property_<id>` or what a comment calls them, SPC `spc_<id>`.

    Args:
        path: the deck; files it includes lie beside it.
        step: a deck holds no results; ignored.
        allow_nonfinite: as for the other readers; a deck holds no fields.

    Raises:
        FailedError: the file is no Nastran deck, or is damaged.
        MeshError: its arrays do not make a mesh.
    """
    text, data = bulk(path)
    found = cards(data, {"GRID", "GRDSET", "SPC", "SPC1", *SYSTEMS, *_ELEMENTS, *_NO_CELLS_OF_OURS})
    nodes, points = _nodes(found)
    cells, properties = _cells(found, nodes)
    counts = {name: sum(map(len, found[name].values())) for name in _NO_CELLS_OF_OURS}
    left_out = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    if not cells:
        raise FailedError(f"no elements but {left_out}, which are not understood" if left_out else NO_CELLS)
    if left_out:
        warnings.warn(f"elements left out: {left_out}", stacklevel=3)
    sets = _property_sets(properties, text)
    for name, rows in _constraints(found, nodes).items():
        sets[free_name(name, "nodes", sets)] = NamedSet("node", torch.from_numpy(rows))
    return assemble(points, cells, {}, {}, sets=sets, allow_nonfinite=allow_nonfinite)


def _tables(found: Cards, name: str, start: int, count: int, dtype: type = np.int64) -> Iterator[np.ndarray]:
    """Fields `[n, count]` of all cards of a name, by the width of their fields."""
    for width, lines in found[name].items():
        yield columns(lines, start * width, width, count, dtype)


def _nodes(found: Cards) -> tuple[Labels, np.ndarray]:
    heads = np.concatenate([np.zeros((0, 2), dtype=np.int64), *_tables(found, "GRID", 0, 2)])
    points = np.concatenate([np.zeros((0, 3)), *_tables(found, "GRID", 2, 3, float)])
    if not len(points):
        raise FailedError("there are no GRID cards; is it a Nastran deck?")
    labels, systems = heads.T
    for default in _tables(found, "GRDSET", 1, 1):
        systems[systems == 0] = default[-1, 0]
    last = Labels(labels).rows(labels) == np.arange(len(labels))  # a node given again is where it was given last
    nodes = Labels(labels[last])
    given = {name: np.concatenate([np.zeros((0, count)), *_tables(found, name, 0, count, float)])
             for name, count in SYSTEMS.items()}  # fmt: skip
    return nodes, in_basic(points[last], systems[last], nodes, given)


def _cells(found: Cards, nodes: Labels) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cells by kind, and the property of each `[E]`, 0 for none."""
    parts: dict[str, list[np.ndarray]] = {}
    properties: dict[str, list[np.ndarray]] = {}
    incomplete = 0
    for name, (start, kind, order) in _ELEMENTS.items():
        known = CELL_KINDS[kind]
        corners = known.num_corners
        for table in _tables(found, name, 0, start + known.num_nodes):
            labels, cells = table[:, 0], table[:, start:]
            cells = cells if order is None else cells[:, order]
            owner = np.zeros(len(table), dtype=np.int64) if name in _WITHOUT_PROPERTY else table[:, 1]
            mids = cells[:, corners:] != 0
            whole = mids.all(axis=1)
            incomplete += int((mids.any(axis=1) & ~whole).sum())
            for which, rows, width in ((kind, whole, known.num_nodes), (known.corners, ~whole, corners)):
                if rows.any():
                    parts.setdefault(which, []).append(nodes.nodes(labels[rows], cells[rows, :width]))
                    properties.setdefault(which, []).append(owner[rows])
    if incomplete:
        warnings.warn(f"{incomplete} elements lack some midside nodes and were read as linear ones", stacklevel=4)
    owners = [np.zeros(0, dtype=np.int64), *(owner for kind in parts for owner in properties[kind])]
    return {kind: np.concatenate(tables) for kind, tables in parts.items()}, np.concatenate(owners)


def _property_sets(properties: np.ndarray, text: bytes) -> dict[str, NamedSet]:
    names: dict[int, str] = {}
    for pattern in _NAMES:
        for match in pattern.finditer(text):
            names.setdefault(int(match[1]), match[2].decode("utf-8", errors="replace").strip())
    order = np.argsort(properties, kind="stable")
    values, starts = np.unique(properties[order], return_index=True)
    sets: dict[str, NamedSet] = {}
    for value, (start, end) in zip(values.tolist(), pairwise([*starts.tolist(), len(order)]), strict=True):
        if value:
            title = free_name(names.get(value) or f"property_{value}", f"property_{value}", sets)
            sets[title] = NamedSet("cell", torch.from_numpy(order[start:end]))
    return sets


def _constraints(found: Cards, nodes: Labels) -> dict[str, np.ndarray]:
    """Nodes that each set of SPC and SPC1 cards holds, by `spc_<id>`."""
    rows: dict[str, list[np.ndarray]] = {}
    for name in ("SPC1", "SPC"):
        for width, lines in found[name].items():
            for line in lines:
                words = fields(line, width) or [b""]
                number, words = words[0], words[2:] if name == "SPC1" else words[1:7:3]
                out = rows.setdefault(f"spc_{number.decode('latin-1')}", [])
                words = [word for word in words if word]
                if len(words) == 3 and words[1].upper() == b"THRU":
                    out.append(nodes.between(_integer(words[0]), _integer(words[2])))
                else:
                    out.append(nodes.known(np.array([_integer(word) for word in words], dtype=np.int64)))
    return {name: np.unique(np.concatenate(parts)) for name, parts in rows.items()}


def _integer(word: bytes) -> int:
    if not word.isdigit() or len(word) > 18:
        raise FailedError(f"{word.decode('latin-1')!r} on an SPC card is no node")
    return int(word)
