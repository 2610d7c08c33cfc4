"""Errors of rollouts on a split of series."""

import pytest
import torch
from fixtures_meshes import plate

import flare_connect as fc
from flare_connect.errors import ConfigError, InputError
from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.train import evaluate_rollouts

FRAMES = 5


@pytest.fixture
def store(tmp_path):
    """Three series that grow by what they began with; the test series have a node of no cell, whose values are huge."""
    meshes = []
    for i in range(3):
        mesh = plate(4)
        pos = torch.cat([mesh.pos, torch.tensor([[9.0, 9.0]], dtype=mesh.pos.dtype)])
        first = torch.linspace(1, 2, len(pos)) * (i + 1)
        first[-1] = 1e6
        u = first[:, None] * torch.arange(1.0, FRAMES + 1)
        w = torch.stack([u, torch.zeros_like(u)], dim=2)
        meshes.append(fc.Mesh.from_arrays(pos, mesh.cells, point_data={"u": u, "w": w}))
    fc.write_store(
        tmp_path / "s.h5", meshes, splits={"train": [0], "test": [1, 2], "none": []}, generator="test",
        generator_version=1, seed=0, parameters={},
    )  # fmt: skip
    return fc.MeshStore(tmp_path / "s.h5")


@pytest.fixture
def still():
    """A model that changes nothing."""
    made = FlareRollout(
        RolloutConfig(
            dim=2, fields={"u": 1, "w": 2},
            architecture=Architecture(channels=16, num_blocks=1, num_heads=4, num_latents=4),
        )
    )  # fmt: skip
    for parameter in made.trunk.parameters():
        torch.nn.init.zeros_(parameter)
    return made


@pytest.mark.parametrize("initial", [1, 3])
def test_what_changes_nothing_is_as_good_as_persistence(store, still, initial):
    """Worked by hand: frame t is t + 1 times the first, so the last one given is off by 1 − initial / (t + 1)."""
    expected = [1 - initial / t for t in range(initial + 1, FRAMES + 1)]
    found = evaluate_rollouts(still, store, "test", initial=initial, progress=False)
    assert list(found) == ["u", "w"]
    for each in found.values():
        assert each.rel_l2_per_frame == pytest.approx(expected, rel=1e-5)
        assert each.persistence_per_frame == pytest.approx(expected, rel=1e-5)
        assert each.rel_l2 == each.rel_l2_of_persistence == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        assert each.rel_l2_per_mesh == pytest.approx([each.rel_l2] * 2)


@pytest.mark.filterwarnings("ignore:frame 1 of the rollout is lost")
def test_a_lost_rollout_is_infinitely_wrong(store, still):
    torch.nn.init.constant_(still.trunk.decode.bias, torch.nan)
    found = evaluate_rollouts(still, store, "test", progress=False)["u"]
    assert found.rel_l2 == found.rel_l2_per_frame[0] == float("inf")
    assert found.rel_l2_of_persistence < 1


def test_what_cannot_be_scored_is_refused(store, still):
    with pytest.raises(InputError, match="the split 'none' is empty"):
        evaluate_rollouts(still, store, "none")
    with pytest.raises(ConfigError, match="`initial` must be at least 1, got 0"):
        evaluate_rollouts(still, store, "test", initial=0)
    with pytest.raises(InputError, match="there is no frame to predict: the series has 5, and 5 are given"):
        evaluate_rollouts(still, store, "test", initial=5)
