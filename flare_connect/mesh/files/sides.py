"""Sides of cells by the corners on them."""

import numpy as np

from flare_connect.mesh.cells import CELL_KINDS


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
