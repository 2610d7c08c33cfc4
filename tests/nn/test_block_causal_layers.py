"""FLARE along time steps: the equation written out, anchored or not, rollouts, one step, nothing from the future."""

import itertools
import re

import pytest
import torch
from nn.causal_cases import C, D, H, M, compare, few_latents, flat, layer, points, split, taken, unit, with_gradients

from flare_connect.errors import ConfigError
from flare_connect.nn import AnchoredFlare, Anchors, BlockCausalFlare, CausalState, FlareAttention
from flare_kernels import LatentState, Segments

VARIANTS = {
    "default": {},
    "published": {"qk_norm": False, "separate_decode": False},
    "sigmoid": {"output_gate": "sigmoid"},
    "write": {"write_gate": True},
    "adapted": {"queries": "adapted"},
    "adapted and tied": {"queries": "adapted", "separate_decode": False},
    "anchored": {"num_scales": 2},
    "anchored, adapted and tied": {"queries": "adapted", "separate_decode": False, "num_scales": 1},
    "fading": {"fading": True},
    "fading, published": {"fading": True, "qk_norm": False, "separate_decode": False},
    "all": {
        "fading": True,
        "queries": "adapted",
        "output_gate": "silu",
        "write_gate": True,
        "num_scales": 2,
        "num_kv_layers": -1,
    },
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def block(device, options, **more):
    return layer(BlockCausalFlare, device, **options, **more)


def anchors(n, options, device="cpu", seed=3):
    """Of n points, of which the second and the first latent are on either side of a void."""
    scales = options.get("num_scales", 0)
    if not scales:
        return None
    cost = torch.rand(n, M, scales, generator=torch.Generator().manual_seed(seed)).double()
    cost[1:2, 0] = torch.inf
    return Anchors(cost=cost.to(device), typical=torch.linspace(0.4, 0.8, scales).double().to(device))


def weights(n, device="cpu", seed=6):
    """Log-weights; the first point is kept out."""
    drawn = torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()
    drawn[0] = -torch.inf
    return drawn.to(device)


def by_definition(made, steps, costs, volumes, options):
    """One sequence: each point has the score of its own step, and each step a softmax over all points that came."""
    adapted, separate = options.get("queries") == "adapted", options.get("separate_decode", True)
    normalised = options.get("qk_norm", True) or adapted
    norm, scale = (unit, D**-0.5) if normalised else (lambda x: x, 1.0)
    seeds_read, read, outputs = [], [], []

    def lost(decay, cost):
        if cost is None:
            return 0.0
        scales = torch.arange(H, device=decay.device) % cost.cost.shape[2]
        bias = -(decay**2 * 3 / cost.typical[scales])[:, None] * cost.cost.movedim(2, 1)[:, scales]
        return bias.movedim(1, 0)

    rates = made.fading.log_rates.exp()[..., None] if "fading" in options else 0.0

    def latents(pairs):
        pairs = [(s - rates * (len(pairs) - 1 - i), v) for i, (s, v) in enumerate(pairs)]
        s, v = (torch.cat(each, dim) for each, dim in zip(zip(*pairs, strict=True), (2, 0), strict=True))
        return torch.einsum("hmn,nhd->hmd", s.softmax(2).nan_to_num(), v)

    for x, cost, b in zip(steps, costs, volumes, strict=True):
        if "write_gate" in options:
            b = b + torch.sigmoid(x @ made.write_gate.weight[0] + made.write_gate.bias).log()
        extra = b + lost(made.decay, cost).movedim(1, 2) if cost is not None else b
        q, k = norm(made.latents), norm(split(made.key(x)))
        if adapted:
            own = unit(split(made.seed_key(x)))
            seeds_read.append((scale * torch.einsum("hmd,nhd->hmn", unit(made.seeds), own) + extra, own))
            q = q + torch.sigmoid(made.seed_gate) * latents(seeds_read)
        read.append((scale * torch.einsum("hmd,nhd->hmn", q, k) + extra, split(made.value(x))))
        q_decode, k_decode = (norm(made.decode_latents), norm(split(made.decode_key(x)))) if separate else (q, k)
        p = scale * torch.einsum("hmd,nhd->hnm", q_decode, k_decode) + lost(made.decode_decay, cost)
        y = torch.einsum("hnm,hmd->nhd", p.softmax(2), latents(read)).reshape(len(x), C)
        if gate := options.get("output_gate"):
            g = made.output_gate(x)
            y = y * torch.sigmoid(g) * (g if gate == "silu" else 1.0)
        outputs.append(made.output(y))
    return torch.cat(outputs)


@variants
def test_the_equation_written_out(options, device):
    """On one mesh at each step, whose costs are given once."""
    made, cost, x, b = block(device, options), anchors(7, options, device), points(28, device), weights(28, device)
    expected = by_definition(made, x.split(7), [cost] * 4, b.split(7), options)
    found = made(x, torch.arange(0, 29, 7, device=device), anchors=cost, log_weights=b)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@variants
def test_steps_may_have_any_number_of_points(options, device):
    """With the costs of all of them, none in the first step; and gates do without weights."""
    made, lengths = block(device, options), [0, 5, 1, 0, 8]
    cost, x = anchors(14, options, device), points(14, device)
    costs = [None] * 5
    if cost is not None:
        costs = [Anchors(cost=part, typical=cost.typical) for part in cost.cost.split(lengths)]
    expected = by_definition(made, x.split(lengths), costs, [x.new_zeros(n) for n in lengths], options)
    found = made(x, Segments.from_lengths(lengths, device), anchors=cost)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("queries", ["fixed", "adapted"])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scales", [0, 2])
def test_one_step_is_attention_on_a_mesh(queries, separate, scales, device):
    shared = {"queries": queries, "separate_decode": separate}
    made, cost = block(device, shared, num_scales=scales), anchors(20, {"num_scales": scales}, device)
    kind, given = (AnchoredFlare, {"anchors": cost}) if scales else (FlareAttention, {})
    options = shared | {"qk_norm": True} | ({"num_scales": scales} if scales else {})
    other = kind(C, num_heads=H, num_latents=M, **options).double().to(device)
    other.load_state_dict(made.state_dict())
    x, b = points(20, device), weights(20, device)
    expected = other(x, Segments.from_lengths([20], device), log_weights=b, **given)
    torch.testing.assert_close(made(x, log_weights=b, **given), expected, rtol=1e-11, atol=1e-11)


def test_nothing_comes_from_the_future(device):
    """With every combination of options; the other sequence does not matter either."""
    steps, sequences = Segments.from_lengths([6, 6, 6, 4], device), torch.tensor([0, 3, 4], device=device)
    names = ("queries", "separate_decode", "qk_norm", "output_gate", "write_gate", "num_scales")
    values = (("fixed", "adapted"), (False, True), (False, True), (None, "silu"), (False, True), (0, 2))
    for each in itertools.product(*values):
        options = dict(zip(names, each, strict=True))
        made, x = block(device, options, num_kv_layers=-1), points(22, device).requires_grad_()
        cost = anchors(10, options, device)
        other = x.detach().clone()
        other[12:] = 3 * points(10, device, seed=5) + 1
        y = made(x, steps, sequences=sequences, anchors=cost)
        assert torch.equal(made(other, steps, sequences=sequences, anchors=cost)[:12], y[:12]), options
        (slope,) = torch.autograd.grad(y[6:12].square().sum(), x)
        assert torch.equal(slope[12:], torch.zeros_like(slope[12:])), options
        assert (slope[:12].abs().sum(1) > 0).all(), options


@variants
def test_order_of_the_points_of_a_step_is_nothing(options, device):
    made, cost, x = block(device, options), anchors(18, options, device), points(18, device)
    b, steps = weights(18, device), Segments.from_lengths([6, 8, 4], device)
    order = torch.cat([start + torch.randperm(n) for start, n in ((0, 6), (6, 8), (14, 4))]).to(device)
    moved = None if cost is None else Anchors(cost=cost.cost[order], typical=cost.typical)
    y = made(x, steps, anchors=cost, log_weights=b)
    assert not torch.allclose(y, y[order])
    torch.testing.assert_close(made(x[order], steps, anchors=moved, log_weights=b[order]), y[order])


@variants
def test_packed_sequences_are_single_ones(options, device):
    """Two meshes that stay, the costs of each given once."""
    made, cost = block(device, options), anchors(9, options, device)
    x, b = points(2 * 5 + 3 * 4, device), weights(22, device)
    steps, sequences = Segments.from_lengths([5, 5, 4, 4, 4], device), torch.tensor([0, 2, 5], device=device)
    y, state = made(x, steps, sequences=sequences, anchors=cost, log_weights=b, return_state=True)
    for i, (rows, mine, mesh) in enumerate(
        ((slice(0, 10), [5, 5], slice(0, 5)), (slice(10, 22), 3 * [4], slice(5, 9)))
    ):
        its = None if cost is None else Anchors(cost=cost.cost[mesh], typical=cost.typical)
        alone, last = made(
            x[rows], Segments.from_lengths(mine, device), anchors=its, log_weights=b[rows], return_state=True
        )
        torch.testing.assert_close(y[rows], alone)
        compare(CausalState(*(None if s is None else taken(s, i) for s in state)), last)


@variants
def test_costs_of_a_mesh_are_those_of_each_step(options, device):
    made, cost, x = block(device, options), anchors(5, options, device), points(15, device)
    if cost is None:
        with pytest.raises(ValueError, match="`anchors` would do nothing"):
            made(x, anchors=anchors(15, {"num_scales": 1}, device))
        return
    steps = Segments.from_lengths([5, 5, 5], device)
    all_of_them = Anchors(cost=cost.cost.repeat(3, 1, 1), typical=cost.typical)
    assert torch.equal(made(x, steps, anchors=cost), made(x, steps, anchors=all_of_them))


@variants
@pytest.mark.parametrize("cut", [0, 1, 3, 4])
def test_a_state_hands_over_at_any_cut_gradients_included(options, cut, device):
    made, cost, b = block(device, options), anchors(5, options, device), weights(20, device)

    def go(x, b, count, state=None):
        steps = Segments.from_lengths(count * [5], device)
        return made(x, steps, anchors=cost, log_weights=b, state=state, return_state=True)

    def parts(x):
        y, state = go(x[: 5 * cut], b[: 5 * cut], cut)
        return torch.cat([y, go(x[5 * cut :], b[5 * cut :], 4 - cut, state)[0]])

    given, x = points(20, device, seed=4), points(20, device)
    runs = (parts, lambda x: go(x, b, 4)[0])
    (y, slopes), (expected, wanted) = (with_gradients(made, run, (x,), given) for run in runs)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@variants
def test_a_rollout_gives_one_step_at_a_time(options, device):
    """Two sequences at once; what they know stays of one size."""
    made, cost, x = block(device, options), anchors(9, options, device), points(36, device).view(4, 9, C)
    whole = torch.cat([x[:, :5].flatten(0, 1), x[:, 5:].flatten(0, 1)])
    steps, sequences = Segments.from_lengths(4 * [5] + 4 * [4], device), Segments.from_lengths([4, 4], device)
    expected, end = made(whole, steps, sequences=sequences, anchors=cost, return_state=True)
    state, found, now = made.initial_state(2), [], Segments.from_lengths([5, 4], device)
    sizes = [part.shape for part in flat(state)]
    for step in x:
        y, state = made(
            step, now, sequences=torch.arange(3, device=device), anchors=cost, state=state, return_state=True
        )
        found.append(y)
    assert [part.shape for part in flat(state)] == sizes
    found = torch.stack(found)
    found = torch.cat([found[:, :5].flatten(0, 1), found[:, 5:].flatten(0, 1)])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    compare(state, end, rtol=1e-11, atol=1e-11)


@variants
def test_rank_is_a_layer_of_fewer_latents(options, device):
    made, small, cost = block(device, options), block(device, options, num_latents=2), anchors(5, options, device)
    small.load_state_dict(few_latents(made.state_dict(), 2))
    few = None if cost is None else Anchors(cost=cost.cost[:, :2], typical=cost.typical)
    x, steps = points(15, device), Segments.from_lengths([5, 5, 5], device)
    expected = small(x, steps, anchors=few)
    torch.testing.assert_close(made(x, steps, anchors=cost, rank=2), expected)
    _, state = made(x[:10], Segments.from_lengths([5, 5], device), anchors=cost, rank=2, return_state=True)
    torch.testing.assert_close(made(x[10:], anchors=cost, state=state), expected[10:])


def test_gradients_against_finite_differences(device):
    """Through the state as well, on two steps of a mesh."""
    made, cost = block(device, VARIANTS["all"]), anchors(2, VARIANTS["all"], device)
    _, state = made(points(2, device, seed=7), anchors=cost, return_state=True)
    leaves = [x.detach().requires_grad_() for x in (points(4, device), *flat(state), made.decay, made.decode_decay)]

    def run(x, lse, z, seed_lse, seed_z, decay, decode_decay):
        before = CausalState(LatentState(lse, z), LatentState(seed_lse, seed_z))
        call = {"steps": Segments.from_lengths([2, 2], device), "anchors": cost, "state": before, "return_state": True}
        swapped = {"decay": decay, "decode_decay": decode_decay}
        y, after = torch.func.functional_call(made, swapped, (x,), call)
        return y, *flat(after)

    # Along a direction drawn at random: entry by entry takes half a minute.
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@variants
def test_every_weight_is_trained(options):
    made = BlockCausalFlare(C, num_heads=H, num_latents=M, **options).double()
    steps = Segments.from_lengths([6, 6])
    made(points(12), steps, anchors=anchors(6, options)).square().sum().backward()
    idle = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in idle if "bias" not in name]


