"""FLARE along sequences: equations written out, nothing from the future, states handed on, tokens one by one."""

import itertools
import re

import pytest
import torch
from nn.causal_cases import C, D, H, M, compare, few_latents, flat, layer, points, split, taken, unit, with_gradients

from flare_connect.errors import ConfigError
from flare_connect.nn import CausalConv, CausalFlare, CausalState
from flare_kernels import LatentState, Segments

VARIANTS = {
    "default": {},
    "published": {"qk_norm": False, "separate_decode": False},
    "no norm": {"qk_norm": False},
    "tied": {"separate_decode": False},
    "sigmoid": {"output_gate": "sigmoid"},
    "silu": {"output_gate": "silu"},
    "write": {"write_gate": True},
    "conv": {"conv_width": 3},
    "fading": {"fading": True},
    "fading and tied": {"fading": True, "separate_decode": False, "qk_norm": False},
    "adapted": {"queries": "adapted"},
    "adapted and tied": {"queries": "adapted", "separate_decode": False},
    "all": {
        "queries": "adapted",
        "output_gate": "silu",
        "write_gate": True,
        "conv_width": 4,
        "num_kv_layers": -1,
        "fading": True,
    },
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def by_definition(made, x, options):
    """One sequence; for each token anew a softmax over those that came."""
    adapted, width = options.get("queries") == "adapted", options.get("conv_width", 0)
    normalised = options.get("qk_norm", True) or adapted
    norm, scale = (unit, D**-0.5) if normalised else (lambda x: x, 1.0)
    u = [x[t] + sum(made.conv.weight[j] * x[t - j] for j in range(min(width, t + 1))) for t in range(len(x))]
    u = torch.stack(u)
    b = (
        torch.sigmoid(u @ made.write_gate.weight[0] + made.write_gate.bias).log()
        if "write_gate" in options
        else 0 * u[:, 0]
    )

    rates = made.fading.log_rates.exp()[..., None] if "fading" in options else 0.0

    def read(q, k, v, q_decode, k_decode):
        outputs = []
        for t in range(len(x)):
            age = torch.arange(t, -1, -1, dtype=x.dtype, device=x.device)
            share = (scale * torch.einsum("hmd,nhd->hmn", q, k[: t + 1]) + b[: t + 1] - rates * age).softmax(-1)
            z = torch.einsum("hmn,nhd->hmd", share, v[: t + 1])
            p = (scale * torch.einsum("hmd,hd->hm", q_decode, k_decode[t])).softmax(-1)
            outputs.append(torch.einsum("hm,hmd->hd", p, z))
        return torch.stack(outputs)

    q, k, v = norm(made.latents), norm(split(made.key(u))), split(made.value(u))
    separate = options.get("separate_decode", True)
    q_decode, k_decode = (norm(made.decode_latents), norm(split(made.decode_key(u)))) if separate else (q, k)
    if adapted:
        own = unit(split(made.seed_key(u)))
        held = read(unit(made.seeds), own, own, unit(made.seeds), own)
        k = k + torch.sigmoid(made.seed_gate).view(H, 1) * held
        k_decode = k_decode + torch.sigmoid(made.decode_gate).view(H, 1) * held if separate else k
    y = read(q, k, v, q_decode, k_decode).reshape(len(x), C)
    if gate := options.get("output_gate"):
        g = made.output_gate(x)
        y = y * torch.sigmoid(g) * (g if gate == "silu" else 1.0)
    return made.output(y)


@variants
def test_the_equation_written_out(options, device):
    made, x = layer(CausalFlare, device, **options), points(41, device)
    torch.testing.assert_close(made(x), by_definition(made, x, options), rtol=1e-10, atol=1e-11)


def combinations():
    names = ("queries", "separate_decode", "qk_norm", "output_gate", "write_gate", "conv_width")
    values = (("fixed", "adapted"), (False, True), (False, True), (None, "sigmoid", "silu"), (False, True), (0, 4))
    return [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]


def test_nothing_comes_from_the_future(device):
    """With every combination of options; the other sequence does not matter either."""
    segments = Segments.from_lengths([38, 7], device)
    for options in combinations():
        made, x = layer(CausalFlare, device, num_kv_layers=-1, **options), points(45, device).requires_grad_()
        other = x.detach().clone()
        other[23:] = 3 * points(22, device, seed=5) + 1
        y = made(x, segments)
        assert torch.equal(made(other, segments)[:23], y[:23]), options
        (slope,) = torch.autograd.grad(y[:23].square().sum(), x)
        assert torch.equal(slope[23:], torch.zeros_like(slope[23:])), options
        assert (slope[:23].abs().sum(1) > 0).all(), options


@variants
def test_packed_sequences_are_single_ones(options, device):
    made, lengths = layer(CausalFlare, device, **options), [17, 0, 1, 22]
    x, segments = points(40, device), Segments.from_lengths([17, 0, 1, 22], device)
    y, state = made(x, segments, return_state=True)
    assert torch.equal(made(x, segments.ptr), y)
    for b, part in enumerate(x.split(lengths)):
        alone, last = made(part, return_state=True)
        torch.testing.assert_close(y[segments.slices[b]], alone)
        compare(CausalState(*(None if s is None else taken(s, b) for s in state)), last)


@variants
@pytest.mark.parametrize("cut", [(0, 0), (1, 12), (2, 0), (20, 7), (33, 13)])
def test_a_state_hands_over_at_any_cut_gradients_included(options, cut, device):
    made, lengths = layer(CausalFlare, device, **options), (33, 13)
    one, two = points(46, device).split(lengths)
    given = points(46, device, seed=4)

    def whole(one, two):
        return made(torch.cat([one, two]), Segments.from_lengths(lengths, device))

    def parts(one, two):
        (a, b), first = cut, Segments.from_lengths(cut, device)
        rest = Segments.from_lengths((33 - a, 13 - b), device)
        y, state = made(torch.cat([one[:a], two[:b]]), first, return_state=True)
        z = made(torch.cat([one[a:], two[b:]]), rest, state=state)
        return torch.cat([y[:a], z[: 33 - a], y[a:], z[33 - a :]])

    (y, slopes), (expected, wanted) = (with_gradients(made, run, (one, two), given) for run in (parts, whole))
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@variants
@pytest.mark.parametrize("prefix", [0, 1, 9])
def test_prefill_and_steps_give_the_whole(options, prefix, device):
    """Three sequences a token at a time, in place."""
    made, x = layer(CausalFlare, device, **options), points(3 * 14, device).view(3, 14, C)
    whole, end = made(x.flatten(0, 1), Segments.uniform(3, 14, x.device), return_state=True)
    if prefix:
        y, state = made(x[:, :prefix].flatten(0, 1), Segments.uniform(3, prefix, x.device), return_state=True)
    else:
        y, state = x[:, 0, :0].new_zeros(0, C), made.initial_state(3)
    places = [part.data_ptr() for part in flat(state)]
    found = [*y.view(3, prefix, C).unbind(1), *(made.step(x[:, t], state) for t in range(prefix, 14))]
    assert [part.data_ptr() for part in flat(state)] == places
    torch.testing.assert_close(torch.stack(found, 1), whole.view(3, 14, C), rtol=1e-11, atol=1e-11)
    compare(state, end, rtol=1e-11, atol=1e-11)


@variants
def test_rank_is_a_layer_of_fewer_latents(options, device):
    made, x = layer(CausalFlare, device, **options), points(20, device)
    small = layer(CausalFlare, device, **options, num_latents=2)
    small.load_state_dict(few_latents(made.state_dict(), 2))
    expected = small(x)
    torch.testing.assert_close(made(x, rank=2), expected)
    assert torch.equal(made(x, rank=M), made(x))
    # A sequence goes on with its rank, without being told.
    _, state = made(x[:11], rank=2, return_state=True)
    torch.testing.assert_close(made(x[11:], state=state), expected[11:])
    state = made.initial_state(1, rank=2)
    torch.testing.assert_close(torch.cat([made.step(row[None], state) for row in x]), expected)


def test_gradients_against_finite_differences(device):
    """Through the state as well."""
    made = layer(CausalFlare, device, **VARIANTS["all"])
    _, state = made(points(3, device, seed=3), return_state=True)
    leaves = [x.detach().requires_grad_() for x in (points(3, device), *flat(state))]

    def run(x, lse, z, seed_lse, seed_z, recent):
        before = CausalState(LatentState(lse, z), LatentState(seed_lse, seed_z), recent)
        y, after = made(x, state=before, return_state=True)
        return y, *flat(after)

    # Along a direction drawn at random: entry by entry takes half a minute.
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@variants
def test_every_weight_is_trained(options):
    made = CausalFlare(C, num_heads=H, num_latents=M, **options).double()
    made(points(20), Segments.from_lengths([12, 8])).square().sum().backward()
    idle = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in idle if "bias" not in name]


