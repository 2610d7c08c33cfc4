import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from flare_connect.errors import ConfigError
from flare_connect.mesh import MeshStore
from flare_datasets.unit_cells import Hole, UnitCellConfig, generate, generate_sample, mesh_cell
from flare_datasets.unit_cells.layouts import draw_layout
from flare_datasets.unit_cells.meshing import num_components

CONFIG = UnitCellConfig(num_train=1, num_test=0, num_shift=1, num_val=0, num_contact=1, num_thin=1, num_nodes=2_000)


def layouts(split: str, count: int) -> list[list[Hole]]:
    return [draw_layout(CONFIG, np.random.default_rng([7, i]), split) for i in range(count)]


def nearest(first: Hole, second: Hole) -> tuple[float, np.ndarray]:
    """Least distance of two finely sampled outlines on the torus, and the place of it on the first."""
    points = [hole.outline(0.001) % 1.0 % 1.0 for hole in (first, second)]
    apart = KDTree(points[1], boxsize=1.0).query(points[0])[0]
    return float(apart.min()), points[0][apart.argmin()]


def test_holes_in_contact_leave_little_solid_in_every_cell():
    least, most = CONFIG.contact_gap
    gaps = []
    for holes in layouts("contact", 20):
        assert 2 <= len(holes) <= CONFIG.num_holes[1]
        for first, second in itertools.combinations(holes, 2):
            assert nearest(first, second)[0] >= 0.98 * least
        for first, second in zip(holes[::2], holes[1::2], strict=False):
            gaps.append(nearest(first, second)[0])
    assert max(gaps) <= 1.02 * most
    assert min(gaps) < 1.3 * least  # down to the smallest
    assert np.median(gaps) < 0.75 * most


def test_solid_between_holes_in_contact_holds_elements():
    for holes in layouts("contact", 3):
        mesh = mesh_cell(holes, 2_000)
        assert abs(len(mesh.pos) / 2_000 - 1) < 0.15
        gap, place = nearest(*holes[:2])
        middles = mesh.pos[mesh.triangles].mean(axis=1)
        near = np.abs((middles - place + 0.5) % 1.0 - 0.5).max(axis=1) < 1.5 * gap
        corners = mesh.pos[mesh.triangles[near]]
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
        assert np.median(edges) < 0.75 * gap


def test_smallest_gap_follows_the_mesh():
    fine, coarse = (dataclasses.replace(CONFIG, num_nodes=count).contact_gap for count in (8_000, 2_000))
    assert fine[0] == pytest.approx(coarse[0] / 2)
    assert fine[1] == coarse[1] == CONFIG.close_gap[0]
    assert dataclasses.replace(CONFIG, num_nodes=200).contact_gap == (CONFIG.close_gap[0],) * 2


def test_thin_bridges_are_many_and_thin():
    for holes in layouts("thin", 2):
        assert CONFIG.thin_holes[0] <= len(holes) <= CONFIG.thin_holes[1]
        assert 0.4 < sum(hole.area for hole in holes) < 0.75
        gaps = [nearest(first, second)[0] for first, second in itertools.combinations(holes, 2)]
        assert min(gaps) >= 0.98 * CONFIG.close_gap[0]
        assert sum(gap < 1.25 * CONFIG.close_gap[1] for gap in gaps) >= len(holes) / 2
        mesh = mesh_cell(holes, 2_000)
        assert abs(len(mesh.pos) / 2_000 - 1) < 0.15
        assert num_components(mesh) == 1


def test_old_settings_keep_their_parameters_and_their_samples(tmp_path):
    old = dataclasses.replace(CONFIG, num_contact=0, num_thin=0)
    assert not {"num_contact", "num_thin", "thin_holes"} & set(old.parameters())
    assert CONFIG.parameters().items() >= {"num_contact": 1, "num_thin": 1}.items()
    assert dataclasses.replace(old, thin_holes=(9, 9)).parameters()["thin_holes"] == [9, 9]
    for config in (old, CONFIG):
        assert UnitCellConfig(**config.parameters()) == config
    for index in (0, 1):
        before, after = generate_sample(old, index), generate_sample(CONFIG, index)
        assert torch.equal(before.pos, after.pos)
        assert torch.equal(before.point_data["stress"], after.point_data["stress"])
    with MeshStore(generate(tmp_path / "cells.h5", CONFIG, num_workers=0, progress=False)) as store:
        assert {name: ids.tolist() for name, ids in store.splits.items()} == {
            "train": [0], "shift": [1], "contact": [2], "thin": [3],
        }  # fmt: skip
        assert float(store[3].global_data["porosity"]) > 0.4


def test_same_cell_and_strain_in_other_elements():
    # In "contact" gaps are drawn down to what elements resolve; a range of nodes is drawn before the strain.
    for nodes in (2_000, (1_000, 2_000)):
        drawn = dataclasses.replace(CONFIG, num_nodes=nodes)
        coarse = dataclasses.replace(drawn, num_nodes=600, geometry_nodes=nodes)
        assert coarse.contact_gap == drawn.contact_gap
        for index in (0, 2):
            before, after = generate_sample(drawn, index), generate_sample(coarse, index)
            assert abs(after.num_nodes / 600 - 1) < 0.15
            for name in ("macro_strain", "num_holes", "porosity"):
                assert torch.equal(before.global_data[name], after.global_data[name])
    assert "geometry_nodes" not in CONFIG.parameters()
    assert UnitCellConfig(**coarse.parameters()) == coarse


def test_nodes_drawn_in_their_logarithm():
    """As many meshes from 1,000 to 2,000 nodes as from 8,000 to 16,000; files of before are still known."""
    config = dataclasses.replace(CONFIG, num_nodes=(1_000, 16_000), log_nodes=True)
    rng = np.random.default_rng(0)
    drawn = np.array([config.draw_nodes(rng) for _ in range(4_000)])
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    assert drawn.min() >= 1_000
    assert drawn.max() <= 16_000
    octaves = np.histogram(np.log2(drawn[:, 0] / 1_000), bins=4, range=(0, 4))[0] / len(drawn)
    assert np.allclose(octaves, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / len(drawn)))
    assert "log_nodes" not in CONFIG.parameters()
    assert UnitCellConfig(**config.parameters()) == config


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"log_nodes": 1}, "`log_nodes` must be true or false, got 1"),
        ({"num_contact": -1}, "`num_contact`.*-1"),
        ({"num_contact": 1, "num_holes": (1, 1)}, "allows no pair"),
        ({"thin_holes": (2, 8)}, "`thin_holes`"),
        ({"num_thin": 1, "thin_holes": (8, 36), "close_gap": (0.015, 0.1)}, "36 holes.*`close_gap`"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    with pytest.raises(ConfigError, match=says):
        UnitCellConfig(**settings)
