"""What surrounds the Triton kernels: refusals, the choice of implementation, operators, compilers, the launch table."""

import json
import re
import subprocess
import sys

import pytest
import torch
from kernels.triton_cases import BACKENDS, DEVICES, Case, assert_same, compare, draw, mixer, outcome, problem

import flare_kernels as fk
from flare_kernels.triton_mixer import sizes

ANCHORED = Case(latents=16, dim=8, value_dim=8, log_weights=True, num_scales=2)


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


def points(device="cpu", dtype=torch.float32, dim=4):
    """q, k, v."""
    draw = lambda *shape: torch.randn(shape, device=device).to(dtype)  # noqa: E731
    return draw(2, 3, dim), draw(7, 2, dim), draw(7, 2, dim)


def test_a_cpu_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=re.escape("needs a GPU, or its interpreter (TRITON_INTERPRET=1)")):
        fk.mixer(*points(), scale=1.0, impl="triton")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.float64}, "takes float32, bfloat16 and float16, got torch.float64"),
        ({"dim": 129}, "takes head dims up to 128 in float32, got 129"),
        ({"dim": 257, "dtype": torch.bfloat16}, "takes head dims up to 256 in bfloat16, got 257"),
    ],
)
@pytest.mark.parametrize("call", [fk.gather, fk.scatter, fk.mixer])
def test_what_kernels_cannot_do_is_refused(call, options, message, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    q, k, v = points(**options)
    last = q[None] if call is fk.scatter else v
    with pytest.raises(ValueError, match=re.escape(f"impl='triton' {message}; use impl='auto'")):
        call(q, k, last, scale=1.0, impl="triton")


def test_the_environment_takes_the_place_of_auto(monkeypatch):
    arguments = points(dtype=torch.float64)
    reference = fk.mixer(*arguments, scale=1.0, impl="reference")
    sdpa = fk.mixer(*arguments, scale=1.0, impl="sdpa")
    assert not torch.equal(reference, sdpa)
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "reference")
    assert torch.equal(fk.mixer(*arguments, scale=1.0), reference)
    assert torch.equal(fk.mixer(*arguments, scale=1.0, impl="sdpa"), sdpa)
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "triton")
    with pytest.raises(ValueError, match="impl='triton'"):
        fk.mixer(*arguments, scale=1.0)
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "magic")
    with pytest.raises(ValueError, match=r"`FLARE_KERNELS_IMPL` must be one of auto, .*, got 'magic'"):
        fk.mixer(*arguments, scale=1.0)


@pytest.mark.gpu
def test_auto_is_triton_on_a_gpu(monkeypatch):
    monkeypatch.delenv("FLARE_KERNELS_IMPL", raising=False)
    arguments = points("cuda")
    assert torch.equal(fk.mixer(*arguments, scale=1.0), fk.mixer(*arguments, scale=1.0, impl="triton"))


def test_a_wrong_precision_is_named():
    with pytest.raises(ValueError, match="`precision` must be one of ieee, tf32x3, tf32, got 'fp8'"):
        fk.mixer(*points(), scale=1.0, precision="fp8")


def test_transforms_are_refused(device):
    q, k, v = points(device)
    run = lambda k, v: fk.mixer(q, k, v, scale=1.0, impl="triton")  # noqa: E731
    with pytest.raises(RuntimeError, match=r"torch\.func transforms .* dense \[B, N, H, D\]"):
        torch.func.vmap(run)(torch.stack([k, k]), torch.stack([v, v]))
    with pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        torch.func.grad(lambda k: run(k, v).sum())(k)