def test_it_begins_without_write_gate_and_convolution():
    more = CausalFlare(C, num_heads=H, num_latents=M, write_gate=True, conv_width=4).double()
    plain = CausalFlare(C, num_heads=H, num_latents=M).double()
    plain.load_state_dict(more.state_dict(), strict=False)
    torch.testing.assert_close(more(points(20)), plain(points(20)))


def test_recomputing_changes_nothing(device):
    made, x = layer(CausalFlare, device, **VARIANTS["all"]), points(20, device)
    found = [with_gradients(made, lambda x, r=r: made(x, recompute=r), (x,), x) for r in (False, True)]
    torch.testing.assert_close(*found)


def test_weights_are_saved_and_loaded(tmp_path):
    made = layer(CausalFlare, **VARIANTS["all"])
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    other = CausalFlare(C, num_heads=H, num_latents=M, **VARIANTS["all"]).double()
    assert not torch.allclose(other(points(9)), made(points(9)))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(points(9)), made(points(9)))


def test_half_precision_keeps_its_memory_in_float32(device):
    made, x = layer(CausalFlare, device, **VARIANTS["all"]), points(40, device)
    expected = made(x)
    half = made.bfloat16()
    y, state = half(x[:39].bfloat16(), return_state=True)
    last = half.step(x[39:].bfloat16(), state)
    assert y.dtype == last.dtype == torch.bfloat16
    assert {part.dtype for part in (*state.latents, *state.seeds)} == {torch.float32}
    # Weights, keys, values and outputs are rounded to 2⁻⁹; what comes of it stays well below a tenth.
    assert (torch.cat([y, last]).double() - expected).norm() < 0.05 * expected.norm()


