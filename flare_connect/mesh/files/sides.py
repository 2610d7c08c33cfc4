"""Sides of cells as sets of facets."""

from collections.abc import Sequence

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.mesh import NamedSet


def facets_of(kind: str, cells: np.ndarray, corners: tuple[int, ...]) -> list[np.ndarray]:
    """Facets `[n, k]` of cells `[n, nodes]` on the side with these local corners; the cells themselves if all."""
    if len(corners) == CELL_KINDS[kind].num_corners:
        return [cells]
    wanted = set(corners)
    return [
        cells[:, list(local)]
        for facet_kind, local in CELL_KINDS[kind].facets
        if set(local[: CELL_KINDS[facet_kind].num_corners]) == wanted
    ]


def facet_set(tables: Sequence[np.ndarray]) -> NamedSet | None:
    """A set of the facets in tables `[n, k]`; of their nodes where k differs, since a set has one; None if empty."""
    tables = [table.astype(np.int64) for table in tables if len(table)]
    if not tables:
        return None
    if len({table.shape[1] for table in tables}) > 1:
        return NamedSet("node", torch.from_numpy(np.unique(np.concatenate([t.reshape(-1) for t in tables]))))
    return NamedSet("facet", torch.from_numpy(np.concatenate(tables)))


def free_name(name: str, entity: str, taken: dict[str, NamedSet]) -> str:
    """Formats let a node set, a cell set and a surface share a name; here the later ones say what they are."""
    for candidate in (name, f"{name}:{entity}"):
        if candidate not in taken:
            return candidate
    return next(f"{name}:{entity}:{i}" for i in range(2, len(taken) + 3) if f"{name}:{entity}:{i}" not in taken)
