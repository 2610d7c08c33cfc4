"""Causal FLARE in Triton against plain torch and the reference in fp64: states along sequences, tokens, time steps."""

import dataclasses

import pytest
import torch
import triton
import triton.language as tl
from kernels.triton_cases import DEVICES, assert_same, check, exact, outcome, plain_outcomes, runs

import flare_kernels as fk
from flare_kernels.causal.state import running
from flare_kernels.triton_causal import answer, answer_grad, ops
from flare_kernels.triton_causal.tiles import operand
from kernels import triton_cases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Parts of each sequence, sizes of a state, and how far log-sum-exps are spread."""

    lengths: tuple[int, ...] = (9, 0, 1, 14)
    heads: int = 2
    latents: int = 5
    value_dim: int = 6
    std: float = 1.0
    fresh: bool = False  # whether sequences begin with nothing


EVERYWHERE = {
    "a few": Case(),
    "from nothing": Case(fresh=True),
    "far apart": Case(std=40.0),
    "one latent": Case(latents=1, heads=1, value_dim=1),
    "one sequence": Case(lengths=(20,), latents=16, value_dim=16),
    "no parts": Case(lengths=(0, 0)),
    "wide": Case(lengths=(3,), heads=1, value_dim=200),
}
ON_GPU = {"many": Case(lengths=(300, 17, 128), heads=8, latents=64, value_dim=16), "long": Case(lengths=(2000,))}


# Orders in which plain torch sums over the dims of values: in one a few numbers may be right by luck.
TURNS = 4


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def large_groups(monkeypatch):
    """Spans are taken in groups as if there were enough of them for that."""
    monkeypatch.setattr(ops, "PROGRAMS", 1)


def draw(case, device):
    """(tensors by name, where sequences are); some parts bring nothing to some latents, the first of all to none."""
    generator = torch.Generator().manual_seed(sum(case.lengths) + case.latents)
    t, b, shape = sum(case.lengths), len(case.lengths), (case.heads, case.latents)
    normal = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    x = {"lse": case.std * normal(t, *shape), "z": normal(t, *shape, case.value_dim)}
    x["lse"][torch.rand(x["lse"].shape, generator=generator) < 0.2] = -torch.inf
    x["lse"][:1] = -torch.inf
    x |= {"first_lse": case.std * normal(b, *shape), "first_z": normal(b, *shape, case.value_dim)}
    if case.fresh:
        x |= {"first_lse": torch.full((b, *shape), -torch.inf), "first_z": torch.zeros(b, *shape, case.value_dim)}
    return {name: tensor.to(device) for name, tensor in x.items()}, fk.Segments.from_lengths(case.lengths, device)


def along(order, turn=0):
    """A call as `triton_cases.outcome` makes them: all states, whose values were summed from another dim on."""

    def call(x, impl):
        parts, first = (fk.LatentState(x[f"{of}lse"], x[f"{of}z"].roll(turn, -1)) for of in ("", "first_"))
        states = running(parts, first, order, impl)
        picked = {"before": states.before, "after": states.after, "last": states.last}
        results = {f"{when} {what}": x for when, s in picked.items() for what, x in s._asdict().items()}
        return {name: x.roll(-turn, -1) if name.endswith(" z") else x for name, x in results.items()}

    return call


@pytest.mark.parametrize(("case", "device", "dtype"), runs(EVERYWHERE, ON_GPU))
def test_error_budget(case, device, dtype):
    if dtype != torch.float32:
        pytest.skip("states are in float32")
    x, order = draw(case, device)
    truth = outcome(along(order), exact(x), "reference", dtype)
    plain = [outcome(along(order, turn), x, "reference", dtype) for turn in range(min(TURNS, case.value_dim))]
    check(outcome(along(order), x, "triton", dtype), plain, truth, dtype)


def test_the_same_bits_again(device):
    x, order = draw(Case(), device)
    first = outcome(along(order), x, "triton", torch.float32)
    assert_same(first, outcome(along(order), x, "triton", torch.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Sizes and options of sequences of tokens."""

    lengths: tuple[int, ...] = (70, 3)
    heads: int = 2
    latents: int = 5
    dim: int = 4
    value_dim: int = 6
    std: float = 1.0
    options: tuple[str, ...] = ()  # "log_weights", "q_decode", "k_decode"
    per_sequence: bool = False  # latent queries of each
    rise: float = 0.0  # of log-weights from token to token