@pytest.mark.parametrize("call", [fk.gather, fk.scatter, fk.mixer])
@pytest.mark.parametrize("loss", [torch.sum, torch.linalg.vector_norm])
def test_second_derivatives_are_refused(call, loss, device):
    """A penalty on a gradient, as of physics-informed losses: an error, and no number without the second derivative."""
    q, k, v = points(device)
    weight = torch.ones((), device=device, requires_grad=True)
    x = k.clone().requires_grad_()

    def penalty_gradient(impl):
        last = q[None] if call is fk.scatter else v
        y = call(q, x * weight, last, scale=1.0, impl=impl)
        (slope,) = torch.autograd.grad(loss(y), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    assert penalty_gradient("reference").isfinite()
    with pytest.raises(RuntimeError, match=r"twice|second|create_graph"):
        penalty_gradient("triton")


def operator_arguments(device, anchored):
    """Arguments of each operator, ragged with everything or uniform with nothing."""
    case = ANCHORED if anchored else Case(lengths=(9, 9))
    x = draw(case, device, torch.float32)
    segments = case.segments(device)
    plan = (*segments.chunks, len(case.lengths), 0, segments.chunk) if anchored else (None, None, 2, 9, 0)
    head_scale = torch.arange(case.heads, device=device) % 2
    encode, decode = (
        (x[f"cost_{way}"], x[f"slope_{way}"], head_scale) if anchored else (None, None, None)
        for way in ("encode", "decode")
    )
    q, k, v, z, weights, rest = x["q"], x["k"], x["v"], x["z"], x.get("log_weights"), (*plan, 0.7, "ieee")
    flare = torch.ops.flare_connect
    _, lse_latents = flare.gather(q, k, v, weights, *encode, *rest)
    y, lse_points, rest_of_y = flare.scatter(q, k, z, *decode, *rest, True)
    dlse = torch.randn(z.shape[:3], device=device)
    # Points serve as tokens too.
    tokens = (k, v, *plan[:2], *plan[3:], encode[0])
    return {
        "gather": [(q, k, v, weights, *encode, *rest), (q, k, v, weights, *encode, *rest, *tokens)],
        "scatter": [(q, k, z, *decode, *rest, True), (q, k, z, *decode, *rest, False)],
        "latent_grad": [(q, k, v, lse_points, *decode, *rest)],
        "point_grad": [
            (q, k, v, v, y, rest_of_y, z, z, lse_latents, lse_points, None, weights, anchored, *encode, *decode, *rest),
            (
                q,
                k,
                v,
                None,
                None,
                None,
                z,
                z,
                lse_latents,
                None,
                dlse,
                weights,
                anchored,
                *encode,
                None,
                None,
                None,
                *rest,
            ),
            (
                q,
                k,
                None,
                v,
                y,
                rest_of_y,
                z,
                None,
                None,
                lse_points,
                None,
                None,
                False,
                None,
                None,
                None,
                *decode,
                *rest,
            ),
        ],
    }


@pytest.mark.parametrize("name", ["gather", "scatter", "latent_grad", "point_grad"])
@pytest.mark.parametrize("anchored", [False, True], ids=["plain", "anchored"])
def test_operators_keep_the_rules_of_torch(name, anchored, device):
    """Schemas, shapes without data, no aliases, traced with sizes that vary."""
    import flare_kernels.triton_mixer.ops  # noqa: F401

    for arguments in operator_arguments(device, anchored)[name]:
        torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, arguments)


