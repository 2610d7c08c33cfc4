"""Computing activations again, and keeping points in bfloat16 between blocks, change memory and not the model."""

import pytest
import torch

from flare_connect.models.config import Architecture
from flare_connect.models.trunk import Trunk
from flare_connect.nn import Anchors
from flare_kernels import Segments


def step(recompute, stream=None, autocast=False):
    """Output and gradients of a small trunk with message passing and tokens; bytes kept for the backward pass."""
    torch.manual_seed(0)
    arch = Architecture(channels=16, num_blocks=3, num_heads=2, num_latents=4, num_kv_layers=2)
    trunk = Trunk(arch, features=5, edge_features=3, conditions=2, outputs=2)
    trunk.recompute, trunk.stream = recompute, stream
    x = torch.randn(40, 5)
    segments, tokens = Segments.from_lengths([15, 25]), Segments.from_lengths([2, 3])
    boundary = torch.tensor([0, 3, 15, 20, 30])
    cost = torch.rand(40, 4, 2).half()
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = trunk(
                x,
                torch.randn(2, 2),
                segments=segments,
                boundary_index=boundary,
                joint=segments.interleave(tokens),
                edge_index=torch.randint(0, 15, (2, 60)),
                edge_attr=torch.randn(60, 3),
                anchors=Anchors(cost=cost, typical=torch.ones(2), token_cost=cost[boundary]),
            )
        grads = torch.autograd.grad(y.float().square().sum(), list(trunk.parameters()), allow_unused=True)
    return y, grads, sum(kept)


@pytest.mark.parametrize("recompute", ["blocks", "layers"])
def test_recomputation_gives_the_same_gradients_and_keeps_less(recompute):
    y, grads, kept = step("nothing")
    again_y, again_grads, again_kept = step(recompute)
    assert torch.equal(y, again_y)
    for grad, again in zip(grads, again_grads, strict=True):
        assert (grad is None) == (again is None)
        if grad is not None:
            torch.testing.assert_close(grad, again)
    assert again_kept < kept / 3


def test_stream_in_bfloat16_is_close_and_smaller():
    y, _, kept = step("nothing", None, autocast=True)
    half_y, half_grads, half_kept = step("nothing", torch.bfloat16, autocast=True)
    exact, _, _ = step("nothing")
    error, half_error = ((x.float() - exact).norm() / exact.norm() for x in (y, half_y))
    # A residual stream that is rounded three times in each of three blocks, beside one that is not.
    assert half_error < 5 * error
    assert half_kept < kept
    assert all(torch.isfinite(grad).all() for grad in half_grads if grad is not None)


def test_stream_needs_autocast():
    y, _, _ = step("nothing", torch.bfloat16, autocast=False)
    exact, _, _ = step("nothing")
    assert torch.equal(y, exact)
