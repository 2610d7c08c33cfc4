"""Where to look from, how large the picture must be, and a frame that fits the mesh exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare_connect.errors import InputError
from flare_connect.viz.values import to_numpy

_VIEWS = {
    "iso": ((1.0, -1.0, 1.0), (0.0, 0.0, 1.0)),
    "xy": ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    "xz": ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
    "yz": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A direction to look from; projection is parallel, so that lengths can be compared across a picture.

    Args:
        direction: unit vector from the mesh towards the viewer `[3]`.
        up: unit vector that points up in the picture `[3]`.
    """

    direction: np.ndarray
    up: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Unit vector that points right in the picture `[3]`."""
        return np.cross(self.up, self.direction)

    def flat(self, points: np.ndarray) -> np.ndarray:
        """Coordinates in the picture `[n, 2]` of points `[n, 3]`."""
        return points @ np.stack([self.right, self.up], axis=1)


def read_view(view: Any, points: np.ndarray) -> View:
    """Reads a view: a name, a direction towards the viewer `[3]`, or None for what suits the points `[n, 3]`.

    Raises:
        InputError: it is none of these.
    """
    if view is None:
        extent = np.ptp(points, axis=0)
        flat = extent <= 1e-9 * extent.max()
        view = "xy" if flat[2] else "xz" if flat[1] else "yz" if flat[0] else "iso"
    if isinstance(view, str):
        if view not in _VIEWS:
            raise InputError(f"view must be one of {', '.join(_VIEWS)} or a direction [3], got {view!r}")
        direction, up = (np.array(v) for v in _VIEWS[view])
    else:
        direction = to_numpy(view, "view").astype(float)
        if direction.shape != (3,) or not np.isfinite(direction).all() or not direction.any():
            raise InputError(f"view must be one of {', '.join(_VIEWS)} or a direction [3], got {view!r}")
        vertical = abs(direction[2]) > 0.999 * np.linalg.norm(direction)
        up = np.array([0.0, 1.0, 0.0] if vertical else [0.0, 0.0, 1.0])
    direction = direction / np.linalg.norm(direction)
    up = up - (up @ direction) * direction
    return View(direction=direction, up=up / np.linalg.norm(up))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Panels of a picture, all of one size, in pixels.

    Args:
        shape: rows and columns of panels.
        size: width and height of the whole picture.
        scale: how much larger than at documentation size letters and lines are.
        top: height kept for titles.
        bottom: height kept for the colour bar.
        side: margin left and right.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    scale: float
    top: float
    bottom: float
    side: float

    def finer(self, factor: int) -> "Layout":
        """The same picture with `factor` times the pixels each way."""
        return Layout(
            shape=self.shape,
            size=(self.size[0] * factor, self.size[1] * factor),
            scale=self.scale * factor,
            top=self.top * factor,
            bottom=self.bottom * factor,
            side=self.side * factor,
        )

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel."""
        return self.size[0] // self.shape[1], self.size[1] // self.shape[0]


_PANEL_WIDTH, _PANEL_WIDTH_MIN = 600, 460
_WIDE_PANEL = 1000
_FIELD_HEIGHT, _FIELD_HEIGHT_MIN = 470, 110


def plan(num_panels: int, extent: np.ndarray, size: Any, *, header_lines: int, bar: bool) -> Layout:
    """Chooses the picture's size from the mesh's extent in the picture `[2]`, or takes the one given.

    Panels stand side by side; where the mesh is more than three times as wide as high they stand in a column.

    Raises:
        InputError: `size` is not two positive integers that leave room for the panels.
    """
    wide = extent[0] > 3.0 * extent[1]
    shape = (num_panels, 1) if wide else (1, num_panels)
    top, bottom, side = 16.0 + 44.0 + 25.0 * (header_lines - 1), 108.0 if bar else 24.0, 28.0
    if size is not None:
        if not is_size(size):
            raise InputError(f"size must be two positive integers (width, height) in pixels, got {size!r}")
        width, height = int(size[0]), int(size[1])
        if width // shape[1] < 160 or height // shape[0] < 200:
            raise InputError(
                f"size {(width, height)} is too small for {shape[0]} × {shape[1]} panels of at least 160 × 200 pixels"
            )
        scale = min(width / shape[1] / _PANEL_WIDTH, height / shape[0] / (top + bottom + 200.0))
        scale = float(np.clip(scale, 0.45, 3.0))
    else:
        scale, inner = 1.0, (_WIDE_PANEL if wide else _PANEL_WIDTH) - 2 * side
        tall = inner * extent[1] / max(extent[0], 1e-300)
        field = float(np.clip(tall, _FIELD_HEIGHT_MIN, _FIELD_HEIGHT))
        narrow = field * extent[0] / max(extent[1], 1e-300)
        panel = _WIDE_PANEL if wide else int(np.clip(narrow + 2 * side, _PANEL_WIDTH_MIN, _PANEL_WIDTH))
        width, height = panel * shape[1], round(top + field + bottom) * shape[0]
    return Layout(
        shape=shape, size=(width, height), scale=scale, top=top * scale, bottom=bottom * scale, side=side * scale
    )


def frame(camera: Any, view: View, layout: Layout, points: np.ndarray) -> None:
    """Points a panel's camera so that the points `[n, 3]` just fill what titles and colour bar leave free."""
    flat = view.flat(points)
    low, high = flat.min(0), flat.max(0)
    width, height = layout.panel
    free = np.array([width - 2 * layout.side, height - layout.top - layout.bottom])
    unit = float(((high - low) / np.maximum(free, 1.0)).max()) or 1.0  # length of a pixel
    middle = (low + high) / 2
    middle[1] += (layout.top - layout.bottom) / 2 * unit  # the free part is not in the panel's middle
    depth = points @ view.direction
    focal = middle[0] * view.right + middle[1] * view.up + (depth.min() + depth.max()) / 2 * view.direction
    radius = float(np.ptp(depth)) + unit * max(width, height)
    camera.parallel_projection = True
    camera.focal_point = tuple(focal)
    camera.position = tuple(focal + 2 * radius * view.direction)
    camera.up = tuple(view.up)
    camera.parallel_scale = unit * height / 2
    camera.clipping_range = (0.5 * radius, 3.5 * radius)


def is_size(size: Any) -> bool:
    """Whether it is two positive integers, a width and a height."""
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in size)
    )
