"""One token more, plain and in Triton: the recurrence, in place, alone and as the end of a whole sequence.

`test_everything_in_the_interpreter` of `test_triton.py` runs the kernel where there is no GPU.
"""

import dataclasses
import re
import subprocess
import sys
from unittest import mock

import pytest
import torch
from kernels.triton_cases import BACKENDS, DEVICES, ORDERS, assert_same, check, exact, interpreted, runs

import flare_kernels as fk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Sizes and options of the tokens of some sequences."""

    batch: int = 3
    tokens: int = 6
    heads: int = 2
    latents: int = 5
    dim: int = 4
    dim_decode: int = 3
    value_dim: int = 6
    std: float = 1.0  # of the scores
    options: tuple[str, ...] = ()  # "log_weights", "q_decode", "k_decode"
    per_sequence: bool = False  # latent queries of each
    fresh: bool = False  # whether sequences begin with nothing


ALL = ("log_weights", "q_decode", "k_decode")
EVERYWHERE = {
    "a few": Tokens(),
    "all of it": Tokens(options=ALL, per_sequence=True),
    "from nothing": Tokens(options=("log_weights",), fresh=True),
    "spread": Tokens(std=8.0, options=ALL),
    "far apart": Tokens(std=40.0, options=ALL),
    "far apart, from nothing": Tokens(std=40.0, options=("log_weights",), fresh=True),
    "one of each": Tokens(batch=1, heads=1, latents=1, dim=1, value_dim=1),
    "a whole tile": Tokens(batch=1, tokens=3, latents=64, dim=32, value_dim=32),
    "blocks of latents": Tokens(batch=1, tokens=3, heads=1, latents=70, dim=200, value_dim=9, options=ALL),
    "many latents": Tokens(batch=1, tokens=2, heads=1, latents=513, dim=7, value_dim=17),
    "wide": Tokens(batch=1, tokens=2, heads=1, latents=33, dim=256, value_dim=250, std=8.0),
}
ON_GPU = {
    "long": Tokens(batch=8, tokens=200, heads=16, latents=64, dim=32, value_dim=32, options=("log_weights",)),
    "large": Tokens(batch=2, tokens=20, latents=512, dim=256, dim_decode=256, value_dim=256, options=ALL),
}
IMPLS = [
    pytest.param("reference", "cpu", id="plain"),
    pytest.param("triton", "cpu", id="interpreter", marks=interpreted),
    pytest.param("triton", "cuda", id="cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernel runs."""
    return torch.device(request.param)


def draw(case, device, dtype=torch.float32):
    """Tensors by name; some latents know nothing yet, and some tokens, the first among them, are kept out."""
    generator = torch.Generator().manual_seed(case.latents + case.dim)
    normal = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)  # noqa: E731
    b, t, shape = case.batch, case.tokens, (case.heads, case.latents)
    queries = *((b,) if case.per_sequence else ()), *shape
    wide = case.dim if "k_decode" not in case.options else case.dim_decode
    x = {
        "q": case.std / case.dim**0.5 * normal(*queries, case.dim), "k": normal(b, t, case.heads, case.dim),
        "v": normal(b, t, case.heads, case.value_dim),
        "q_decode": case.std / wide**0.5 * normal(*queries, wide), "k_decode": normal(b, t, case.heads, wide),
    }  # fmt: skip
    x = {name: each.to(dtype) for name, each in x.items() if name in ("q", "k", "v", *case.options)}
    if "log_weights" in case.options:
        x["log_weights"] = normal(b, t).float()
        x["log_weights"][:, ::4] = -torch.inf
    state = fk.LatentState.empty(b, *shape, case.value_dim)
    if not case.fresh:
        known = torch.rand(state.lse.shape, generator=generator) < 0.8
        state.lse[known] = case.std * normal(*state.lse.shape).float()[known]
        state.z[known] = normal(*state.z.shape).float()[known]
    x |= {"lse": state.lse, "z": state.z}
    return {name: each.to(device) for name, each in x.items()}