def test_places_are_exact_in_half_precision(device):
    """Farther than whole numbers go there; and from a state as in one piece."""
    made, x = layer(CausalFlare, device, fading=True), points(700, device)
    with torch.no_grad():
        made.fading.log_rates.fill_(0.02).log_()
    expected = made(x)
    made.bfloat16()
    y = made(x.bfloat16())
    assert (y.double() - expected).norm() < 0.03 * expected.norm()
    first, state = made(x[:500].bfloat16(), return_state=True)
    rest = made(x[500:].bfloat16(), state=state)
    assert (torch.cat([first, rest]) - y).norm() < 0.01 * y.norm()


@pytest.mark.parametrize("num_kv_layers", [-1, 1])
def test_places_are_exact_under_autocast(num_kv_layers, device):
    """Linear keys come in bfloat16 there, those of a perceptron in float32."""
    made, x = layer(CausalFlare, device, fading=True, num_kv_layers=num_kv_layers).float(), points(700, device).float()
    with torch.no_grad():
        made.fading.log_rates.fill_(0.02).log_()
    expected = made(x)
    with torch.autocast(device.type, torch.bfloat16):
        y, state = made(x[:699], return_state=True)
        last = made.step(x[699:], state)
    assert (torch.cat([y, last]) - expected).norm() < 0.03 * expected.norm()
    assert (last - expected[699:]).norm() < 0.1 * expected[699:].norm()


def test_latents_begin_with_rates_of_every_size():
    """The first few alone too."""
    rates = CausalFlare(C, num_heads=H, num_latents=64, fading=True).fading.log_rates.detach().exp()
    for few in (4, 8, 64):
        assert rates[:, :few].max() == 1
        assert 1e-3 < rates[:, :few].min() < 1e-2
        spaced = rates[0, :few].log10().sort().values.diff()
        assert spaced.max() < 4 * 3 / few


def test_convolution_against_torch(device):
    conv, x = CausalConv(C, 3).double().to(device), points(10, device)
    torch.nn.init.normal_(conv.weight)
    kernel = conv.weight.t().flip(1)[:, None]
    expected = x + torch.nn.functional.conv1d(torch.nn.functional.pad(x.t(), (2, 0)), kernel, groups=C).t()
    u, recent = conv(x, Segments.from_lengths([10], device))
    torch.testing.assert_close(u, expected)
    assert torch.equal(recent, x[None, -2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "`channels` must be divisible by `num_heads`, got 12 and 5"),
        ({"num_latents": 0}, "`num_latents` must be at least 1, got 0"),
        ({"conv_width": 1}, "at least 2 to look back, got 1"),
        ({"conv_width": -1}, "at least 2 to look back, got -1"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        CausalFlare(C, **({"num_heads": H} | options))


@pytest.mark.parametrize("options", [{"queries": "magic"}, {"output_gate": "magic"}])
def test_unknown_choices(options):
    with pytest.raises(Exception, match="'magic'"):  # of the check of types here, and else of the layer itself
        CausalFlare(C, num_heads=H, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, x: a(x[:, :4]), "`x` must be [N, 12], got [6, 4]"),
        (lambda a, x: a(x, torch.tensor([0, 5])), "`segments` must end at N = 6, got 5"),
        (lambda a, x: a(x, rank=6), "`rank` must be between 1 and `num_latents` = 5, got 6"),
        (lambda a, x: a(x, rank=0), "`rank` must be between 1 and `num_latents` = 5, got 0"),
        (lambda a, x: a.initial_state(1, rank=9), "`rank` must be between 1 and `num_latents` = 5, got 9"),
        (lambda a, x: a(x, state=a.initial_state(1, rank=2), rank=3), "holds 2 latents, `rank` is 3"),
        (lambda a, x: a(x, state=a.initial_state(2)), "`lse` [1, 3, 5] and `z` [1, 3, 5, 4], got [2, 3, 5]"),
        (lambda a, x: a.step(x, a.initial_state(2)), "`lse` [6, 3, 5] and `z` [6, 3, 5, 4], got [2, 3, 5]"),
        (lambda a, x: a(x, state=a.initial_state(1)._replace(seeds=None)), "no part `seeds`, this layer needs one"),
        (lambda a, x: layer(CausalFlare)(x, state=a.initial_state(1)), "a part `seeds`, this layer needs none"),
        (
            lambda a, x: a(x, state=a.initial_state(1)._replace(recent=torch.zeros(1, 2, C))),
            "`recent` [1, 3, 12], got [1, 2, 12]",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(layer(CausalFlare, **VARIANTS["all"]), points(6))
