"""Every implementation against the fp64 oracle, in the layouts that callers use."""

import re
import subprocess
import sys

import pytest
import torch

import flare_kernels as fk
from flare_kernels import reference
from flare_kernels.segments import Segments

LENGTHS = {"one": [37], "uniform": [20, 20, 20], "ragged": [15, 1, 63, 0, 40], "lopsided": [1, 2, 300]}


def problem(
    lengths, heads=3, latents=5, dim=4, value_dim=6, dtype=torch.float64, std=1.0, per_mesh=False, device="cpu"
):
    n, b = sum(lengths), len(lengths)
    generator = torch.Generator().manual_seed(sum(lengths) + heads)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(device)  # noqa: E731
    q = draw(b, heads, latents, dim) if per_mesh else draw(heads, latents, dim)
    return q * std, draw(n, heads, dim), draw(n, heads, value_dim), Segments.from_lengths(lengths, device)


def budget(result, plain, truth):
    """Error allowed: twice that of plain torch in the same dtype, plus one rounding of the largest value."""
    error = (plain.double() - truth).abs().max()
    return 2 * error + torch.finfo(result.dtype).eps * truth.abs().max()


def assert_within_budget(result, plain, truth):
    assert torch.isfinite(result).all()
    error = (result.double() - truth).abs().max()
    assert error <= budget(result, plain, truth), f"error {error:.2e} over budget {budget(result, plain, truth):.2e}"


def dense_truth(q, k, v, scale):
    """The two softmaxes of one mesh, written with nothing but matmul and softmax."""
    s = scale * q @ k.transpose(0, 1).transpose(1, 2)  # [H, M, N]
    z = torch.softmax(s, dim=2) @ v.transpose(0, 1)
    return (torch.softmax(s, dim=1).transpose(1, 2) @ z).transpose(0, 1)


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("per_mesh", [False, True])
def test_packed_equals_mesh_by_mesh(impl, lengths, per_mesh, device):
    q, k, v, segments = problem(lengths, per_mesh=per_mesh, device=device)
    y = fk.mixer(q, k, v, scale=0.7, ptr=segments.ptr, impl=impl)
    for mesh, length in enumerate(lengths):
        rows = slice(sum(lengths[:mesh]), sum(lengths[:mesh]) + length)
        if length:
            expected = dense_truth(q[mesh] if per_mesh else q, k[rows], v[rows], 0.7)
            torch.testing.assert_close(y[rows], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [1.0, 8.0, 40.0])
def test_error_budget(dtype, std, device):
    q, k, v, segments = problem(LENGTHS["ragged"], dtype=dtype, std=std, device=device)
    truth = fk.mixer(q.double(), k.double(), v.double(), scale=1.0, ptr=segments, impl="reference")
    plain = fk.mixer(q, k, v, scale=1.0, ptr=segments, impl="reference")
    result = fk.mixer(q, k, v, scale=1.0, ptr=segments, impl="sdpa")
    assert result.dtype == dtype
    assert_within_budget(result, plain, truth)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_gradients_of_all_implementations_agree(lengths, device):
    grads = []
    for impl in ("sdpa", "tiled", "reference"):
        q, k, v, segments = problem(lengths, device=device)
        weights = torch.linspace(-1, 1, k.shape[0], dtype=torch.float64, device=device).requires_grad_()
        inputs = [t.requires_grad_() for t in (q, k, v)] + [weights]
        y = fk.mixer(q, k, v, scale=0.5, ptr=segments, log_weights=weights, impl=impl)
        grads.append(torch.autograd.grad((y * torch.arange(y.numel(), device=device).view_as(y).cos()).sum(), inputs))
    for *ours, plain in zip(*grads, strict=True):
        for each in ours:
            assert torch.isfinite(each).all()
            torch.testing.assert_close(each, plain, rtol=1e-9, atol=1e-11)