COMPILE = """
import sys, torch, flare_kernels as fk

device, backend = sys.argv[1:]

def run(q, k, v, weights, slope, values, segments):
    cost = fk.Cost(values=values, slope=slope)
    plain = fk.mixer(q, k, v, scale=0.7, ptr=segments, log_weights=weights, impl="triton")
    z, lse = fk.gather(q, k, v, scale=0.7, ptr=segments, cost=cost, return_lse=True, impl="triton")
    return plain, fk.scatter(q, k, z, scale=0.7, ptr=segments, cost=cost, impl="triton"), lse

compiled = torch.compile(run, fullgraph=True, backend=backend)
for lengths in ([15, 0, 5], [4, 9, 8]):
    n = sum(lengths)
    segments = fk.Segments.from_lengths(lengths, device).with_indices()
    shapes = (3, 5, 4), (n, 3, 4), (n, 3, 6), (n,), (3,)
    leaves = [torch.randn(shape, device=device).abs().requires_grad_() for shape in shapes]
    values = torch.rand(n, 5, 1, device=device)
    outcomes = []
    for call in (run, compiled):
        results = call(*leaves, values, segments)
        # Gradients of one call go into the next, so they are given and not computed.
        given = [torch.ones_like(r).cumsum(-1).where(r.isfinite(), 0.0) for r in results]
        outcomes.append((*results, *torch.autograd.grad(results, leaves, given)))
    for eager, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-6, atol=1e-6)
"""


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
def test_compiles_without_graph_breaks(device, backend):
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    run = subprocess.run([sys.executable, "-c", COMPILE, device, backend], capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(40,), (15, 1, 0, 24)], ids=["uniform", "ragged"])
def test_cuda_graph_replays_what_eager_computes(lengths, dtype):
    segments = fk.Segments.from_lengths(lengths, "cuda").with_indices()
    draw = lambda *shape: torch.randn(shape, device="cuda").to(dtype)  # noqa: E731
    tensors = [draw(2, 16, 8), draw(40, 2, 8), draw(40, 2, 8)]
    given = draw(40, 2, 8)

    def run():
        # New leaves each time: autograd ties a leaf to the stream that it was first used on.
        leaves = [t.detach().requires_grad_() for t in tensors]
        y = fk.mixer(*leaves, scale=0.7, ptr=segments, impl="triton")
        return [y, *torch.autograd.grad(y, leaves, given)]

    # Compiling and first allocations happen before the capture, on another stream as torch asks for.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):
        with torch.no_grad():
            for t in (*tensors, given):
                t.copy_(draw(*t.shape))
        graph.replay()
        for replayed, eager in zip(captured, run(), strict=True):
            assert torch.equal(replayed, eager)


KERNELS = ("gather", "scatter", "latent_grad", "point_grad")
ROWS = json.loads(sizes.TABLE.read_text())["rows"]
# What a call is looked up by: latents, dim, bytes of an element.
KEYS = sorted({(row["m"], row["d"], row["bytes"]) for rows in ROWS.values() for row in rows})

POWERS = ("m", "d", "bytes", "block_m", "block_n", "num_warps")


def is_power_of_two(number):
    return number > 0 and number & (number - 1) == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_launch_table(kernel):
    assert set(ROWS) == set(KERNELS)
    assert {row["bytes"] for row in ROWS[kernel]} == {2, 4}
    for row in ROWS[kernel]:
        assert all(type(row[name]) is int for name in (*POWERS, "num_stages")), row
        assert all(is_power_of_two(row[name]) for name in POWERS), row
        assert 16 <= row["block_m"] <= min(128, row["m"]), row
        assert 16 <= row["block_n"] <= sizes.CHUNK_STEP, row
        assert row["num_warps"] <= 16, row
        assert 1 <= row["num_stages"] <= 8, row
    keys = [(row["m"], row["d"], row["bytes"]) for row in ROWS[kernel]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_row_of_the_launch_table_is_found(kernel):
    for row in ROWS[kernel]:
        tile = sizes.tile(kernel, row["m"], row["d"], row["bytes"])
        assert all(getattr(tile, name) == row[name] for name in ("block_m", "block_n", "num_warps", "num_stages")), row


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [2, 4])
def test_every_shape_finds_a_launch(kernel, size):
    """Also one without a row of its own."""
    for dim in (1, 16, 17, 60, 100, 512 // size):
        for latents in (1, 16, 17, 31, 64, 65, 100, 128, 130, 512, 5000):
            tile = sizes.tile(kernel, latents, dim, size)
            assert tile.block_m <= max(16, 2 * latents), (dim, latents)
            # Forward and backward must agree on this without asking the table: the forward keeps y, or does not.
            one_block = latents <= sizes.ALWAYS_ONE_BLOCK
            assert tile.block_m >= latents or not one_block, (dim, latents)


@pytest.mark.gpu
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_every_row_of_the_launch_table_runs(key):
    """Fewer points than a tile has, some more, and a mesh without any."""
    m, d, size = key
    latents = 2 * m if m == sizes.SEVERAL_BLOCKS else m
    case = Case(lengths=(150, 0, 9), latents=latents, dim=d, value_dim=d, scale=d**-0.5)
    dtype = torch.bfloat16 if size == 2 else torch.float32
    call, x = problem(mixer, case, torch.device("cuda"), dtype)
    compare(call, case, x, dtype)
    assert_same(outcome(call, x, "triton", dtype), outcome(call, x, "triton", dtype))
