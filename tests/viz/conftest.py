"""Meshes small enough to be drawn in a blink, and a way to read pictures."""

import numpy as np
import pytest
from PIL import Image

from flare_connect.mesh import Mesh


def grid(nx: int, ny: int, width: float = 2.0, height: float = 1.4, hole: float = 0.0) -> Mesh:
    """Triangles on a rectangle; cells whose centre is within `hole` of its middle are left out."""
    x, y = np.meshgrid(np.linspace(0, width, nx + 1), np.linspace(0, height, ny + 1), indexing="ij")
    pos = np.stack([x.ravel(), y.ravel()], 1)
    node = np.arange(len(pos)).reshape(nx + 1, ny + 1)
    a, b, c, d = (n.ravel() for n in (node[:-1, :-1], node[1:, :-1], node[1:, 1:], node[:-1, 1:]))
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    cells = cells[np.linalg.norm(pos[cells].mean(1) - [width / 2, height / 2], axis=1) > hole]
    used, cells = np.unique(cells, return_inverse=True)
    pos = pos[used]
    fields = {"x": pos[:, 0], "u": np.stack([0.01 * pos[:, 0], -0.02 * pos[:, 0] ** 2], 1)}
    return Mesh.from_arrays(pos, {"triangle": cells.reshape(-1, 3)}, point_data=fields, units={"x": "mm"})


@pytest.fixture(scope="session")
def plate() -> Mesh:
    """A rectangle of 2 by 1.4 without holes, with fields `x` (linear, mm) and `u` (a displacement)."""
    return grid(20, 14)


@pytest.fixture(scope="session")
def holed() -> Mesh:
    """The same with a hole in the middle."""
    return grid(40, 28, hole=0.4)


@pytest.fixture(scope="session")
def solid() -> Mesh:
    """A cube of six tetrahedra."""
    corners = np.array([[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)])
    cells = [[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]]
    return Mesh.from_arrays(corners, {"tetra": cells}, point_data={"z": corners[:, 2]})


@pytest.fixture
def pixels():
    """Reads a picture as `[height, width, 3]` integers."""

    def read(path) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB")).astype(int)

    return read
