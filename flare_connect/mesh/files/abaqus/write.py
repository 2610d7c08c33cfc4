"""Writing Abaqus input decks: nodes, elements, sets, surfaces."""

import re
from pathlib import Path

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.abaqus.types import FACES, NODE_ORDER, PLANAR_NAMES, SPATIAL_NAMES
from flare_connect.mesh.files.assemble import as_array
from flare_connect.mesh.mesh import Mesh

_FIELDS = 16  # of a data line, at most


def write_abaqus(mesh: Mesh, path: Path) -> list[str]:
    """Writes a flat deck: nodes and elements are counted from 1, sets of facets become surfaces.

    Returns:
        What a deck cannot hold, such as `field 'u'`, `units`, `global 'load'`, `facets of 'skin'`.

    Raises:
        MeshError: Abaqus has no element of a kind.
    """
    names = PLANAR_NAMES if mesh.dim == 2 else SPATIAL_NAMES
    unknown = [kind for kind in mesh.cells if kind not in names]
    if unknown:
        raise MeshError(f"Abaqus has no elements of kind {', '.join(unknown)}; write a .vtu file")
    cells = {kind: as_array(nodes) for kind, nodes in mesh.cells.items()}
    lost = [f"field {name!r}" for name in (*mesh.point_data, *mesh.cell_data)]
    lost += ["units"] * bool(mesh.units) + ["periodic_pairs"] * (mesh.periodic_pairs is not None)
    lost += [f"global {name!r}" for name in mesh.global_data]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("*HEADING\nwritten by flare_connect\n*NODE\n")
        form = "%d, " + ", ".join(["%.16e"] * mesh.dim) + "\n"
        for label, point in enumerate(as_array(mesh.pos).tolist(), start=1):
            file.write(form % (label, *point))
        label = 1
        for kind, nodes in cells.items():
            file.write(f"*ELEMENT, TYPE={names[kind]}\n")
            back = np.argsort(NODE_ORDER.get(kind, range(nodes.shape[1])))
            labels = np.arange(label, label + len(nodes))
            for row in np.column_stack([labels, nodes[:, back] + 1]).tolist():
                file.write(_lines(row))
            label += len(nodes)
        taken: set[tuple[str, str]] = set()
        for name, named in mesh.sets.items():
            title = _title(name, named.entity, taken)
            lost += [] if title == name else [f"the name of set {name!r}"]
            ids = as_array(named.ids)
            faces = _faces(cells, ids, mesh.dim) if named.entity == "facet" else None
            if faces is not None and len(faces):
                file.write(f"*SURFACE, TYPE=ELEMENT, NAME={_quoted(title)}\n" + "".join(faces))
                continue
            if named.entity == "facet":
                lost.append(f"facets of {name!r}")
            keyword = "ELSET" if named.entity == "cell" else "NSET"
            members = np.unique(ids).tolist() if named.entity == "facet" else ids.tolist()
            file.write(f"*{keyword}, {keyword}={_quoted(title)}\n")
            for i in range(0, len(members), _FIELDS):
                file.write(", ".join(str(member + 1) for member in members[i : i + _FIELDS]) + "\n")
    return lost


def _lines(row: list[int]) -> str:
    """An element on as many lines as it takes, all but the last ending in a comma."""
    words = [str(value) for value in row]
    return ",\n".join(", ".join(words[i : i + _FIELDS]) for i in range(0, len(words), _FIELDS)) + "\n"


def _title(name: str, entity: str, taken: set[tuple[str, str]]) -> str:
    """The name without what no deck can hold; another one where only capitals tell two names apart."""
    plain = "".join("_" if c in '"\n\r' or not c.isprintable() else c for c in name).strip() or "_"
    candidates = [plain, *(f"{plain}_{i}" for i in range(2, len(taken) + 3))]
    title = next(candidate for candidate in candidates if (entity, candidate.upper()) not in taken)
    taken.add((entity, title.upper()))
    return title


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.:-]*", name) else f'"{name}"'


def _faces(cells: dict[str, np.ndarray], facets: np.ndarray, dim: int) -> list[str] | None:
    """Lines "element, face" of facets `[F, k]`; None where one of them belongs to no cell.

    The cell of highest dimension is named, and of two that share a facet the one that has its nodes in the same order.
    """
    found: dict[tuple[int, ...], list[tuple[list[int], str]]] = {tuple(row): [] for row in np.sort(facets).tolist()}
    wanted = np.zeros(1 + max([*(nodes.max() for nodes in cells.values()), facets.max(initial=0)]), dtype=bool)
    wanted[facets.reshape(-1)] = True
    starts = dict(zip(cells, np.cumsum([1, *map(len, cells.values())]).tolist(), strict=False))
    for kind in sorted(cells, key=lambda name: -CELL_KINDS[name].dim):
        for local, face in _candidates(kind, facets.shape[1], dim):
            table = cells[kind][:, list(local)]
            rows = np.flatnonzero(wanted[table].all(1))
            for row, nodes in zip(rows.tolist(), table[rows].tolist(), strict=True):
                if tuple(sorted(nodes)) in found:
                    found[tuple(sorted(nodes))].append((nodes, f"{starts[kind] + row}, {face}\n"))
    lines = []
    for facet in facets.tolist():
        owners = found[tuple(sorted(facet))]
        if not owners:
            return None
        lines.append(next((line for nodes, line in owners if nodes == facet), owners[0][1]))
    return lines


def _candidates(kind: str, width: int, dim: int) -> list[tuple[tuple[int, ...], str]]:
    """Local nodes and labels of the faces of a kind that have so many nodes; a flat cell in space is a face itself."""
    known, out = CELL_KINDS[kind], []
    # Where the cell is a face itself, or is written as a membrane, its sides are edges.
    letter = "END" if known.dim == 1 else "E" if known.dim == 2 and (dim == 3 or kind == "quad9") else "S"
    for number, corners in enumerate(FACES[known.corners], start=1):
        for facet_kind, local in known.facets:
            if set(local[: CELL_KINDS[facet_kind].num_corners]) == set(corners) and len(local) == width:
                out.append((local, f"{letter}{number}"))
    if known.dim == 2 and known.num_nodes == width:
        out.append((tuple(range(width)), "SPOS"))
    return out
