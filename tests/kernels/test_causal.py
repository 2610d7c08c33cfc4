"""Causal FLARE: the definition, tokens one by one and in chunks, states handed on, nothing from the future."""

import math
import re

import pytest
import torch

import flare_kernels as fk

H, M, D, DV = 2, 5, 3, 4


def problem(n, std=1.0, seed=0, dtype=torch.float64, batch=None):
    """Latent queries, keys, values, and log-weights that keep some tokens out, the first among them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    q = std / math.sqrt(D) * draw(*(() if batch is None else (batch,)), H, M, D)
    weights = draw(n)
    weights[::5] = -torch.inf
    return [x.to(dtype) for x in (q, draw(n, H, D), draw(n, H, DV))], weights.to(dtype)


def by_definition(q, k, v, log_weights=None, q_decode=None, k_decode=None):
    """A softmax over the tokens that came, for each token anew."""
    s = torch.einsum("hmd,nhd->nhm", q, k)
    if log_weights is not None:
        s = s + log_weights[:, None, None]
    p = torch.einsum("hmd,nhd->nhm", q if q_decode is None else q_decode, k if k_decode is None else k_decode).softmax(
        -1
    )
    outputs = []
    for t in range(len(k)):
        read = s[: t + 1].softmax(0).nan_to_num()  # of nothing but −inf
        outputs.append(torch.einsum("hm,nhm,nhd->hd", p[t], read, v[: t + 1]))
    return torch.stack(outputs)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("std", [1.0, 8.0, 40.0])
@pytest.mark.parametrize("n", [1, 15, 63, 100])
def test_against_the_definition(n, std, impl):
    (q, k, v), weights = problem(n, std)
    (q2, k2, _), _ = problem(n, std, seed=1)
    for options in ({}, {"log_weights": weights}, {"q_decode": q2, "k_decode": k2}):
        expected = by_definition(q, k, v, **options)
        found = fk.causal_mixer(q, k, v, scale=1.0, impl=impl, chunk=16, **options)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_autocast_casts_keys_and_values_and_nothing_else(impl):
    """Sums over the past keep their precision: with inputs in half precision the result is the same bit by bit."""
    (q, k, v), weights = problem(100, dtype=torch.float32)
    half = torch.bfloat16
    call = lambda k, v: fk.causal_mixer(  # noqa: E731
        q, k, v, scale=1.0, log_weights=weights, impl=impl, return_state=True
    )
    expected, state = call(k.to(half), v.to(half))
    with torch.autocast("cpu", half):
        found, last = call(k, v)
    assert found.dtype == half
    assert torch.equal(found, expected)
    assert last.z.dtype == torch.float32
    assert torch.equal(last.z, state.z)
    assert torch.equal(last.lse, state.lse)


@pytest.mark.parametrize("std", [1.0, 8.0, 40.0])
def test_chunks_in_single_precision_are_as_exact_as_tokens_one_by_one(std):
    """The budget of every kernel here: twice the error of plain torch in the same dtype, plus one rounding."""
    (q, k, v), weights = problem(300, std)
    truth = by_definition(q, k, v, weights)
    call = lambda impl: fk.causal_mixer(  # noqa: E731
        q.float(), k.float(), v.float(), scale=1.0, log_weights=weights.float(), impl=impl
    )
    plain, ours = ((call(impl).double() - truth).abs().max() for impl in ("reference", "chunked"))
    assert ours <= 2 * plain + torch.finfo(torch.float32).eps * truth.abs().max()


@pytest.mark.parametrize("chunk", [1, 7, 32, 1000])
def test_length_of_chunks_changes_nothing(chunk, monkeypatch):
    from flare_kernels.causal import chunked

    monkeypatch.setattr(chunked, "_MOST", 4 * 7 * 7 * H * M)  # several groups of chunks as well
    (q, k, v), weights = problem(90)
    torch.testing.assert_close(
        fk.causal_mixer(q, k, v, scale=0.7, log_weights=weights, chunk=chunk),
        fk.causal_mixer(q, k, v, scale=0.7, log_weights=weights, impl="reference"),
        rtol=1e-11, atol=1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("lengths", [(40, 0, 1, 23), (0,), (0, 0, 5)])
@pytest.mark.parametrize("batched", [False, True])
def test_packed_sequences_are_single_ones(lengths, batched):
    n = sum(lengths)
    (q, k, v), weights = problem(n, batch=len(lengths) if batched else None)
    segments = fk.Segments.from_lengths(lengths)
    y, state = fk.causal_mixer(q, k, v, scale=1.0, ptr=segments, log_weights=weights, return_state=True)
    for b, rows in enumerate(segments.slices):
        alone, last = fk.causal_mixer(
            q[b] if batched else q, k[rows], v[rows], scale=1.0, log_weights=weights[rows], return_state=True
        )
        torch.testing.assert_close(y[rows], alone)
        torch.testing.assert_close(state.z[b : b + 1], last.z)
        torch.testing.assert_close(state.lse[b : b + 1], last.lse)


def test_dense_batches_are_packed_ones():
    (q, k, v), _ = problem(24)
    dense = fk.causal_mixer(q, k.view(3, 8, H, D), v.view(3, 8, H, DV), scale=1.0)
    packed = fk.causal_mixer(q, k, v, scale=1.0, ptr=torch.tensor([0, 8, 16, 24]))
    assert torch.equal(dense.view(24, H, DV), packed)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("cut", [0, 1, 16, 37, 50])
def test_a_state_hands_over_at_any_cut_gradients_included(cut, impl):
    (q, k, v), weights = problem(50)
    given = torch.randn(50, H, DV, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def gradients(run):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        y = run(*leaves)
        return y.detach(), torch.autograd.grad((y * given).sum(), leaves)

    def whole(q, k, v):
        return fk.causal_mixer(q, k, v, scale=1.0, log_weights=weights, impl=impl, chunk=16)

    def parts(q, k, v):
        options = {"scale": 1.0, "impl": impl, "chunk": 16}
        first, state = fk.causal_mixer(q, k[:cut], v[:cut], log_weights=weights[:cut], return_state=True, **options)
        rest = fk.causal_mixer(q, k[cut:], v[cut:], log_weights=weights[cut:], initial_state=state, **options)
        return torch.cat([first, rest])

    (y, slopes), (expected, of_whole) = gradients(parts), gradients(whole)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    for found, wanted in zip(slopes, of_whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_gradients_against_finite_differences(impl):
    """Through the state as well, with tokens that are kept out."""
    (q, k, v), weights = problem(9)
    weights = torch.where(weights.isfinite(), weights, -torch.inf)
    state = fk.LatentState(torch.randn(1, H, M).double(), torch.randn(1, H, M, DV).double())
    leaves = [x.clone().requires_grad_() for x in (q, k, v, *state)]

    def run(q, k, v, lse, z):
        y, last = fk.causal_mixer(
            q, k, v, scale=1.0, log_weights=weights, initial_state=fk.LatentState(lse, z), return_state=True,
            impl=impl, chunk=4,
        )  # fmt: skip
        return y, *last

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_nothing_comes_from_the_future(impl):
    (q, k, v), weights = problem(70)
    other_k, other_v = k.clone(), v.clone()
    other_k[41:], other_v[41:] = 100.0, torch.nan
    run = lambda k, v: fk.causal_mixer(q, k, v, scale=1.0, log_weights=weights, impl=impl)  # noqa: E731
    assert torch.equal(run(k, v)[:41], run(other_k, other_v.nan_to_num(1e3))[:41])


def test_order_of_states_and_of_latents():
    """Joining states is associative; latents may come in any order."""
    parts = [problem(n, seed=n)[0] for n in (7, 12, 5)]
    q = parts[0][0]
    states = [fk.causal_mixer(q, k, v, scale=1.0, return_state=True)[1] for _, k, v in parts]
    left, right = states[0].then(states[1]).then(states[2]), states[0].then(states[1].then(states[2]))
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other)
    _, k, v = parts[1]
    torch.testing.assert_close(
        fk.causal_mixer(q[:, torch.randperm(M)], k, v, scale=1.0), fk.causal_mixer(q, k, v, scale=1.0)
    )


def test_memory_of_training_is_linear():
    """What is kept for the backward pass, of twice as many tokens, is twice as much."""

    def kept(n):
        (q, k, v), _ = problem(n, dtype=torch.float32)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            fk.causal_mixer(q.requires_grad_(), k, v, scale=1.0)
        return sum(sizes)

    assert kept(4096) < 2.1 * kept(2048)


# Block-causal.


def steps_of(lengths, seed=0, batch=None):
    (q, k, v), weights = problem(sum(lengths), seed=seed, batch=batch)
    return q, k, v, weights, fk.Segments.from_lengths(lengths)


@pytest.mark.parametrize("lengths", [(6,), (5, 1, 0, 9, 3), (0, 4)])
def test_points_see_their_step_and_all_before(lengths):
    q, k, v, weights, steps = steps_of(lengths)
    s = torch.einsum("hmd,nhd->nhm", q, k)
    p, b = s.softmax(-1), s + weights[:, None, None]
    expected = torch.cat([
        torch.einsum("thm,nhm,nhd->thd", p[rows], b[: rows.stop].softmax(0).nan_to_num(), v[: rows.stop])
        for rows in steps.slices
    ])  # fmt: skip
    found = fk.block_causal_mixer(q, k, v, scale=1.0, steps=steps, log_weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_steps_of_one_point_are_tokens():
    (q, k, v), weights = problem(30)
    torch.testing.assert_close(
        fk.block_causal_mixer(q, k, v, scale=1.0, steps=torch.arange(31), log_weights=weights),
        fk.causal_mixer(q, k, v, scale=1.0, log_weights=weights),
    )


def test_one_step_is_the_mixer():
    (q, k, v), weights = problem(30)
    torch.testing.assert_close(
        fk.block_causal_mixer(q, k, v, scale=1.0, steps=torch.tensor([0, 30]), log_weights=weights),
        fk.mixer(q, k, v, scale=1.0, log_weights=weights),
    )


@pytest.mark.parametrize("batched", [False, True])
def test_sequences_of_steps_are_single_ones(batched):
    q, k, v, weights, steps = steps_of((4, 2, 5, 3, 6), batch=2 if batched else None)
    y, state = fk.block_causal_mixer(
        q, k, v, scale=1.0, steps=steps, sequences=torch.tensor([0, 2, 5]), log_weights=weights, return_state=True
    )
    for b, (rows, mine) in enumerate(((slice(0, 6), (4, 2)), (slice(6, 20), (5, 3, 6)))):
        alone, last = fk.block_causal_mixer(
            q[b] if batched else q, k[rows], v[rows], scale=1.0, steps=fk.Segments.from_lengths(mine),
            log_weights=weights[rows], return_state=True,
        )  # fmt: skip
        torch.testing.assert_close(y[rows], alone)
        torch.testing.assert_close(state.z[b : b + 1], last.z)


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_steps_go_on_from_a_state_gradients_included(cut):
    """With anchored costs, which are those of the points of each step."""
    lengths = (4, 4, 4)
    q, k, v, weights, steps = steps_of(lengths)
    values = torch.rand(4, M, 1).double().repeat(3, 1, 1)
    values[2::4, 1] = torch.inf
    slope = torch.tensor([0.3, 2.0]).double()

    def run(q, k, v, rows, steps, state=None):
        cost = fk.Cost(values=values[rows], slope=slope)
        return fk.block_causal_mixer(
            q, k[rows], v[rows], scale=1.0, steps=steps, log_weights=weights[rows], initial_state=state,
            return_state=True, cost=cost, cost_decode=cost,
        )  # fmt: skip

    def whole(*x):
        return run(*x, slice(None), steps)[0]

    def parts(*x):
        first, state = run(*x, slice(0, 4 * cut), fk.Segments.from_lengths(lengths[:cut]))
        rest, _ = run(*x, slice(4 * cut, None), fk.Segments.from_lengths(lengths[cut:]), state)
        return torch.cat([first, rest])

    found = []
    for call in (whole, parts):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        y = call(*leaves)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, k, v: fk.causal_mixer(q, k, v, scale=1.0, chunk=0), "`chunk` must be at least 1, got 0"),
        (lambda q, k, v: fk.causal_mixer(q, k, v, scale=1.0, impl="fast"), "must be one of auto, triton, chunked"),
        (lambda q, k, v: fk.causal_mixer(q, k, v[:-1], scale=1.0), "`v` must be [6, 2, Dv]"),
        (lambda q, k, v: fk.causal_mixer(q, k, v, scale=1.0, q_decode=q[:, :2]), "heads and latents of `q`, [2, 5]"),
        (
            lambda q, k, v: fk.causal_mixer(q, k, v, scale=1.0, initial_state=fk.LatentState.empty(2, H, M, DV)),
            "the state must have `lse` [1, 2, 5] and `z` [1, 2, 5, 4], got [2, 2, 5] and [2, 2, 5, 4]",
        ),
        (
            lambda q, k, v: fk.causal_mixer(
                q, k, v, scale=1.0, initial_state=fk.LatentState.empty(1, H, M, DV, dtype=torch.bfloat16)
            ),
            "the state must be in float32, or float64, got torch.bfloat16",
        ),
        (
            lambda q, k, v: fk.block_causal_mixer(
                q, k, v, scale=1.0, steps=torch.tensor([0, 2, 6]), sequences=torch.tensor([0, 3])
            ),
            "`sequences` must end at 2, the number of steps, got 3",
        ),
        (
            lambda q, k, v: fk.block_causal_mixer(q, k, v, scale=1.0, steps=None),
            "`steps` must be offsets or `Segments`, got None",
        ),
        (
            lambda q, k, v: fk.block_causal_mixer(q.expand(3, -1, -1, -1), k, v, scale=1.0, steps=torch.tensor([0, 6])),
            "`q` has latents for 3 sequences, there are 1",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, message):
    (q, k, v), _ = problem(6, dtype=torch.float32)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(q, k, v)
