"""Attention within clusters: a loop over clusters, no way from one to another, empty clusters, order of the points."""

import subprocess
import sys
import warnings

import pytest
import torch
from fixtures_meshes import plate

import flare_kernels
from flare_connect.errors import ConfigError
from flare_connect.mesh import anchors, coarse_mesh
from flare_connect.nn import ClusterFlare, ClusterOrder, FlareAttention
from flare_kernels import Segments

C, H, M, K = 16, 4, 3, 7
VARIANTS = {
    "plain": {},
    "linear": {"num_kv_layers": -1},
    "normalised": {"qk_norm": True},
    "adapted": {"queries": "adapted"},
    "separate": {"separate_decode": True},
}
# Points of each cluster, in an order of their own; first, last and inner clusters are empty, one holds a single point.
CLUSTER = torch.tensor([5, 1, 1, 4, 5, 2, 5, 1, 5, 4, 5, 5, 1, 5, 4, 5, 5, 5, 5, 5])
N = len(CLUSTER)


def layer(**options):
    return ClusterFlare(C, num_heads=H, num_latents=M, **options).double()


def points(n=N):
    return torch.randn(n, C).double()


def clusters(ids=CLUSTER, count=K):
    return ClusterOrder.from_clusters(ids, count)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_a_loop_over_clusters(weighted):
    cluster_flare, x, weights = layer(), points(), torch.randn(N).double() if weighted else None
    inner = cluster_flare.attention
    expected = torch.full_like(x, torch.nan)
    for c in CLUSTER.unique():
        mine = CLUSTER.eq(c)
        k, v = (projection(x[mine]).unflatten(1, (H, -1)) for projection in (inner.key, inner.value))
        y = flare_kernels.mixer(
            inner.latents, k, v, scale=1.0, log_weights=weights[mine] if weighted else None, impl="reference"
        )
        expected[mine] = inner.output(y.flatten(1))
    torch.testing.assert_close(cluster_flare(x, clusters(), log_weights=weights), expected)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_each_cluster_is_a_mesh_of_flare(options):
    """Gradients of points and weights included."""
    cluster_flare, plain = layer(**options), FlareAttention(C, num_heads=H, num_latents=M, **options).double()
    plain.load_state_dict(cluster_flare.attention.state_dict())
    x, weight = points().requires_grad_(), points()
    y = cluster_flare(x, clusters())
    alone = x.detach().clone().requires_grad_()
    members = [(CLUSTER.eq(c)).nonzero().flatten() for c in CLUSTER.unique()]
    parts = [plain(alone[rows], Segments.from_lengths([len(rows)])) for rows in members]
    expected = torch.empty_like(y).index_copy(0, torch.cat(members), torch.cat(parts))
    torch.testing.assert_close(y, expected)
    ours = torch.autograd.grad((y * weight).sum(), [x, *cluster_flare.parameters()])
    theirs = torch.autograd.grad((expected * weight).sum(), [alone, *plain.parameters()])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("change", [1.0, torch.nan])
def test_a_change_stays_in_its_cluster_bit_for_bit(change, options, impl, device):
    """Not even a NaN gets out."""
    cluster_flare, x = layer(impl=impl, **options).float().to(device), points().float().to(device)
    order = clusters(CLUSTER.to(device))
    changed = x.clone()
    changed[CLUSTER.tolist().index(1)] += change
    before, after = cluster_flare(x, order), cluster_flare(changed, order)
    assert before.isfinite().all()
    moved = (before != after).any(1).cpu()
    assert torch.equal(moved, CLUSTER == 1)


def test_every_point_of_a_cluster_sees_the_others():
    x = points().requires_grad_()
    layer(queries="adapted")(x, clusters())[CLUSTER == 4].square().sum().backward()
    assert torch.equal(x.grad.abs().sum(1) > 0, CLUSTER == 4)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_points_and_clusters_may_come_in_any_order(options):
    cluster_flare, x, shuffled = layer(**options), points(), torch.randperm(N)
    y = cluster_flare(x, clusters())
    torch.testing.assert_close(cluster_flare(x[shuffled], clusters(CLUSTER[shuffled])), y[shuffled])
    torch.testing.assert_close(cluster_flare(x, clusters(torch.randperm(K)[CLUSTER])), y)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_weight_is_trained(options):
    cluster_flare = layer(**options)
    cluster_flare(points(), clusters()).square().sum().backward()
    size = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in cluster_flare.named_parameters()}
    # Keys that serve only the gather shift all scores of a latent alike by their bias: the softmax does not see it.
    blind = {"attention.key.last.bias"} if options.get("separate_decode") else set()
    assert {name for name, g in size.items() if g < 1e-9} == blind