TOKENS = {
    "a few": Tokens(),
    "all of it": Tokens(options=("log_weights", "q_decode", "k_decode"), per_sequence=True),
    "spread": Tokens(std=8.0, options=("log_weights",)),
    "far apart": Tokens(std=40.0, options=("log_weights",)),
    "rising": Tokens(lengths=(70, 130), options=("log_weights",), rise=1.5),
    "rising, all of it": Tokens(options=("log_weights", "q_decode", "k_decode"), per_sequence=True, rise=2.0),
    "rising fast": Tokens(options=("log_weights",), rise=8.0),
    "blocks of latents": Tokens(lengths=(66,), heads=1, latents=70),
    "blocks, all of it": Tokens(
        lengths=(66, 3), latents=40, options=("log_weights", "q_decode", "k_decode"), per_sequence=True
    ),
    "one of each": Tokens(lengths=(1, 0), heads=1, latents=1, dim=1, value_dim=1),
}
TOKENS_ON_GPU = {
    "long": Tokens(lengths=(3000, 1, 700), heads=8, latents=64, dim=32, value_dim=32, options=("log_weights",)),
    "many latents": Tokens(lengths=(500,), heads=2, latents=256, dim=16, value_dim=16),
    "wide": Tokens(lengths=(300,), heads=2, latents=32, dim=64, value_dim=128),
}


