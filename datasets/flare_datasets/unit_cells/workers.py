"""What a worker does: it draws a unit cell."""

from __future__ import annotations

from flare_datasets.unit_cells.config import UnitCellConfig
from flare_datasets.unit_cells.sample import draw_sample
from flare_datasets.workers import Drawn


def draw(config: UnitCellConfig, index: int) -> Drawn:
    """See `draw_sample`."""
    return draw_sample(config, index)