def options_of(x, t=slice(None)):
    """What a call is given besides, of some tokens."""
    more = {name: x[name][:, t] for name in ("log_weights", "k_decode") if name in x}
    return more | {name: x[name] for name in ("q_decode",) if name in x}


def one_by_one(x, impl):
    """Outputs of all tokens and the last state."""
    state = fk.LatentState(x["lse"].clone(), x["z"].clone())
    outputs = [
        fk.decode_step(x["q"], x["k"][:, t], x["v"][:, t], state, scale=0.9, impl=impl, **options_of(x, t))
        for t in range(x["k"].shape[1])
    ]
    return {"y": torch.stack(outputs, 1), "z": state.z, "lse": state.lse}


def whole(x, impl="reference", chunk=32):
    """The same from the mixer of sequences."""
    y, last = fk.causal_mixer(
        x["q"], x["k"], x["v"], scale=0.9, initial_state=fk.LatentState(x["lse"], x["z"]), return_state=True,
        impl=impl, chunk=chunk, **options_of(x),
    )  # fmt: skip
    return {"y": y, "z": last.z, "lse": last.lse}


def turned(x, seed):
    """Dims of queries and keys in another order, in which their products are rounded otherwise."""
    generator, found = torch.Generator().manual_seed(seed), dict(x)
    for names in (("q", "k"), ("q_decode", "k_decode")):
        if names[0] in x:
            order = torch.randperm(x[names[0]].shape[-1], generator=generator)
            found |= {name: x[name][..., order.to(x[name].device)] for name in names}
    return found


def check_budget(ours, plain, truth, dtype):
    """Outputs in the dtype of the values, what latents know in float32."""
    for names, kept_in in ((("y",), dtype), (("z", "lse"), torch.float32)):
        ours_too, truth_too, *plain_too = ({name: each[name] for name in names} for each in (ours, truth, *plain))
        check(ours_too, plain_too, truth_too, kept_in)


def check_tokens(case, device, dtype, **others):
    """The kernel within twice the error of plain torch, of which some orders of the dims are taken."""
    x = draw(case, device, dtype)
    x |= {name: x[name].to(other) for name, other in others.items()}
    plain = [one_by_one(x, "reference"), *(one_by_one(turned(x, seed), "reference") for seed in range(ORDERS))]
    check_budget(one_by_one(x, "triton"), plain, whole(exact(x)), dtype)


@pytest.mark.parametrize(("impl", "device"), IMPLS)
def test_autocast_casts_keys_and_values_and_nothing_else(impl, device):
    x = draw(Tokens(options=("log_weights", "q_decode", "k_decode")), device)
    half = {name: each.bfloat16() if name in ("k", "v", "k_decode") else each for name, each in x.items()}
    expected = one_by_one(half, impl)
    with torch.autocast(device, torch.bfloat16):
        found = one_by_one(x, impl)
    assert found["y"].dtype == torch.bfloat16
    assert_same(found, expected)


@pytest.mark.parametrize(("case", "device", "dtype"), runs(EVERYWHERE, ON_GPU))
def test_error_budget(case, device, dtype):
    check_tokens(case, device, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, device):
    check_tokens(Tokens(options=ALL, per_sequence=True), device, dtype)


def test_each_input_in_a_dtype_of_its_own(device):
    check_tokens(Tokens(options=ALL), device, torch.float16, q=torch.float32, k=torch.bfloat16, q_decode=torch.bfloat16)