def draw_tokens(case, device, dtype):
    """Tensors by name, with a state to begin from."""
    generator = torch.Generator().manual_seed(sum(case.lengths) + case.latents)
    n, b = sum(case.lengths), len(case.lengths)
    normal = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)  # noqa: E731
    queries = (*((b,) if case.per_sequence else ()), case.heads, case.latents, case.dim)
    x = {
        "q": case.std / case.dim**0.5 * normal(*queries), "k": normal(n, case.heads, case.dim),
        "v": normal(n, case.heads, case.value_dim),
        "q_decode": case.std / case.dim**0.5 * normal(*queries), "k_decode": normal(n, case.heads, case.dim),
    }  # fmt: skip
    x = {name: t.to(dtype) for name, t in x.items() if name in ("q", "k", "v", *case.options)}
    if "log_weights" in case.options:
        # Far from what the last first state knows nothing but rounding would be left of its gradient.
        x["log_weights"] = (normal(n) + case.rise * (torch.arange(n) - n + case.lengths[-1] // 2)).float()
        x["log_weights"][::5] = -torch.inf  # the first token among them
    first = fk.LatentState.empty(b, case.heads, case.latents, case.value_dim)
    first.lse[-1:], first.z[-1:] = normal(*first.lse[-1:].shape), normal(*first.z[-1:].shape)
    x |= {"first_lse": first.lse, "first_z": first.z}
    return {name: t.to(device) for name, t in x.items()}


def mixed(case, chunk=32):
    """A call of the causal mixer."""

    def call(x, impl):
        more = {name: x[name] for name in case.options}
        y, last = fk.causal_mixer(
            x["q"], x["k"], x["v"], scale=0.9, ptr=fk.Segments.from_lengths(case.lengths, x["k"].device),
            initial_state=fk.LatentState(x["first_lse"], x["first_z"]), return_state=True, chunk=chunk, impl=impl,
            **more,
        )  # fmt: skip
        return {"y": y, "z": last.z, "lse": last.lse}

    return call


def turned(case, chunk, seed):
    """The call with the dims of queries and keys in another order, in which their products are rounded otherwise."""
    order = torch.randperm(case.dim, generator=torch.Generator().manual_seed(seed))
    call = mixed(case, chunk)
    names = ("q", "k", "q_decode", "k_decode")
    return lambda x, impl: call(
        {name: t[..., order.to(t.device)] if name in names else t for name, t in x.items()}, impl
    )


def check_tokens(case, device, dtype):
    """Hold the kernels to the error budget; plain torch takes chunks and orders of several kinds."""
    x = draw_tokens(case, device, dtype)
    truth = outcome(mixed(case), exact(x), "chunked", dtype)
    chunks = 4 * (32, 8, 16, 24, 48, 64, 12, 40)
    plain = [outcome(turned(case, chunk, seed), x, "chunked", dtype) for seed, chunk in enumerate(chunks)]
    check(outcome(mixed(case), x, "triton", dtype), plain, truth, dtype)


# The interpreter takes ten seconds for each of these: in half precision those that have all of it.
IN_HALF = {name: case for name, case in TOKENS.items() if name in ("a few", "rising, all of it", "blocks, all of it")}


@pytest.mark.parametrize(
    ("case", "device", "dtype"),
    runs(TOKENS, TOKENS_ON_GPU)
    + [each for each in runs(IN_HALF, interpreted_in=(torch.bfloat16,)) if each.values[1].type == "cpu"],
)
def test_error_budget_of_tokens(case, device, dtype):
    check_tokens(case, device, dtype)


def test_scores_that_rise_are_taken_in_parts_of_spans(device, monkeypatch):
    """And not latents one by one, which takes ten times as long."""
    if device.type != "cpu":
        pytest.skip("what a compiled kernel calls cannot be taken away")

    def refuse(*given):
        raise AssertionError("latents one by one")

    monkeypatch.setattr(answer, "one_by_one", refuse)
    monkeypatch.setattr(answer_grad, "one_by_one_grad", refuse)

    def run(case):
        x = draw_tokens(case, device, torch.float32)
        x["log_weights"] = case.rise * torch.arange(len(x["k"]))  # before a first token of no weight none is near
        return outcome(mixed(case), x, "triton", torch.float32)

    run(TOKENS["rising"])
    with pytest.raises(Exception, match="one by one"):
        run(TOKENS["rising fast"])


@pytest.mark.parametrize("of_group", [8, 2])
def test_sequences_that_end_about_where_spans_and_groups_do(of_group, device, monkeypatch):
    """With a state before and one after; that of a sequence goes through groups into the next, and back."""
    monkeypatch.setattr(ops, "SPANS_OF_GROUP", of_group)
    lengths = (1, 63, 64, 65, 0, 511, 512, 513, 1030) if of_group == 8 else (127, 128, 129, 300)
    check_tokens(Tokens(lengths=lengths, heads=1, latents=3, options=("log_weights",)), device, torch.float32)


def test_groups_of_any_size_give_the_same(device, monkeypatch):
    """A state that goes through groups, and its gradient."""
    case = Tokens(lengths=(300, 5), heads=1)
    x = draw_tokens(case, device, torch.float32)
    found = []
    for of_group in (1, 2, 8):
        monkeypatch.setattr(ops, "SPANS_OF_GROUP", of_group)
        found.append(outcome(mixed(case), x, "triton", torch.float32))
    for name, first in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], first, rtol=1e-4, atol=1e-5, msg=name)