def test_reference_gradient_against_finite_differences():
    q, k, v, segments = problem([4, 0, 3], heads=2, latents=2, dim=2, value_dim=2)
    slope = torch.tensor([0.3, 0.8], dtype=torch.float64)
    values = torch.rand(7, 2, 1, dtype=torch.float64)
    values[1, 0] = torch.inf

    def run(q, k, v, slope):
        cost = fk.Cost(values=values, slope=slope)
        return fk.mixer(q, k, v, scale=0.5, ptr=segments, cost=cost, cost_decode=cost, impl="reference")

    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in (q, k, v, slope)])


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
def test_dense_batch_is_a_packed_batch(impl):
    q, k, v, segments = problem(LENGTHS["uniform"])
    packed = fk.mixer(q, k, v, scale=1.0, ptr=segments, impl=impl)
    dense = fk.mixer(q, k.view(3, 20, 3, 4), v.view(3, 20, 3, 6), scale=1.0, impl=impl)
    assert torch.equal(dense, packed.view(3, 20, 3, 6))


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
def test_log_weight_counts_points(impl):
    """A point of weight log 2 is a point that stands there twice; −inf is a point that is not there."""
    q, k, v, _ = problem([12])
    twice = fk.gather(q, torch.cat([k, k[:3]]), torch.cat([v, v[:3]]), scale=1.0, impl=impl)
    weights = torch.zeros(12, dtype=torch.float64)
    weights[:3] = torch.tensor(2.0).log()
    torch.testing.assert_close(fk.gather(q, k, v, scale=1.0, log_weights=weights, impl=impl), twice)
    weights = torch.zeros(12, dtype=torch.float64)
    weights[5:] = -torch.inf
    masked = fk.gather(q, k, v, scale=1.0, log_weights=weights, impl=impl)
    torch.testing.assert_close(masked, fk.gather(q, k[:5], v[:5], scale=1.0, impl=impl))


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
@pytest.mark.parametrize("lengths", [[20, 20, 20], [15, 1, 30]])
def test_tokens_are_gathered_from_and_not_scattered_to(impl, lengths):
    q, k, v, segments = problem(lengths)
    _, token_k, token_v, token_segments = problem([2, 0, 5])
    tokens = fk.Tokens(k=token_k, v=token_v, ptr=token_segments.ptr)
    y = fk.mixer(q, k, v, scale=1.0, ptr=segments, tokens=tokens, impl=impl)
    assert y.shape == v.shape
    for mesh, (points, extra) in enumerate(zip(segment_rows(lengths), segment_rows([2, 0, 5]), strict=True)):
        z = fk.gather(q, torch.cat([k[points], token_k[extra]]), torch.cat([v[points], token_v[extra]]), scale=1.0)
        torch.testing.assert_close(y[points], fk.scatter(q, k[points], z, scale=1.0), msg=f"mesh {mesh}")


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
def test_costs_of_tokens_are_those_of_points_that_nothing_is_scattered_to(impl):
    q, k, v, segments = problem([6, 9], heads=4)
    _, token_k, token_v, extra = problem([2, 3], heads=4)
    points, tokens = torch.rand(15, 5, 2, dtype=torch.float64), torch.rand(5, 5, 2, dtype=torch.float64)
    tokens[3, 2] = torch.inf
    options = {"slope": torch.tensor([0.0, 0.5, 1.0, 2.0]).double(), "head_scale": torch.tensor([0, 1, 0, 1])}
    given = fk.Tokens(k=token_k, v=token_v, cost=tokens, ptr=extra)
    options["values"] = points
    z = fk.gather(q, k, v, scale=1.0, ptr=segments, cost=fk.Cost(**options), tokens=given, impl=impl)
    for mesh, (here, there) in enumerate(zip(segment_rows([6, 9]), segment_rows([2, 3]), strict=True)):
        options["values"] = torch.cat([points[here], tokens[there]])
        together = (torch.cat([k[here], token_k[there]]), torch.cat([v[here], token_v[there]]))
        alone = fk.gather(q, *together, scale=1.0, cost=fk.Cost(**options), impl="reference")
        torch.testing.assert_close(z[mesh], alone[0])
    with pytest.raises(ValueError, match="the tokens have a `cost`, the points none"):
        fk.gather(q, k, v, scale=1.0, ptr=segments, tokens=given, impl=impl)


def segment_rows(lengths):
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
def test_anchored_scores(impl):
    """Two scales, heads alternating, against scores written out; a latent nothing can reach stays zero."""
    q, k, v, _ = problem([25], heads=4)
    slope = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    values = torch.rand(25, 5, 2, dtype=torch.float64)
    values[:, 1] = torch.inf  # latent 1 sits in a part of the mesh without points
    values[7] = torch.inf  # point 7 is reached by no latent
    cost = fk.Cost(values=values, slope=slope, head_scale=torch.tensor([0, 1, 0, 1]))
    y = fk.mixer(q, k, v, scale=1.0, cost=cost, cost_decode=cost, impl=impl)
    s = torch.einsum("hmd,nhd->hnm", q, k)
    for head in range(4):
        s[head] = s[head] - (slope[head] * values[:, :, head % 2]).nan_to_num(nan=torch.inf)
    keep = [0, 2, 3, 4]
    points = [n for n in range(25) if n != 7]
    s = s[:, points][:, :, keep]
    z = torch.softmax(s, 1).transpose(1, 2) @ v[points].transpose(0, 1)
    expected = (torch.softmax(s, 2) @ z).transpose(0, 1)
    torch.testing.assert_close(y[points], expected)
    assert torch.equal(y[7], torch.zeros_like(y[7]))
    (gradient,) = torch.autograd.grad(y.square().sum(), slope)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_zero_slope_is_plain_flare():
    q, k, v, segments = problem(LENGTHS["ragged"])
    cost = fk.Cost(values=torch.rand(len(k), 5, 1, dtype=torch.float64), slope=torch.zeros(3, dtype=torch.float64))
    anchored = fk.mixer(q, k, v, scale=1.0, ptr=segments, cost=cost, cost_decode=cost)
    torch.testing.assert_close(anchored, fk.mixer(q, k, v, scale=1.0, ptr=segments))