@pytest.mark.parametrize("case", [Tokens(), EVERYWHERE["all of it"], EVERYWHERE["far apart, from nothing"]])
def test_plain_torch_follows_the_recurrence(case):
    x = exact(draw(case, "cpu"))
    for found, expected in zip(one_by_one(x, "reference").values(), whole(x).values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("impl", "device"), IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix", [0, 1, 17])
def test_prefill_and_decoding_give_the_whole(prefix, dtype, impl, device):
    """Within the budget of the mixer of whole sequences, in chunks of several lengths."""
    x = draw(Tokens(tokens=24, batch=2, options=("log_weights",), fresh=True), device, dtype)
    first = {name: each[:, :prefix] if name in ("k", "v", "log_weights") else each for name, each in x.items()}
    rest = {name: each[:, prefix:] if name in ("k", "v", "log_weights") else each for name, each in x.items()}
    begun = whole(first, "chunked")
    ended = one_by_one(rest | {"lse": begun["lse"], "z": begun["z"]}, impl)
    ours = ended | {"y": torch.cat([begun["y"], ended["y"]], 1)}
    plain = [whole(turned(x, seed), "chunked", chunk) for seed, chunk in enumerate((1, 7, 16, 24, 10))]
    check_budget(ours, plain, whole(exact(x)), dtype)


@pytest.mark.parametrize(("impl", "device"), IMPLS)
def test_the_state_is_overwritten_where_it_is(impl, device):
    """Its own memory and none beside it; what is given besides stays as it was."""
    x = draw(Tokens(tokens=1, options=ALL), device)
    stores = [torch.full((5, *x[name].shape[1:]), torch.nan, device=device) for name in ("lse", "z")]
    state = fk.LatentState(*(store[1:4] for store in stores))
    state.lse.copy_(x["lse"]), state.z.copy_(x["z"])
    expected = one_by_one(x, "reference")
    before = {name: each.clone() for name, each in x.items()}
    versions = [store._version for store in stores]
    y = fk.decode_step(x["q"], x["k"][:, 0], x["v"][:, 0], state, scale=0.9, impl=impl, **options_of(x, 0))
    found = {"y": y[:, None], "lse": stores[0][1:4], "z": stores[1][1:4]}
    for name, each in found.items():
        torch.testing.assert_close(each, expected[name])
    assert all(store[[0, 4]].isnan().all() for store in stores)
    # Autograd has to notice, where something kept the old state for its backward pass.
    assert all(store._version > version for store, version in zip(stores, versions, strict=True))
    assert_same(x, before)


@pytest.mark.parametrize(("impl", "device"), IMPLS)
def test_tokens_that_are_kept_out(impl, device):
    """Nothing is known after nothing but them; the first with weight is all that is known; later ones change no bit."""
    x = draw(Tokens(tokens=3, fresh=True), device)
    state = fk.LatentState(x["lse"], x["z"])

    def step(t, weight):
        weights = torch.full((3,), weight, device=device)
        return fk.decode_step(
            x["q"], x["k"][:, t], x["v"][:, t], state, scale=1.0, log_weights=weights, impl=impl
        )  # fmt: skip

    assert torch.equal(step(0, -torch.inf), torch.zeros(3, 2, 6, device=device))
    assert torch.equal(state.lse, torch.full((3, 2, 5), -torch.inf, device=device))
    assert torch.equal(state.z, torch.zeros(3, 2, 5, 6, device=device))
    torch.testing.assert_close(step(1, 0.5), x["v"][:, 1])
    assert torch.equal(state.z, x["v"][:, 1, :, None].expand(3, 2, 5, 6))
    torch.testing.assert_close(state.lse, torch.einsum("hmd,bhd->bhm", x["q"], x["k"][:, 1]) + 0.5)
    known = fk.LatentState(*(each.clone() for each in state))
    torch.testing.assert_close(step(2, -torch.inf), x["v"][:, 1])
    assert torch.equal(state.lse, known.lse)
    assert torch.equal(state.z, known.z)


def test_one_set_of_queries_is_the_same_for_each_sequence(device):
    x = draw(Tokens(options=ALL), device)
    each = {name: x[name].expand(3, -1, -1, -1).contiguous() for name in ("q", "q_decode")}
    assert_same(one_by_one(x, "triton"), one_by_one(x | each, "triton"))


def test_any_layout_of_the_inputs(device):
    """Keys and values out of one tensor, queries with their dims apart: the same bits."""
    x = draw(Tokens(dim=6, tokens=2), device)
    both = torch.stack([x["k"], x["v"]], 3)
    other = {"q": x["q"].mT.contiguous().mT, "k": both[:, :, :, 0], "v": both[:, :, :, 1]}
    assert not other["q"].is_contiguous()
    assert not other["k"][:, 0].is_contiguous()
    assert_same(one_by_one(x, "triton"), one_by_one(x | other, "triton"))


def test_memory_is_written_before_it_is_read(device, monkeypatch):
    x = draw(Tokens(options=ALL), device)
    clean = one_by_one(x, "triton")
    make = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *given, **more: make(*given, **more).fill_(torch.nan))
    assert_same(one_by_one(x, "triton"), clean)


