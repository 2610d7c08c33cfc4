"""Channels with holes: layouts keep their distances, meshes their holes, samples what they are given; resumable."""

import dataclasses
import re

import h5py
import numpy as np
import pytest
import torch

from flare_connect.errors import ConfigError, MeshError, StoreError
from flare_connect.mesh import MeshStore
from flare_datasets.holed_channels import Hole, HoledChannelConfig, draw_holes, generate, generate_sample, mesh_channel
from flare_datasets.holed_channels import sample as sample_module
from flare_datasets.holed_channels.geometry import gap
from flare_datasets.holed_channels.layouts import BEFORE, BEHIND, LENGTH, blocked

COUNTS = {"num_train": 2, "num_val": 1, "num_test": 1, "num_more": 1}
CONFIG = HoledChannelConfig(
    **COUNTS, num_nodes=350, num_frames=4, time_step=0.02, spin_up=0.02, more_holes=(5, 5), seed=3
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("channels") / "flow.h5", CONFIG, num_workers=0, progress=False)


def test_distances_of_holes_are_those_of_their_outlines():
    """Against points along the outlines."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = rng.uniform([0.0, 0.0, 0.02, 0.0, 0.0], [1.0, 1.0, 0.1, 0.3, 3.0], (2, 5))
        one, other = (Hole(*map(float, row)) for row in drawn)
        turn = np.linspace(0, 2 * np.pi, 2_001)
        round_it = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        points = (other.ends[:, None] + other.radius * round_it).reshape(-1, 2)
        between = other.ends[0] + np.linspace(0, 1, 2_001)[:, None] * (other.ends[1] - other.ends[0])
        across = other.radius * np.array([-other.direction[1], other.direction[0]])
        points = np.concatenate([points, between + across, between - across, between])
        nearest = one.distance(points).min()
        assert gap(one, other) == pytest.approx(gap(other, one))
        if gap(one, other) > 0:
            assert nearest == pytest.approx(gap(one, other), abs=1e-3)
        else:
            assert nearest < 1e-3


def test_layouts_keep_their_distances():
    rng = np.random.default_rng(1)
    for split in ("train", "more"):
        for _ in range(10):
            holes = draw_holes(CONFIG, rng, split)
            least, most = CONFIG.holes_of(split)
            assert least <= len(holes) <= most
            assert min((gap(a, b) for i, a in enumerate(holes) for b in holes[:i]), default=1.0) >= CONFIG.min_gap
            assert blocked(holes).max() <= CONFIG.max_blocked
            for hole in holes:
                low, high = hole.ends.min(axis=0) - hole.radius, hole.ends.max(axis=0) + hole.radius
                assert low[0] >= BEFORE - 1e-12
                assert high[0] <= LENGTH - BEHIND + 1e-12
                assert low[1] >= CONFIG.min_gap - 1e-12
                assert high[1] <= 1 - CONFIG.min_gap + 1e-12
    crowded = dataclasses.replace(CONFIG, num_holes=(12, 12), hole_radius=(0.2, 0.2), slit_probability=0.0)
    with pytest.raises(MeshError, match="12 holes found no place in 50 layouts"):
        draw_holes(crowded, rng, "train")


def test_what_is_blocked_is_what_holes_take():
    circle = Hole(1.0, 0.5, 0.2)
    assert blocked([circle]).max() == pytest.approx(0.4, abs=0.011)
    assert blocked([circle]).mean() == pytest.approx(circle.area / LENGTH, abs=2e-3)
    assert blocked([Hole(1.0, 0.5, 0.02, 0.2, np.pi / 2)]).max() == pytest.approx(0.44, abs=0.011)


def test_meshes_have_the_area_and_the_holes_asked_for():
    holes = [Hole(0.5, 0.4, 0.12), Hole(1.2, 0.5, 0.02, 0.2, 0.6)]
    mesh = mesh_channel(holes, 900)
    assert len(mesh.pos) == pytest.approx(900, rel=0.15)
    a, b, c = (mesh.pos[mesh.triangles[:, i]] for i in range(3))
    area = 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    assert area.min() > 0
    # Straight edges within the round outlines: a little more is left.
    assert area.sum() == pytest.approx(LENGTH - sum(hole.area for hole in holes), rel=2e-3)
    for hole, nodes in zip(holes, mesh.hole_nodes, strict=True):
        assert np.allclose(hole.distance(mesh.pos[nodes]), 0, atol=1e-6)
    assert (mesh.pos[mesh.inlet, 0] == 0).all()
    assert (mesh.pos[mesh.outlet, 0] == LENGTH).all()
    assert np.isin(mesh.pos[mesh.walls, 1], (0.0, 1.0)).all()
    edges = np.unique(np.sort(mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0, return_counts=True)
    on_boundary = np.unique(edges[0][edges[1] == 1])
    named = np.concatenate([mesh.inlet, mesh.outlet, mesh.walls, mesh.holes])
    assert set(on_boundary) == set(named)


def test_a_file_holds_series_that_keep_what_is_given(made):
    with MeshStore(made) as store:
        assert {name: ids.tolist() for name, ids in store.splits.items()} == {
            "train": [0, 1], "val": [2], "test": [3], "more": [4],
        }  # fmt: skip
        assert store.attrs["units"]["velocity"] == "mean speed at the inlet"
        for i, mesh in enumerate(store):
            velocity, temperature = mesh.point_data["velocity"], mesh.point_data["temperature"]
            assert list(velocity.shape) == [mesh.num_nodes, 4, 2]
            assert list(temperature.shape) == [mesh.num_nodes, 4]
            assert mesh.topology.betti[1] == int(mesh.global_data["num_holes"])
            assert (velocity[mesh.set_nodes("holes")] == 0).all()
            y = mesh.pos[mesh.set_nodes("inlet"), 1]
            profile = (6 * y * (1 - y)).float()[:, None].expand(-1, 4)
            assert torch.allclose(velocity[mesh.set_nodes("inlet")][..., 0], profile, atol=sample_module.STEP)
            held = temperature[mesh.set_nodes("holes")]
            assert (held == held[:, :1]).all()
            assert len(held[:, 0].unique()) == int(mesh.global_data["num_holes"])
            assert temperature.abs().max() < 1.5  # eddies may lie on one another
            assert velocity.diff(dim=1).square().mean().sqrt() > 0.003
            assert (temperature.diff(dim=1) != 0).any()
            if i == 4:
                direct = generate_sample(CONFIG, i)
                assert torch.equal(direct.point_data["velocity"], velocity)
                assert torch.equal(direct.pos, mesh.pos)


def test_a_file_is_small_and_exact(made):
    with h5py.File(made) as file:
        data = file["point_data/velocity/data"]
        assert data.compression == "gzip"
        assert data.id.get_storage_size() < 0.8 * data.size * 4
        assert (data[()] * 2**12 % 1 == 0).all()


def test_generation_goes_on_where_it_was(made, tmp_path, monkeypatch):
    drawn = sample_module.draw_sample
    path, calls = tmp_path / "flow.h5", []

    def breaks(config, index):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return drawn(config, index)

    from flare_datasets.holed_channels import generation

    for _ in range(2):
        monkeypatch.setattr(generation, "_GENERATOR", dataclasses.replace(generation._GENERATOR, draw=breaks))
        try:
            generate(path, CONFIG, num_workers=0, progress=False)
        except KeyboardInterrupt:
            assert not path.exists()
    assert len(calls) == CONFIG.num_samples + 1
    assert path.read_bytes() == made.read_bytes()
    with pytest.raises(StoreError, match="made with other parameters: seed"):
        generate(path, dataclasses.replace(CONFIG, seed=4), num_workers=0, progress=False)


def test_samples_do_not_depend_on_workers(made, tmp_path):
    config = dataclasses.replace(CONFIG, num_train=1)
    path = generate(tmp_path / "flow.h5", config, num_workers=2, progress=False)
    with MeshStore(path) as one, MeshStore(made) as other:
        for name in ("train", "val", "more"):
            mine, whole = one[int(one.split(name)[0])], other[int(other.split(name)[0])]
            assert torch.equal(mine.point_data["temperature"], whole.point_data["temperature"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 1}, "`num_frames` must be a whole number in 2..10000, got 1"),
        ({"time_step": 0.0}, "`time_step` must be a number in [0.0001, 1], got 0.0"),
        ({"num_holes": (0, 2)}, "`num_holes` must be (least, most) with 1 <= least"),
        ({"slit_length": (0.05, 0.3)}, "four times `slit_radius`"),
        ({"hole_radius": (0.1, 0.3)}, "holes as wide as 0.6 do not fit"),
        ({"reynolds": (0.0, 10.0)}, "`reynolds` must be (least, most) with 1 <= least"),
        ({"num_nodes": 100}, "`num_nodes` must be a whole number in 200..200000, got 100"),
        ({"num_train": 0, "num_val": 0, "num_test": 0, "num_more": 0}, "are all 0"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        HoledChannelConfig(**options)


def test_holes_that_meet_are_refused():
    with pytest.raises(MeshError, match=r"holes of area .* holes meet, or one leaves the channel"):
        mesh_channel([Hole(0.6, 0.5, 0.1), Hole(0.7, 0.5, 0.1)], 500)