@pytest.mark.parametrize("impl", ["sdpa", "tiled", "reference"])
def test_points_permute(impl):
    q, k, v, _ = problem([50])
    order = torch.randperm(50)
    y = fk.mixer(q, k, v, scale=1.0, impl=impl)
    torch.testing.assert_close(fk.mixer(q, k[order], v[order], scale=1.0, impl=impl), y[order])


@pytest.mark.parametrize("parts", [[25, 25], [1, 48, 1], [0, 50]])
def test_partial_gathers_merge_exactly(parts):
    q, k, v, _ = problem([50], std=8.0)
    whole, whole_lse = fk.gather(q, k, v, scale=1.0, return_lse=True)
    partials = [fk.gather(q, k[r], v[r], scale=1.0, return_lse=True) for r in segment_rows(parts)]
    z, lse = fk.merge_partials(*zip(*partials, strict=True))
    torch.testing.assert_close(z, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, whole_lse, rtol=1e-12, atol=1e-12)


def test_merging_nothing_but_empty_parts_is_finite():
    z = [torch.zeros(1, 2, 3, 4, requires_grad=True) for _ in range(2)]
    lse = [torch.full((1, 2, 3), -torch.inf, requires_grad=True) for _ in range(2)]
    merged, merged_lse = fk.merge_partials(z, lse)
    assert torch.equal(merged, torch.zeros_like(merged))
    assert (merged_lse == -torch.inf).all()
    merged.sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in z)


def test_separate_decode_weights():
    q, k, v, _ = problem([30])
    q2, k2, _, _ = problem([30], heads=3, dim=4)
    q2 = q2 + 1
    y = fk.mixer(q, k, v, scale=1.0, q_decode=q2, k_decode=k2 * 0.5)
    z = fk.gather(q, k, v, scale=1.0)
    torch.testing.assert_close(y, fk.scatter(q2, k2 * 0.5, z, scale=1.0))
    assert not torch.allclose(y, fk.mixer(q, k, v, scale=1.0))


COMPILE = """
import torch, flare_kernels as fk
q, k, v = torch.randn(3, 5, 4), torch.randn(40, 3, 4), torch.randn(40, 3, 6)
segments = fk.Segments.from_lengths([15, 25])
run = lambda q, k, v: fk.mixer(q, k, v, scale=1.0, ptr=segments)
compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(q, k, v), run(q, k, v))
"""


def test_compiles_without_graph_breaks():
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=240)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ptr": torch.tensor([0, 5])}, "must end at N = 10, got 5"),
        ({"ptr": torch.tensor([0, 7, 3, 10])}, "never decrease"),
        ({"v": torch.zeros(9, 2, 4)}, "`v` must be"),
        ({"k": torch.zeros(10, 2, 5)}, "`k` must be"),
        ({"log_weights": torch.zeros(3)}, "`log_weights` must be"),
        ({"impl": "magic"}, "`impl` must be one of auto, triton, sdpa, tiled, reference, got 'magic'"),
        ({"q": torch.zeros(2, 0, 4)}, "at least one latent"),
        ({"k": torch.zeros(10, 2, 4, dtype=torch.int64)}, "floating"),
        ({"q": torch.zeros(3, 2, 5, 4)}, "latents for 3 meshes"),
        ({"cost": fk.Cost(values=torch.zeros(10, 5, 1), slope=torch.zeros(2))}, "neither"),
        ({"log_weights": torch.zeros(10, device="meta")}, "`log_weights` is on meta, the points on cpu"),
        (
            dict.fromkeys(
                ("cost", "cost_decode"), fk.Cost(values=torch.zeros(10, 5, 1, device="meta"), slope=torch.zeros(2))
            ),
            "`cost values` is on meta, the points on cpu",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"q": torch.zeros(2, 5, 4), "k": torch.zeros(10, 2, 4), "v": torch.zeros(10, 2, 4)} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        fk.mixer(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), scale=1.0, **arguments)


def test_reference_softmax_of_nothing():
    p, lse = reference.softmax(torch.zeros(0, 2, 3), dim=0)
    assert p.shape == (0, 2, 3)
    assert torch.equal(lse, torch.full((2, 3), -torch.inf))