def test_perceptrons_computed_again_give_the_same_gradients():
    cluster_flare, x, calls = layer(), points(), []
    cluster_flare.attention.key.first.register_forward_hook(lambda *_: calls.append(1))
    gradients = [
        torch.autograd.grad(cluster_flare(x, clusters(), recompute=again).square().sum(), cluster_flare.parameters())
        for again in (False, True)
    ]
    assert len(calls) == 1 + 2
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again)


@pytest.mark.parametrize(
    ("ids", "count"),
    [([], 3), ([2], 3), ([0, 0, 0], 1), ([3, 0, 2, 1], 4), ([1, 1, 0, 0], 2), ([0] * 400 + [2] * 3, 4)],
    ids=["no points", "one point", "one cluster", "a cluster a point", "equal clusters", "unequal clusters"],
)
def test_unusual_clusters(ids, count):
    cluster = torch.tensor(ids, dtype=torch.int64)
    x = points(len(ids))
    fast, slow = layer(), layer(impl="reference")
    slow.load_state_dict(fast.state_dict())
    y = fast(x, clusters(cluster, count))
    assert y.shape == x.shape
    torch.testing.assert_close(y, slow(x, clusters(cluster, count)))


def test_the_order_is_stable_and_inverted():
    order = clusters()
    assert torch.equal(order.order, torch.tensor(sorted(range(N), key=lambda n: int(CLUSTER[n]))))
    assert torch.equal(order.order[order.inverse], torch.arange(N))
    assert order.segments.lengths == (0, 4, 1, 0, 3, 12, 0)
    assert order.segments.ptr.tolist() == [0, 0, 4, 5, 5, 8, 20, 20]


def test_the_clusters_of_a_mesh():
    """Two plates side by side that nothing joins; the anchors are all on the first."""
    first, num_anchors = plate(6), 5
    found = coarse_mesh(first, anchors(first, num_anchors)[0]).cluster
    both = torch.cat([found, torch.full_like(found, num_anchors)])
    x = points(len(both)).requires_grad_()
    layer()(x, clusters(both, num_anchors + 1))[: len(found)].square().sum().backward()
    assert (x.grad[: len(found)].abs().sum(1) > 0).all()
    assert torch.equal(x.grad[len(found) :], torch.zeros_like(x.grad[len(found) :]))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_mixed_precision_changes_little(options, device):
    cluster_flare, x = layer(**options).float().to(device), points().float().to(device)
    order = clusters(CLUSTER.to(device))
    exact = cluster_flare(x, order)
    with torch.autocast(device.type, torch.bfloat16):
        rounded = cluster_flare(x, order)
        rounded.float().square().sum().backward()
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    assert all(p.grad.isfinite().all() for p in cluster_flare.parameters())


@pytest.mark.gpu
def test_the_host_waits_once_a_batch():
    cluster_flare, x, ids = layer().float().cuda(), points().float().cuda(), CLUSTER.cuda()
    cluster_flare(x, clusters(ids)).sum().backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            order = clusters(ids)
            num_first = len(caught)
            cluster_flare(x, order).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = ["synchronizing CUDA operation" in str(warning.message) for warning in caught]
    assert (sum(waits[:num_first]), sum(waits)) == (1, 1), [str(warning.message) for warning in caught]


COMPILE = """
import torch
from flare_connect.nn.cluster import ClusterFlare, ClusterOrder

layer = ClusterFlare(16, num_heads=4, num_latents=3)
compiled = torch.compile(layer, dynamic=True, fullgraph=True, backend="aot_eager")
for n in (60, 90, 47, 133):
    x, order = torch.randn(n, 16), ClusterOrder.from_clusters(torch.arange(n) % 5, 6)
    torch.testing.assert_close(compiled(x, order), layer(x, order))
# One for the first sizes seen, one for all others.
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
"""


def test_batches_share_a_compiled_graph():
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=240)


@pytest.mark.parametrize(("ids", "found"), [([0, -1, 2], "-1 … 2"), ([0, 3, 2], "0 … 3"), ([-1, 3], "-1 … 3")])
def test_numbers_out_of_range(ids, found):
    with pytest.raises(ValueError, match=f"from 0 to `num_clusters` − 1 = 2, got {found}"):
        clusters(torch.tensor(ids), 3)


def test_what_cannot_work():
    with pytest.raises(ValueError, match="`x` has 25 rows, `clusters` 20 points"):
        layer()(points(25), clusters())
    with pytest.raises(Exception, match="log_weights"):
        layer()(points(), clusters(), log_weights=torch.zeros(25).double())
    with pytest.raises(ConfigError, match="`num_latents` must be at least 1, got 0"):
        ClusterFlare(C, num_latents=0)
