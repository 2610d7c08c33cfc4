"""How the study of the shipped model meshes cells with Gmsh as its users would."""

import importlib
import sys

import numpy as np
import pytest

from flare_connect.mesh import find_periodic_pairs


@pytest.fixture(scope="module")
def elsewhere(repository):
    """The study as a module."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "examples/studies/shipped")
        sys.modules.pop("rows", None)  # each study has the common modules in its path
        yield importlib.import_module("elsewhere")
        sys.modules.pop("rows", None)


def test_holes_lie_inside_and_apart(elsewhere):
    cells = elsewhere.draw(40, np.random.default_rng(0))
    assert len(cells) == 40
    assert {len(circles) for circles in cells} <= {1, 2, 3, 4}
    for circles in cells:
        for i, (x, y, radius) in enumerate(circles):
            assert max(abs(x - 0.5), abs(y - 0.5)) + radius < 0.5
            assert all(np.hypot(x - u, y - v) > radius + r for u, v, r in circles[:i])


def test_cells_are_meshed_in_every_way(elsewhere):
    """Rims are a set, opposite sides alike, edges as long as told."""
    circles = [(0.35, 0.4, 0.18), (0.75, 0.7, 0.12)]
    elsewhere.gmsh.initialize()
    elsewhere.gmsh.option.setNumber("General.Terminal", 0)
    ways = [(number, "0.05") for number in elsewhere.ALGORITHMS.values()]
    ways += [(6, field) for field in elsewhere.FIELDS.values()]
    for algorithm, field in ways:
        mesh = elsewhere.meshed(circles, algorithm, field)
        pos = mesh.pos.numpy()
        rims = np.min([abs(np.hypot(pos[:, 0] - x, pos[:, 1] - y) - r) for x, y, r in circles], axis=0) < 1e-6
        assert set(mesh.sets["holes"].ids.tolist()) == set(np.flatnonzero(rims).tolist())
        assert find_periodic_pairs(mesh).shape[1] > 8
        assert mesh.num_components == 1
        assert mesh.num_inverted_cells == 0
    assert abs(elsewhere.meshed(circles, 6, "0.05").num_nodes / elsewhere.meshed(circles, 6, "0.1").num_nodes - 4) < 1.2
