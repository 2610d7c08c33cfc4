"""The four panels say what the mesh module found, and colour what belongs together alike."""

import numpy as np
import pytest
import torch

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, MeshCache
from flare_connect.viz import plot_topology
from flare_connect.viz.topology import _categories


def texts(plotter):
    return [
        [actor.GetInput() for actor in renderer.actors.values() if isinstance(getattr(actor, "GetInput", int)(), str)]
        for renderer in plotter.renderers
    ]


def test_panels_name_what_was_found(holed):
    plotter = plot_topology(holed, num_anchors=5)
    boundary, clusters, cost, thickness = texts(plotter)
    assert {"boundary", "parts: 2; loops: 1; cavities: 0"} <= set(boundary)
    assert {"clusters", "anchors: 5"} <= set(clusters)
    assert "from the first anchor, κ = 60" in cost
    assert "local thickness" in thickness
    cost_limits, thick_limits = (plotter.renderers[i].actors["mesh"].mapper.lookup_table.scalar_range for i in (2, 3))
    assert cost_limits[0] == thick_limits[0] == 0
    assert 0.4 < thick_limits[1] < 0.8  # beside the hole 0.6 is free on each side, above and below 0.3
    plotter.close()


def test_the_boundary_panel_shows_the_two_parts_in_two_colours(holed, pixels, tmp_path):
    picture = pixels(plot_topology(holed, save=tmp_path / "topology.png"))
    panel = picture[:, : picture.shape[1] // 4].reshape(-1, 3)
    for colour in _categories(np.array([0, 1])):
        assert (np.abs(panel.astype(int) - colour.astype(int)).max(1) <= 40).sum() > 50


def test_solids_and_separate_parts_are_drawn(solid, tmp_path):
    assert plot_topology(solid, num_anchors=100, save=tmp_path / "solid.png").is_file()  # it has 8 nodes
    far = solid.pos + torch.tensor([3.0, 0.0, 0.0])
    cells = torch.cat([solid.cells["tetra"], solid.cells["tetra"] + solid.num_nodes])
    two = Mesh.from_arrays(torch.cat([solid.pos, far]), {"tetra": cells})
    assert plot_topology(two, num_anchors=3, save=tmp_path / "two.png").is_file()
    plotter = plot_topology(two, num_anchors=3)
    first, *others = texts(plotter)
    assert {"connected parts", "2"} <= set(first)
    assert len(others) == 4
    plotter.close()


def test_a_cache_keeps_what_a_picture_takes(holed, tmp_path, monkeypatch):
    cache = MeshCache(tmp_path / "cache")
    first = plot_topology(holed, num_anchors=5, cache=cache)
    first.close()
    assert len(list(cache.folder.iterdir())) == 4
    monkeypatch.setattr("flare_connect.mesh.cache.write_atomically", None)  # nothing is computed, so nothing written
    again = plot_topology(holed, num_anchors=5, cache=cache)
    assert texts(again)[1] == texts(plot_topology(holed, num_anchors=5))[1]
    again.close()


def test_categories_differ_and_grey_is_for_nothing():
    colours = _categories(np.array([-1, *range(12)]))
    assert len(np.unique(colours, axis=0)) == 13
    np.testing.assert_array_equal(colours[0], [232, 234, 238])


def test_wrong_arguments_are_named(holed, tmp_path):
    with pytest.raises(InputError, match="`num_anchors` must be at least 1, got 0"):
        plot_topology(holed, num_anchors=0)
    with pytest.raises(InputError, match="the extension must be one of"):
        plot_topology(holed, save=tmp_path / "topology.txt")