def test_no_sequences(device):
    assert one_by_one(draw(Tokens(batch=0), device), "triton")["y"].shape == (0, 6, 2, 6)


def launches(x, **options):
    """How many kernels one token takes."""
    from flare_kernels.triton_causal import ops

    state = fk.LatentState(x["lse"], x["z"])
    with mock.patch.object(ops, "launch", wraps=ops.launch) as launch:
        fk.decode_step(x["q"], x["k"][:, 0], x["v"][:, 0], state, scale=1.0, **options)
    return launch.call_count


def test_which_implementation_runs(device, monkeypatch):
    monkeypatch.delenv("FLARE_KERNELS_IMPL", raising=False)
    x = draw(Tokens(), device)
    assert launches(x, impl="triton") == 1
    assert launches(x, impl="reference") == 0
    assert launches(x) == (1 if device.type == "cuda" else 0)
    assert launches(exact(x)) == 0
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "triton")
    assert launches(x) == 1
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "sdpa")
    assert launches(x) == 0


def changed(**replaced):
    """Arguments of a call, some of them other than they should be."""
    x = draw(Tokens(), "cpu")
    given = {"q": x["q"], "k": x["k"][:, 0], "v": x["v"][:, 0], "state": fk.LatentState(x["lse"], x["z"])}
    return {"scale": 1.0, **given, **replaced}


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"q": torch.zeros(2, 5)}, "`q` must be [H, M, D] or [B, H, M, D] with M at least 1, got [2, 5]"),
        ({"q": torch.zeros(2, 0, 4)}, "with M at least 1, got [2, 0, 4]"),
        ({"q": torch.zeros(4, 2, 5, 4)}, "`q` has latents for 4 sequences, there are 3"),
        ({"k": torch.zeros(3, 1, 2, 4)}, "`k` must be [B, 2, 4], got [3, 1, 2, 4]"),
        ({"k": torch.zeros(3, 2, 5)}, "`k` must be [B, 2, 4], got [3, 2, 5]"),
        ({"k": torch.zeros(3, 2, 4).int()}, "`k` must be a floating-point tensor, got torch.int32"),
        ({"v": torch.zeros(4, 2, 6)}, "`v` must be [3, 2, Dv] to match `k`, got [4, 2, 6]"),
        ({"v": torch.zeros(3, 2, 6, device="meta")}, "`v` is on meta"),
        ({"log_weights": torch.zeros(3, 1)}, "`log_weights` must be [3], got [3, 1]"),
        ({"q_decode": torch.zeros(2, 4, 4)}, "`q_decode` must hold the heads and latents of `q`, [2, 5], got [2, 4]"),
        ({"q_decode": torch.zeros(2, 5, 3)}, "`k_decode` must be [B, 2, 3], got [3, 2, 4]"),
        ({"k_decode": torch.zeros(2, 2, 4)}, "`v` must be [2, 2, Dv] to match `k_decode`, got [3, 2, 6]"),
        ({"state": fk.LatentState.empty(1, 2, 5, 6)}, "the state must have `lse` [3, 2, 5] and `z` [3, 2, 5, 6]"),
        (
            {"state": fk.LatentState.empty(3, 2, 5, 6, dtype=torch.bfloat16)},
            "the state must be in float32, or float64, got torch.bfloat16",
        ),
    ],
)
def test_what_does_not_fit_is_named(replaced, message, impl):
    with pytest.raises(ValueError, match=re.escape(message)):
        fk.decode_step(**changed(**replaced, impl=impl))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"state": fk.LatentState.empty(3, 2, 5, 6, dtype=torch.float64)}, "takes a state in float32, got"),
        (
            {"state": fk.LatentState(torch.zeros(3, 2, 5), torch.zeros(3, 2, 6, 5).mT)},
            "takes a contiguous state, got `z` [3, 2, 5, 6] with strides [60, 30, 1, 5]",
        ),
        ({"v": torch.zeros(3, 2, 6).double()}, "takes float32, bfloat16 and float16, got torch.float64"),
        (
            {"q": torch.zeros(2, 5, 257), "k": torch.zeros(3, 2, 257)},
            "takes head dims of 1 to 256, got 257 of `q`",
        ),
    ],
)  # fmt: skip
def test_what_the_kernel_does_not_take_is_named(replaced, message, monkeypatch):
    """And plain torch takes it."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=re.escape(f"impl='triton' {message}") + ".*use impl='auto'"):
        fk.decode_step(**changed(**replaced, impl="triton"))
    assert fk.decode_step(**changed(**replaced)).shape == (3, 2, 6)


def test_the_implementation_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="`impl` must be one of auto, triton, reference, got 'fast'"):
        fk.decode_step(**changed(impl="fast"))
    with pytest.raises(ValueError, match="impl='triton' needs a GPU, or its interpreter"):
        fk.decode_step(**changed(impl="triton"))


@pytest.mark.parametrize("case", [Tokens(), EVERYWHERE["all of it"]], ids=["a few", "all of it"])
def test_the_operator_keeps_the_rules_of_torch(case, device):
    """What it says that it overwrites is what it overwrites; shapes without data; traced."""
    import flare_kernels.triton_causal.ops  # noqa: F401

    x = draw(case, device)
    more = options_of(x, 0)
    optional = [more.get(name) for name in ("log_weights", "q_decode", "k_decode")]
    given = (x["q"], x["k"][:, 0].contiguous(), x["v"][:, 0].contiguous(), *optional, x["lse"], x["z"], 0.9)
    torch.library.opcheck(torch.ops.flare_connect.causal_decode.default, given)


COMPILE = """
import sys, torch, flare_kernels as fk

