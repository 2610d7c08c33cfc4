"""Ragged batches in buckets of similar length: what is computed, how often, and how much of it is padding."""

import gc
import math
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flare_kernels as fk
from flare_kernels import buckets, sdpa
from flare_kernels.buckets import Buckets
from flare_kernels.segments import Segments

# Each needs several batches, with or without meshes of their own batch; some start or end with an empty mesh.
LOPSIDED = {
    "one long": [3, 5, 4, 600, 3, 3, 9],
    "long at both ends": [700, 2, 0, 40, 9, 9, 9, 530],
    "long neighbours": [0, 20, 513, 600, 1, 0],
    "only short": [1, 90, 2, 100, 3, 90, 90, 0],
    "one that is not empty": [0, 0, 30, 0],
    "only long": [0, 2000, 513, 0, 600],
}
HEADS, LATENTS, DIM = 2, 3, 4


@pytest.fixture(params=[buckets._LONGEST_SHARED, 10**9], ids=["long meshes apart", "all in buckets"])
def longest_shared(request, monkeypatch):
    """Rows above which a mesh is a batch of its own: as on the CPU, and as on a GPU."""
    monkeypatch.setattr(buckets, "_LONGEST_SHARED", request.param)
    return request.param


def problem(lengths, *, dtype=torch.float64, per_mesh=False, value_dim=DIM):
    """(q, k, v, log_weights, cost values, slope); some weights are −inf, some costs infinite."""
    generator = torch.Generator().manual_seed(sum(lengths) + len(lengths))
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    n = sum(lengths)
    q = draw(len(lengths), HEADS, LATENTS, DIM) if per_mesh else draw(HEADS, LATENTS, DIM)
    log_weights, values = draw(n), draw(n, LATENTS, 1).abs()
    log_weights[::5] = -torch.inf
    values[1::7] = torch.inf
    values[: n // 3, 1] = torch.inf
    return q, draw(n, HEADS, DIM), draw(n, HEADS, value_dim), log_weights, values, draw(HEADS).abs()


def mixed(impl, segments, q, k, v, log_weights, values, slope):
    cost = fk.Cost(values=values, slope=slope)
    arguments = {"log_weights": log_weights, "cost": cost, "cost_decode": cost}
    return fk.mixer(q, k, v, scale=0.7, ptr=segments, impl=impl, **arguments)


def assert_within_budget(result, plain, truth):
    """At most twice the error of plain torch in the same dtype, plus one rounding of the largest value."""
    budget = 2 * (plain.double() - truth).abs().max() + torch.finfo(result.dtype).eps * truth.abs().max()
    error = (result.double() - truth).abs().max()
    assert error <= budget, f"error {error:.2e} over budget {budget:.2e}"


@pytest.mark.parametrize("lengths", LOPSIDED.values(), ids=LOPSIDED)
@pytest.mark.parametrize("per_mesh", [False, True])
@pytest.mark.parametrize("value_dim", [DIM, DIM + 2])
def test_values_and_gradients_equal_the_oracle(lengths, per_mesh, value_dim, longest_shared, device):
    segments = Segments.from_lengths(lengths, device)
    if device.type == "cpu" and longest_shared >= max(lengths):
        assert len(Buckets.of(segments).shapes) == len(similar(lengths))
    results = []
    for impl in ("sdpa", "reference"):
        drawn = problem(lengths, per_mesh=per_mesh, value_dim=value_dim)
        q, k, v, log_weights, values, slope = (t.to(device) for t in drawn)
        inputs = [t.requires_grad_() for t in (q, k, v, log_weights, slope)]
        y = mixed(impl, segments, q, k, v, log_weights, values, slope)
        weights = torch.arange(y.numel(), dtype=y.dtype, device=device).view_as(y).cos()
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def similar(lengths):
    """The groups of the rule, written the plain way: the longest mesh takes along what is at least 0.8 as long."""
    left, groups = sorted(length for length in lengths if length), []
    while left:
        groups.append([length for length in left if 1.25 * length >= left[-1]])
        left = [length for length in left if 1.25 * length < left[-1]]
    return groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [LOPSIDED["one long"], LOPSIDED["only short"]])
def test_error_budget(dtype, lengths, longest_shared):
    segments = Segments.from_lengths(lengths)
    inputs = problem(lengths, dtype=dtype)
    truth = mixed("reference", segments, *(t.double() for t in inputs))
    result = mixed("sdpa", segments, *inputs)
    assert result.dtype == dtype
    assert_within_budget(result, mixed("reference", segments, *inputs), truth)


@pytest.mark.parametrize("lengths", LOPSIDED.values(), ids=LOPSIDED)
def test_gather_of_an_empty_mesh_is_zero(lengths, longest_shared):
    segments = Segments.from_lengths(lengths)
    q, k, v, *_ = problem(lengths)
    z = fk.gather(q, k, v, scale=1.0, ptr=segments, impl="sdpa")
    assert z.shape == (len(lengths), HEADS, LATENTS, DIM)
    torch.testing.assert_close(z, fk.gather(q, k, v, scale=1.0, ptr=segments, impl="reference"), rtol=1e-9, atol=1e-11)
    for mesh, length in enumerate(lengths):
        assert bool((z[mesh] == 0).all()) == (length == 0)


