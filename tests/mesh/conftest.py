"""Fixtures of the mesh tests."""

import numpy as np
import pytest

from flare_connect.mesh import CELL_KINDS, Mesh


@pytest.fixture(params=list(CELL_KINDS))
def kind(request):
    """Every kind of cell."""
    return request.param


@pytest.fixture
def rich_mesh():
    """A square in the plane with two kinds of cells, fields of every sort, sets of every entity, units, pairs."""
    pos = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    return Mesh.from_arrays(
        pos,
        {"quad": [[0, 1, 4, 3]], "triangle": [[1, 2, 5], [1, 5, 4]]},
        point_data={
            "temperature": np.arange(6, dtype=np.float32),
            "displacement": np.arange(12.0).reshape(6, 2),
            "type": np.array([0, 1, 2, 0, 1, 2], dtype=np.int32),
        },
        cell_data={"stress": {"quad": [1.5], "triangle": [2.5, 3.5]}},
        global_data={"load": [1.0, -2.0], "material": 3},
        sets={"left": [3, 0]},
        units={"temperature": "K"},
        periodic_pairs=[[0, 3], [2, 5]],
    )


@pytest.fixture
def gmsh():
    """Gmsh, started and silent."""
    module = pytest.importorskip("gmsh")
    module.initialize(interruptible=False)
    module.option.setNumber("General.Terminal", 0)
    yield module
    module.finalize()