def test_few_spans_are_taken_in_smaller_groups(monkeypatch):
    monkeypatch.undo()
    assert [ops.spans_of_group(n // 64, 16) for n in (64, 2048, 8192, 65_536, 2**20)] == [1, 2, 8, 16, 16]


@pytest.mark.parametrize("rise", [0.0, 1.5])
def test_half_precision_of_tokens(rise, device):
    for dtype in (torch.bfloat16, torch.float16):
        check_tokens(Tokens(lengths=(70,), heads=1, options=("log_weights",), rise=rise), device, dtype)


@triton.jit
def rounding_kernel(x, y, SIZE: tl.constexpr):
    """Numbers as factors in tf32."""
    at = tl.arange(0, SIZE)
    tl.store(y + at, operand(tl.load(x + at), "tf32"))


def test_factors_of_tf32_are_rounded(device):
    """To the nearest number of ten digits after the point, so that the unit has nothing left to cut."""
    x = torch.cat([torch.randn(61, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 1.0, 1e-30])])
    x = x.to(device)
    rounding_kernel[(1,)](x, y := torch.empty_like(x), 64)
    assert not (y.view(torch.int32) & 0x1FFF).any()
    assert ((y - x).abs() <= 2.0**-11 * x.abs()).all()
    assert ((y - x) * x).min() < 0 < ((y - x) * x).max()  # up and down


def test_what_kernels_do_not_take_is_named(device):
    x = draw_tokens(Tokens(options=("q_decode", "k_decode")), device, torch.float32)
    given = {"scale": 1.0, "ptr": fk.Segments.from_lengths((70, 3), device), "impl": "triton"}
    with pytest.raises(ValueError, match=r"takes `v` and `k_decode` in the dtype of `k`.*use impl='auto'"):
        fk.causal_mixer(x["q"], x["k"], x["v"].double(), **given)
    narrow = {name: x[name][..., :2] for name in ("q_decode", "k_decode")}
    with pytest.raises(ValueError, match=r"`k_decode` \[73, 2, 4\].*\[73, 2, 2\]"):
        fk.causal_mixer(x["q"], x["k"], x["v"], **narrow, **given)
    assert fk.causal_mixer(x["q"], x["k"], x["v"], **narrow, **given | {"impl": "auto"}).shape == x["v"].shape
    with pytest.raises(ValueError, match="`precision` must be one of"):
        fk.causal_mixer(x["q"], x["k"], x["v"], precision="low", **given)


def test_steps_of_points(device):
    """All of the block-causal mixer on its kernels, in twice the error of plain torch."""
    points = triton_cases.Case(lengths=(9, 0, 13, 1, 17), heads=2, latents=5, dim=4, value_dim=6, log_weights=True)
    x = {name: t for name, t in triton_cases.draw(points, device, torch.float32).items()
         if name in ("q", "k", "v", "log_weights")}  # fmt: skip
    steps, sequences = points.segments(device), torch.tensor([0, 3, 5], device=device)

    def call(x, impl):
        y, state = fk.block_causal_mixer(
            x["q"], x["k"], x["v"], scale=1.0, steps=steps, sequences=sequences, log_weights=x["log_weights"],
            return_state=True, impl=impl,
        )  # fmt: skip
        return {"y": y, "z": state.z, "lse": state.lse}

    truth, plain = (
        outcome(call, exact(x), "reference", torch.float32), plain_outcomes(call, points, x, torch.float32)
    )  # fmt: skip
    check(outcome(call, x, "triton", torch.float32), plain, truth, torch.float32)


@pytest.mark.parametrize("case", [Tokens(), TOKENS["all of it"]], ids=["a few", "all of it"])
@pytest.mark.parametrize("name", ["causal_answer", "causal_answer_grad"])
def test_operators_of_tokens_keep_the_rules_of_torch(name, case, device):
    import flare_kernels.triton_causal.ops  # noqa: F401
    from flare_kernels.causal.spans import cut

    x = draw_tokens(case, device, torch.float32)
    groups, order, spans = cut(fk.Segments.from_lengths(case.lengths, device), 64, 2)
    given = (
        x["q"], x["k"], x["v"], x.get("log_weights"), x.get("q_decode"), x.get("k_decode"), x["first_lse"],
        x["first_z"], groups.ptr, order.batch, order.ptr, 0.9, "ieee",
    )  # fmt: skip
    if name == "causal_answer_grad":
        y, *states = torch.ops.flare_connect.causal_answer(*given)
        slopes = (torch.randn_like(each) for each in (y, x["first_lse"], x["first_z"]))
        given = (*given, spans.ptr, spans.num_rows, *states, y, *slopes)
    torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, given)


@pytest.mark.parametrize("name", ["latent_scan", "latent_scan_grad"])
def test_operators_keep_the_rules_of_torch(name, device):
    import flare_kernels.triton_causal.ops  # noqa: F401

    x, order = draw(Case(), device)
    given = (*x.values(), order.ptr)
    if name == "latent_scan_grad":
        states = torch.ops.flare_connect.latent_scan(*given)
        given = (x["lse"], x["z"], order.ptr, *states, *(torch.randn_like(each) for each in states))
    torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, given)