@given(st.lists(st.integers(0, 60) | st.integers(250, 270), min_size=1, max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_rows_and_meshes_come_back_where_they_were(lengths, apart):
    segments = Segments.from_lengths(lengths)
    if segments.num_rows == 0:
        return
    batches = Buckets.of(segments) if apart else buckets._grouped(segments, max(lengths))
    rows, meshes = torch.arange(1.0, segments.num_rows + 1), torch.arange(1.0, len(lengths) + 1)
    split = batches.split_rows(rows)
    assert torch.equal(batches.join_rows(split), rows)
    back = batches.join_meshes(batches.split_meshes(meshes))
    emptied = meshes.masked_fill(torch.tensor(lengths) == 0, 0.0) if batches.order is not None else meshes
    assert torch.equal(back, emptied)
    for shape, part, padding, ids in zip(
        batches.shapes, split, batches.padding, batches.split_meshes(segments.ptr[:-1].double()), strict=True
    ):
        assert part.shape == shape
        assert (padding is None) == bool((part != 0).all())
        assert torch.equal(part == 0, torch.zeros(shape, dtype=torch.bool) if padding is None else padding)
        # In each line of a batch: the rows of one mesh, in their order.
        expected = ids[:, None] + torch.arange(1.0, shape[1] + 1)
        assert torch.equal(part, expected.masked_fill(part == 0, 0.0))


@pytest.mark.parametrize("seed", range(5))
def test_few_calls_and_little_padding(seed, monkeypatch, longest_shared):
    generator = random.Random(seed)
    lengths = [round(math.exp(generator.uniform(0, math.log(3000)))) for _ in range(150)]
    shapes = []
    attention = sdpa.F.scaled_dot_product_attention

    def counted(q, k, v, **options):
        shapes.append((k.shape[0], k.shape[2]))
        return attention(q, k, v, **options)

    monkeypatch.setattr(sdpa.F, "scaled_dot_product_attention", counted)
    q, k, v, *_ = problem(lengths, dtype=torch.float32)
    fk.gather(q, k, v, scale=1.0, ptr=Segments.from_lengths(lengths), impl="sdpa")
    alone = sum(length > longest_shared for length in lengths)
    longest = max(length for length in lengths if length <= longest_shared)
    assert len(shapes) - alone <= 1 + math.log(longest / min(lengths), 1.25)
    assert sum(meshes * width for meshes, width in shapes) <= 1.25 * sum(lengths)


def test_made_once_and_forgotten_with_the_segments(monkeypatch):
    segments = Segments.from_lengths(LOPSIDED["one long"])
    known = len(buckets._known)
    first = Buckets.of(segments)
    monkeypatch.setattr(buckets, "_grouped", None)
    assert Buckets.of(segments) is first
    assert len(buckets._known) == known + 1
    del segments
    gc.collect()
    assert len(buckets._known) <= known


def test_a_broken_mesh_breaks_no_other(longest_shared):
    """Meshes of one batch share a tensor, and padding lies beside the last row."""
    lengths = [9, 8, 9, 8, 600]
    q, k, v, *_ = problem(lengths)
    k[9:17] = torch.nan
    v[9:17] = torch.nan
    y = fk.mixer(q, k, v, scale=1.0, ptr=Segments.from_lengths(lengths), impl="sdpa")
    assert torch.isnan(y[9:17]).all()
    assert torch.isfinite(y[:9]).all()
    assert torch.isfinite(y[17:]).all()


@pytest.mark.parametrize(
    ("few", "many"),
    [([600, 700], [600 + i for i in range(40)]), ([20, 30], [round(10 * 1.3**i) for i in range(12)])],
    ids=["meshes of their own batch", "shared batches"],
)
def test_gradients_of_more_batches_take_no_more_memory_for_a_row(few, many):
    """The gradient of a slice is a tensor of all rows: one for each batch would be time and memory of batches · N."""
    allocated = []
    for lengths in (few, many):
        q, k, v, *_ = problem(lengths, dtype=torch.float32)
        inputs = [t.requires_grad_() for t in (q, k, v)]
        segments = Segments.from_lengths(lengths)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            fk.mixer(q, k, v, scale=1.0, ptr=segments, impl="sdpa").sum().backward()
        assert all(t.grad is not None for t in inputs)
        total = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
        allocated.append(total / (sum(lengths) + HEADS * LATENTS * len(lengths)))
    assert allocated[1] < 1.5 * allocated[0], allocated


COMPILE = """
import torch, flare_kernels as fk

def run(q, k, v, segments):
    return fk.mixer(q, k, v, scale=1.0, ptr=segments, impl="sdpa")

compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
graphs = torch._dynamo.utils.counters["stats"]
for lengths in [5, 0, 70, 31], [6, 0, 300, 33], [9, 0, 700, 20], [4, 0, 40, 1200]:
    for shape in ([3], [4, 3]):
        q, k, v = torch.randn(*shape, 5, 4), torch.randn(sum(lengths), 3, 4), torch.randn(sum(lengths), 3, 4)
        inputs = [t.requires_grad_() for t in (q, k, v)]
        results = []
        for function in (compiled, run):
            y = function(q, k, v, fk.Segments.from_lengths(lengths).with_indices())
            results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)
assert graphs["unique_graphs"] <= 4, graphs  # for each form of q one with these lengths and one with any
"""


def test_a_compiled_graph_fits_other_lengths():
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=240)
