"""The named sets of an Abaqus input file, which meshio reads in part: sets of sets, generated ones, surfaces.

Nodes and elements stay meshio's; this finds where their labels are and says which rows each name means.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.mesh import NamedSet

# corner kind → corners of the faces S1, S2 … , counted from 0 (Abaqus Analysis User's Guide, "Element library")
_FACES: dict[str, tuple[tuple[int, ...], ...]] = {
    "triangle": ((0, 1), (1, 2), (2, 0)),
    "quad": ((0, 1), (1, 2), (2, 3), (3, 0)),
    "tetra": ((0, 1, 2), (0, 3, 1), (1, 3, 2), (2, 3, 0)),
    "hexahedron": ((0, 1, 2, 3), (4, 7, 6, 5), (0, 4, 5, 1), (1, 5, 6, 2), (2, 6, 7, 3), (3, 7, 4, 0)),
    "wedge": ((0, 1, 2), (3, 5, 4), (0, 3, 4, 1), (1, 4, 5, 2), (2, 5, 3, 0)),
}


@dataclass
class _Found:
    """Labels in the order of the file, and what each name holds: labels, or names of other sets."""

    nodes: list[int] = field(default_factory=list)
    elements: list[list[str]] = field(default_factory=list)
    node_sets: dict[str, list[str]] = field(default_factory=dict)
    element_sets: dict[str, list[str]] = field(default_factory=dict)
    surfaces: dict[str, tuple[str, list[list[str]]]] = field(default_factory=dict)
    block_names: list[str | None] = field(default_factory=list)


def read_sets(path: Path, blocks: list[tuple[str, np.ndarray]], num_nodes: int) -> dict[str, NamedSet] | None:
    """Sets of an input file by name; surfaces become facets, or nodes where facets of two kinds meet.

    Args:
        path: the file.
        blocks: cell kind and nodes `[n, k]` of each `*ELEMENT` block, as meshio read them.
        num_nodes: N, as meshio read them.

    Returns:
        None where the file is more than a flat list of nodes and elements (parts and instances, included files), whose
        labels do not stand for one thing, or a line is not understood: the caller keeps what meshio found.
    """
    try:
        found = _scan(path)
    except ValueError:
        return None
    if found is None or len(found.nodes) != num_nodes or len(found.elements) != len(blocks):
        return None
    row_of_node = {label: row for row, label in enumerate(found.nodes)}
    # Cells are counted over kinds in the order of their first block, as the mesh does.
    kinds = list(dict.fromkeys(kind for kind, _ in blocks))
    sizes = {kind: sum(len(nodes) for other, nodes in blocks if other == kind) for kind in kinds}
    next_row = dict(zip(kinds, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    row_of_element: dict[int, int] = {}
    cell_of_row: dict[int, tuple[str, np.ndarray]] = {}
    for (kind, nodes), words, name in zip(blocks, found.elements, found.block_names, strict=True):
        table = [int(word) for word in words]
        if len(table) != len(nodes) * (nodes.shape[1] + 1):
            return None
        labels = table[:: nodes.shape[1] + 1]
        for label, cell in zip(labels, nodes, strict=True):
            row_of_element[label] = next_row[kind]
            cell_of_row[next_row[kind]] = (kind, cell)
            next_row[kind] += 1
        if name:
            found.element_sets.setdefault(name, []).extend(map(str, labels))
    out: dict[str, NamedSet] = {}
    for name in found.element_sets:
        rows = _resolve(name, found.element_sets, row_of_element)
        out[name] = NamedSet("cell", torch.tensor(sorted(rows), dtype=torch.long))
    for name in found.node_sets:
        rows = _resolve(name, found.node_sets, row_of_node)
        out[_free(name, out)] = NamedSet("node", torch.tensor(sorted(rows), dtype=torch.long))
    for name, (of, lines) in found.surfaces.items():
        surface = (
            _node_surface(lines, found, row_of_node)
            if of == "NODE"
            else _facets(lines, found, row_of_element, cell_of_row)
        )
        if surface is not None:
            out[_free(name, out)] = surface
    return out


def _scan(path: Path) -> _Found | None:
    found = _Found()
    keyword, options, lines = "", {}, []  # type: str, dict[str, str], list[str]

    def finish() -> None:
        words = [word for line in lines for word in re.split(r"[,\s]+", line.strip()) if word]
        name = options.get("NSET") or options.get("ELSET") or options.get("NAME")
        if keyword == "NODE":
            labels = [line.split(",")[0].strip() for line in lines]
            found.nodes += [int(label) for label in labels]
            if "NSET" in options:
                found.node_sets.setdefault(options["NSET"], []).extend(labels)
        elif keyword == "ELEMENT":
            found.elements.append(words)
            found.block_names.append(options.get("ELSET"))
        elif keyword in ("NSET", "ELSET") and name:
            members = [word.strip() for line in lines for word in line.split(",")]
            if "GENERATE" in options:
                members = _generated(lines)
            target = found.node_sets if keyword == "NSET" else found.element_sets
            target.setdefault(name, []).extend(word for word in members if word)
        elif keyword == "SURFACE" and name:
            rows = [[word.strip() for word in line.split(",")] for line in lines]
            found.surfaces[name] = (options.get("TYPE", "ELEMENT").upper(), rows)

    for raw in path.read_text(errors="replace").splitlines():
        line = raw.strip()
        if not line or line.startswith("**"):
            continue
        if not line.startswith("*"):
            lines.append(line)
            continue
        finish()
        keyword, *rest = (part.strip() for part in line[1:].split(","))
        keyword = keyword.upper()
        if keyword in ("PART", "INSTANCE", "INCLUDE"):
            return None
        pairs = [part.partition("=") for part in rest if part]
        options = {key.strip().upper(): value.strip().strip('"') for key, _, value in pairs}
        lines = []
    finish()
    return found


def _generated(lines: list[str]) -> list[str]:
    out: list[str] = []
    for line in lines:
        first, last, *step = (int(word) for word in line.split(",") if word.strip())
        out += map(str, range(first, last + 1, step[0] if step else 1))
    return out


def _resolve(name: str, sets: dict[str, list[str]], row_of: dict[int, int], above: tuple[str, ...] = ()) -> set[int]:
    """Rows of a set, sets in it included; labels that the file does not define are left out."""
    rows: set[int] = set()
    by_name = {known.upper(): known for known in sets}
    for word in sets[name]:
        if word.lstrip("-").isdigit():
            rows |= {row_of[int(word)]} if int(word) in row_of else set()
        elif word.upper() in by_name and by_name[word.upper()] not in (name, *above):
            rows |= _resolve(by_name[word.upper()], sets, row_of, (*above, name))
    return rows


def _node_surface(lines: list[list[str]], found: _Found, row_of_node: dict[int, int]) -> NamedSet:
    members = {"": [line[0] for line in lines], **found.node_sets}
    return NamedSet("node", torch.tensor(sorted(_resolve("", members, row_of_node)), dtype=torch.long))


def _facets(
    lines: list[list[str]],
    found: _Found,
    row_of_element: dict[int, int],
    cell_of_row: dict[int, tuple[str, np.ndarray]],
) -> NamedSet | None:
    """Facets `[F, k]` of lines "element or set, face"; nodes where they differ in k; None where a face is unknown."""
    facets: list[np.ndarray] = []
    for line in lines:
        face = re.fullmatch(r"S(\d)", line[1].upper()) if len(line) > 1 else None
        if face is None:
            return None
        for row in sorted(_resolve("", {"": [line[0]], **found.element_sets}, row_of_element)):
            kind, cell = cell_of_row[row]
            corners = _FACES.get(CELL_KINDS[kind].corners, ()) if kind in CELL_KINDS else ()
            if int(face[1]) > len(corners):
                return None
            wanted = set(corners[int(face[1]) - 1])
            facets += [
                cell[list(local)]
                for facet_kind, local in CELL_KINDS[kind].facets
                if set(local[: CELL_KINDS[facet_kind].num_corners]) == wanted
            ]
    if not facets:
        return None
    if len({len(facet) for facet in facets}) > 1:
        return NamedSet("node", torch.from_numpy(np.unique(np.concatenate(facets)).astype(np.int64)))
    return NamedSet("facet", torch.from_numpy(np.stack(facets).astype(np.int64)))


def _free(name: str, taken: dict[str, NamedSet]) -> str:
    """Abaqus lets a node set, an element set and a surface share a name; here the later ones say what they are."""
    for candidate in (name, f"{name}:nodes", f"{name}:surface"):
        if candidate not in taken:
            return candidate
    return f"{name}:{len(taken)}"
