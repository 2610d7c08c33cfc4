"""MED files (Salome, code_aster), which meshio reads: their groups, and the order of the nodes of solid cells."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.sides import free_name
from flare_connect.mesh.geometry import signed_measure
from flare_connect.mesh.mesh import NamedSet

# corners of MED's solids in our order: MED's first face points outward, ours inward
_CORNERS = {
    "tetra": (0, 2, 1, 3),
    "pyramid": (0, 3, 2, 1, 4),
    "wedge": (0, 2, 1, 3, 5, 4),
    "hexahedron": (0, 3, 2, 1, 4, 7, 6, 5),
}


@contextmanager
def families_read() -> Iterator[None]:
    """Within it meshio reads families without groups too, and names that are not ASCII; it gives up on them itself."""
    from meshio.med import _med

    before = getattr(_med, "_read_families", None)
    if before is None:  # another version, which may do without
        yield
        return
    _med._read_families = _families
    try:
        yield
    finally:
        _med._read_families = before


def _families(found: Any) -> dict[int, list[str]]:
    """Number of each family → the names of its groups, which are bytes `[n, 80]`."""
    out: dict[int, list[str]] = {}
    for family in found.values():
        names = np.asarray(family["GRO"]["NOM"][()]).astype(np.uint8) if "GRO" in family else ()
        texts = [bytes(name).split(b"\0")[0].decode("utf-8", errors="replace").strip() for name in names]
        out[int(family.attrs["NUM"])] = texts
    return out


def med_order(kind: str) -> list[int] | None:
    """`nodes_in_our_order = nodes[:, med_order]`, its own inverse; None where the orders agree."""
    known = CELL_KINDS.get(kind)
    if known is None or known.corners not in _CORNERS:
        return None
    order = [*_CORNERS[known.corners]]
    ends: dict[int, set[int]] = {}
    for pair in known.edges.tolist():
        if max(pair) >= known.num_corners:
            ends.setdefault(max(pair), set()).add(min(pair))
    for corners in ends.values():
        moved = {order[corner] for corner in corners}
        order.append(next(mid for mid, other in ends.items() if other == moved))
    return order


def upright(points: np.ndarray, cells: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Solid cells in our order; meshio wrote MED files in ours, so that those which come out inverted are in MED's."""
    out = dict(cells)
    for kind, nodes in cells.items():
        order = med_order(kind)
        # nodes that there are not, the mesh names
        if order is None or not nodes.size or nodes.min() < 0 or nodes.max() >= len(points):
            continue
        if signed_measure(points, {kind: nodes})[kind].sum() < 0:
            out[kind] = nodes[:, order]
    return out


def groups(
    cells: Mapping[str, np.ndarray],
    point_data: dict[str, np.ndarray],
    cell_data: dict[str, dict[str, np.ndarray]],
    point_families: Mapping[int, list[str]],
    cell_families: Mapping[int, list[str]],
) -> dict[str, NamedSet]:
    """Sets out of families: every node and cell is in one, and each names the groups that it is part of.

    The numbers of families are taken out of the fields.
    """
    none = np.zeros(0, dtype=np.int64)
    of_node = point_data.pop("point_tags", none).reshape(-1)
    tags = cell_data.pop("cell_tags", {})
    per_kind = [tags[kind].reshape(-1) if kind in tags else np.zeros(len(nodes)) for kind, nodes in cells.items()]
    of_cell = np.concatenate([none, *per_kind])
    sets: dict[str, NamedSet] = {}
    for entity, of, families in (("cell", of_cell, cell_families), ("node", of_node, point_families)):
        for name in dict.fromkeys(name for names in families.values() for name in names if name):
            numbers = [int(number) for number, names in families.items() if name in names]
            ids = np.flatnonzero(np.isin(of, numbers))
            sets[free_name(name, f"{entity}s", sets)] = NamedSet(entity, torch.from_numpy(ids))  # type: ignore[arg-type]
    return sets
