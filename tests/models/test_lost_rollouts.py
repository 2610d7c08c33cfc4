"""Rollouts that leave all bounds."""

import pytest
import torch
from fixtures_meshes import plate

from flare_connect.models import Architecture, FlareRollout, RolloutConfig


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(("change", "lost"), [(torch.inf, [1]), (40.0, [3]), (1.0, [])])
def test_it_is_said_once(change, lost, relative, recwarn):
    """What was given and learned from is about one, so a hundred is too much."""
    made = FlareRollout(
        RolloutConfig(
            dim=2, fields={"u": 1, "w": 2}, relative=relative,
            architecture=Architecture(channels=16, num_blocks=1, num_heads=4, num_latents=8),
        )
    )  # fmt: skip
    torch.nn.init.zeros_(made.trunk.decode.weight)
    torch.nn.init.constant_(made.trunk.decode.bias, change)
    mesh, ones = plate(5), torch.ones(plate(5).num_nodes, 2)
    found = made.rollout(mesh, {"u": ones[:, 0], "w": ones}, 5)
    assert found["w"].shape == (mesh.num_nodes, 5, 2)
    if relative and lost:
        lost = [min(lost[0], 2)]  # changes grow with what changes: by 1 + 40 each time
    assert [str(told.message)[:30] for told in recwarn] == [f"frame {n} of the rollout is lost" for n in lost]


def test_a_field_that_is_usually_large_may_be():
    made = FlareRollout(RolloutConfig(dim=2, fields={"u": 1}))
    made.frame_statistics.std.fill_(1e6)
    torch.nn.init.zeros_(made.trunk.decode.weight)
    torch.nn.init.constant_(made.trunk.decode.bias, 1e5)
    mesh = plate(5)
    assert float(made.rollout(mesh, {"u": torch.zeros(mesh.num_nodes)}, 3)["u"].max()) > 1e5