device, backend = sys.argv[1:]

def run(q, k, v, weights, lse, z):
    state = fk.LatentState(lse, z)
    return [fk.decode_step(q, k, v, state, scale=0.7, log_weights=weights, impl=impl) for impl in ("triton", "auto")]

shapes = (3, 5, 4), (2, 3, 4), (2, 3, 6), (2,), (2, 3, 5), (2, 3, 5, 6)
given = [torch.randn(shape, device=device) for shape in shapes]
other = [x.clone() for x in given]
outcomes = run(*given), torch.compile(run, fullgraph=True, backend=backend)(*other)
for one, two in zip((*outcomes[0], *given), (*outcomes[1], *other), strict=True):
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
"""


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
def test_compiles_without_graph_breaks(device, backend):
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    run = subprocess.run([sys.executable, "-c", COMPILE, device, backend], capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_cuda_graph_takes_tokens_one_after_another():
    """The state goes on from replay to replay, and no call waits for the device."""
    x = draw(Tokens(tokens=8, options=("log_weights",)), "cuda")
    expected = one_by_one(x, "triton")
    state = fk.LatentState(x["lse"].clone(), x["z"].clone())
    k, v, weights = (x[name][:, 0].clone() for name in ("k", "v", "log_weights"))
    step = lambda: fk.decode_step(x["q"], k, v, state, scale=0.9, log_weights=weights, impl="triton")  # noqa: E731
    step()  # compiled before the capture
    state.lse.copy_(x["lse"]), state.z.copy_(x["z"])
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):  # which runs nothing: the state is as it was
            y = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    outputs = []
    for t in range(8):
        for each, name in ((k, "k"), (v, "v"), (weights, "log_weights")):
            each.copy_(x[name][:, t])
        graph.replay()
        outputs.append(y.clone())
    assert_same({"y": torch.stack(outputs, 1), "z": state.z, "lse": state.lse}, expected)