def test_weights_are_saved_and_loaded(tmp_path):
    made, cost, x = block("cpu", VARIANTS["all"]), anchors(9, VARIANTS["all"]), points(9)
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    other = BlockCausalFlare(C, num_heads=H, num_latents=M, **VARIANTS["all"]).double()
    assert not torch.allclose(other(x, anchors=cost), made(x, anchors=cost))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(x, anchors=cost), made(x, anchors=cost))


@pytest.mark.parametrize(("scales", "heads"), [(4, 3), (-1, 3)])
def test_wrong_settings(scales, heads):
    with pytest.raises(ConfigError, match=f"between 1 and `num_heads` = {heads}, one scale a head, got {scales}"):
        BlockCausalFlare(C, num_heads=heads, num_scales=scales)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, x, c: a(x[:, :4], anchors=c), "`x` must be [N, 12], got [6, 4]"),
        (lambda a, x, c: a(x, torch.tensor([0, 5]), anchors=c), "`steps` must end at N = 6, got 5"),
        (
            lambda a, x, c: a(x, torch.tensor([0, 3, 6]), sequences=torch.tensor([0, 1]), anchors=c),
            "`sequences` must end at 2, the number of steps, got 1",
        ),
        (lambda a, x, c: a(x, anchors=c, rank=6), "`rank` must be between 1 and `num_latents` = 5, got 6"),
        (lambda a, x, c: a(x), "anchored attention needs `anchors`"),
        (lambda a, x, c: a(x, torch.tensor([0, 2, 6]), anchors=anchors(2, {"num_scales": 2})), "of [(2, 4)] points"),
        (lambda a, x, c: a(x, torch.tensor([0, 3, 6]), anchors=anchors(4, {"num_scales": 2})), "got 4 rows for steps"),
        (lambda a, x, c: a._write_weights(x, torch.zeros(5)), "`log_weights` must be [6], one a point, got [5]"),
        (lambda a, x, c: a(x, anchors=c, state=a.initial_state(2)), "`lse` [1, 3, 5] and `z` [1, 3, 5, 4], got [2,"),
        (lambda a, x, c: a(x, anchors=c, state=CausalState(a.initial_state(1).latents)), "no part `seeds`"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        call(block("cpu", VARIANTS["all"]), points(6), anchors(6, VARIANTS["all"]))
    assert caught.type is ValueError
