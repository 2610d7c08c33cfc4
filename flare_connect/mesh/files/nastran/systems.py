"""Coordinate systems of Nastran decks."""

import numpy as np

from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.labels import Labels

SYSTEMS = {"CORD1R": 8, "CORD1C": 8, "CORD1S": 8, "CORD2R": 11, "CORD2C": 11, "CORD2S": 11}
"""Card → its fields."""

_DEEPEST = 50


def in_basic(points: np.ndarray, systems: np.ndarray, nodes: Labels, given: dict[str, np.ndarray]) -> np.ndarray:
    """Positions `[N, 3]` in the basic system.

    Args:
        points: coordinates of the nodes in their own systems `[N, 3]`.
        systems: label of each node's system, 0 for the basic one `[N]`.
        nodes: rows of the nodes by label.
        given: card → its fields as numbers `[n, fields]`.

    Raises:
        FailedError: a system is not defined, or is defined by itself, or its three points lie on a line.
    """
    if not systems.any():
        return points
    all_systems = _Systems(points, systems, nodes, given)
    out = points.copy()
    for label in np.unique(systems).tolist():
        out[systems == label] = all_systems.in_basic(points[systems == label], label, ())
    return out


class _Systems:
    def __init__(self, points: np.ndarray, systems: np.ndarray, nodes: Labels, given: dict[str, np.ndarray]):
        self.points, self.systems, self.nodes = points, systems, nodes
        self.given: dict[int, tuple[str, np.ndarray]] = {}  # the card, and what defines the system on it
        for name, rows in given.items():
            for row in rows:
                parts = (row,) if name[4] == "2" else (row[:4], row[4:])  # two systems on one card
                for part in parts:
                    if np.isfinite(part).all() and 0 < part[0] < 2**53:
                        self.given[int(part[0])] = (name, part[1:])
        self.frames: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def in_basic(self, points: np.ndarray, label: int, above: tuple[int, ...]) -> np.ndarray:
        """Points `[n, 3]` of a system, in the basic one."""
        if label == 0:
            return points
        if label not in self.given:
            raise FailedError(f"coordinate system {label} is used, but not defined")
        if label in above:
            chain = " -> ".join(map(str, (*above, label)))
            raise FailedError(f"coordinate system {label} is defined by itself: {chain}")
        if len(above) > _DEEPEST:
            raise FailedError(f"coordinate system {above[0]} rests on more than {_DEEPEST} others")
        if label not in self.frames:
            self.frames[label] = self._frame(label, (*above, label))
        origin, axes = self.frames[label]
        form = self.given[label][0][5]
        first, second, third = points.T
        if form == "C":
            angle = np.deg2rad(second)
            points = np.stack([first * np.cos(angle), first * np.sin(angle), third], axis=1)
        elif form == "S":  # the second is the angle from the axis z, the third the one about it
            polar, angle = np.deg2rad(second), np.deg2rad(third)
            flat = first * np.sin(polar)
            points = np.stack([flat * np.cos(angle), flat * np.sin(angle), first * np.cos(polar)], axis=1)
        return origin + points @ axes

    def _frame(self, label: int, above: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Origin and axes `[3, 3]` out of the origin, a point on z, and a point in the plane of x and z."""
        name, values = self.given[label]
        if name[4] == "1":
            rows = self.nodes.rows(values.astype(np.int64))
            if (rows < 0).any():
                raise FailedError(
                    f"coordinate system {label} names node {int(values[rows < 0][0])}, which is not defined"
                )
            corners = [self.in_basic(self.points[[row]], int(self.systems[row]), above)[0] for row in rows.tolist()]
        else:
            corners = list(self.in_basic(values[1:].reshape(3, 3), int(values[0]), above))
        z = corners[1] - corners[0]
        y = np.cross(z, corners[2] - corners[0])
        axes = np.stack([np.cross(y, z), y, z])
        length = np.linalg.norm(axes, axis=1, keepdims=True)
        if not (length > 0).all():
            raise FailedError(f"the three points of coordinate system {label} lie on a line")
        return corners[0], axes / length
