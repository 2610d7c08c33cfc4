"""The Triton kernels against the fp64 oracle and plain torch: on a GPU, and in Triton's interpreter on small shapes.

`pytest tests/kernels/test_triton.py` runs what this machine has; `TRITON_INTERPRET=1` in front of it runs the
interpreter directly. How callers meet the kernels is in `test_triton_interface.py`.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernels.triton_cases import (
    BOTH,
    CALLS,
    DEVICES,
    DTYPES,
    INTERPRETED,
    Case,
    Order,
    assert_same,
    check,
    compare,
    cost_of,
    draw,
    exact,
    gather,
    mixer,
    outcome,
    plain_outcomes,
    problem,
    runs,
    scatter,
)

import flare_kernels as fk
from flare_kernels.choice import LARGEST_ROW

HERE = Path(__file__).parent
EVERYWHERE = {
    "ragged": Case(),
    "uniform": Case(lengths=(20, 20), latents=16, dim=8, value_dim=8, log_weights=True),
    "whole tiles": Case(lengths=(128,), latents=16, dim=16, value_dim=16),
    "wide": Case(lengths=(20,), latents=16, dim=64, value_dim=4, scale=0.1),
    "one dim": Case(lengths=(15,), dim=1, value_dim=1),
    "weights": Case(log_weights=True),
    "per mesh": Case(per_mesh=True, log_weights=True),
    "per mesh, uniform": Case(lengths=(9, 9), per_mesh=True),
    "anchored": Case(num_scales=1, one_cost=True),
    "anchored, two scales": Case(heads=3, num_scales=2, log_weights=True),
    "two blocks": Case(lengths=(9, 0, 5), latents=130, num_scales=1, log_weights=True),
    "two chunks": Case(lengths=(150,), heads=1, latents=31, dim=12, value_dim=32),
    "two ragged chunks": Case(lengths=(2, 0, 260), heads=1, latents=5, dim=32, value_dim=4),
    "std 8": Case(scale=0.5, std=8.0),
    "std 40": Case(scale=0.5, std=40.0),
    "negative scale": Case(scale=-0.7),
    "scale zero": Case(scale=0.0),
    "all empty": Case(lengths=(0, 0)),
    "no points": Case(lengths=(0,), log_weights=True, num_scales=1),
}
ON_GPU = {
    "15 points, 16 latents, dims 16 and 256": Case(lengths=(15,), latents=16, dim=16, value_dim=256),
    "63 points, 512 latents, dims 4 and 8": Case(lengths=(63,), latents=512, dim=4, value_dim=8),
    "63 points, 128 latents, dim 256": Case(lengths=(63,), latents=128, dim=256, value_dim=256, scale=1 / 16),
    "500 points, 31 latents, dims 12 and 32": Case(lengths=(500,), latents=31, dim=12, value_dim=32),
    "500 points, 130 latents, dims 60 and 4": Case(lengths=(500,), latents=130, dim=60, value_dim=4, scale=0.1),
    "500 points, 64 latents, dim 128": Case(lengths=(500,), latents=64, dim=128, value_dim=128, scale=0.1),
    "1000 points, 64 latents, dim 16": Case(lengths=(1000,), latents=64, dim=16, value_dim=16),
    "1000 points, 128 latents, dim 32": Case(lengths=(1000,), latents=128, dim=32, value_dim=32, scale=0.2),
    "1000 points, 512 latents, dim 64": Case(lengths=(1000,), latents=512, dim=64, value_dim=64, scale=0.1),
    "large, ragged, per mesh": Case(
        lengths=(500, 0, 1, 1000, 63), latents=64, dim=16, value_dim=16, per_mesh=True, log_weights=True
    ),
    "many meshes": Case(lengths=tuple(range(40)), latents=16, dim=8, value_dim=8, num_scales=2),
    "large, anchored": Case(
        lengths=(600, 1, 1000), heads=3, latents=64, dim=16, value_dim=16, num_scales=1, one_cost=True
    ),
    "large, anchored, many latents": Case(
        lengths=(600, 1, 1000), heads=3, latents=512, dim=16, value_dim=16, num_scales=2, log_weights=True
    ),
    "large, std 8": Case(lengths=(1000,), latents=64, dim=16, value_dim=16, scale=0.25, std=8.0),
    "large, std 40": Case(lengths=(1000,), latents=64, dim=16, value_dim=16, scale=0.25, std=40.0),
}


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(INTERPRETED, reason="this is the run in the interpreter")
def test_everything_in_the_interpreter(repository):
    """In processes of their own, one for each file, because Triton reads the variable when kernels are imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Without a GPU in sight: what runs there would be interpreted as well.
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        (
            subprocess.Popen(
                [*command, str(Path(__file__).with_name(name))],
                env=environment, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ),
            least,
        )
        for name, least in (
            ("test_triton.py", 99), ("test_triton_interface.py", 35), ("test_norm.py", 20), ("test_edges.py", 45),
            ("test_edge_mean.py", 20), ("test_edge_difference.py", 9), ("test_causal_triton.py", 24),
            ("test_causal_decode.py", 70), ("test_blocks_triton.py", 10),
        )
    ]  # fmt: skip
    ended = [(process, process.communicate()[0], least) for process, least in started]
    for process, output, least in ended:
        assert process.returncode == 0, output[-10_000:]
        assert int(re.findall(r"(\d+) passed", output)[-1]) >= least, output[-2000:]


@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize(("case", "device", "dtype"), runs(EVERYWHERE, interpreted_in=BOTH))
def test_error_budget(make, case, device, dtype):
    call, x = problem(make, case, device, dtype)
    compare(call, case, x, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ON_GPU.values(), ids=ON_GPU)
def test_error_budget_at_full_size(case, dtype):
    if max(case.dim, case.value_dim) * dtype.itemsize > LARGEST_ROW:
        pytest.skip("more than Triton takes")
    call, x = problem(mixer, case, torch.device("cuda"), dtype)
    compare(call, case, x, dtype)


@pytest.mark.parametrize("latents", [100, 200])
def test_slopes_of_many_latents_in_half_precision(device, latents):
    """Sums over all points of what cancels at each: of a rounded output they would be far off."""
    case = Case(lengths=(600,), heads=1, latents=latents, num_scales=1, dim=16, value_dim=16)
    call, x = problem(scatter, case, device, torch.float16)
    compare(call, case, x, torch.float16)


ONE = {
    "scatter to a point": (scatter, Case(lengths=(1,))),
    "gather by a latent": (gather, Case(lengths=(15,), latents=1)),
    "mixer by a latent": (mixer, Case(lengths=(15, 2), latents=1)),
}


@pytest.mark.parametrize(("one", "device", "dtype"), runs(ONE))
def test_one_point_or_one_latent(one, device, dtype):
    make, case = one
    call, x = problem(make, case, device, dtype)
    compare(call, case, x, dtype)


CANCELLING = {
    "gather of a point": (gather, Case(lengths=(1,))),
    "mixer of a point": (mixer, Case(lengths=(1,))),
    "mixer of a point, two blocks": (mixer, Case(lengths=(1,), latents=130, heads=1)),
    "scatter of a latent": (scatter, Case(lengths=(15,), latents=1)),
}


@pytest.mark.parametrize(("cancelling", "device", "dtype"), runs(CANCELLING))
def test_softmax_over_equal_values_has_no_gradient(cancelling, device, dtype):
    """In gradients of scores all products of values cancel here: up to one rounding of each."""
    make, case = cancelling
    call, x = problem(make, case, device, dtype)
    ours = outcome(call, x, "triton", dtype, torch.ones_like)
    plain = plain_outcomes(call, case, x, dtype, torch.ones_like)
    truth = outcome(call, exact(x), "reference", dtype, torch.ones_like)
    value = x["z"][0, :, 0] if make is scatter else x["v"]
    # Weights are at most 1, and incoming gradients are 1, that of the log-sum-exp too.
    products = value.double().abs().sum(-1, keepdim=True) + 1
    terms = {"q": (products * x["k"].double().abs()).sum(0).max(), "k": products.max() * x["q"].double().abs().max()}
    for name, size in terms.items():
        error = (ours.pop(f"gradient of {name}").double() - truth.pop(f"gradient of {name}")).abs().max()
        # A difference of two products in each of the two softmaxes.
        assert error <= 4 * torch.finfo(dtype).eps * abs(case.scale) * size, name
    check(ours, [{name: each[name] for name in ours} for each in plain], truth, dtype)


@pytest.mark.parametrize("joined", [False, True], ids=["ptr", "joined"])
@pytest.mark.parametrize("costly", [False, True], ids=["for nothing", "with costs"])
@pytest.mark.parametrize(("case", "device", "dtype"), runs({"tokens": Case(log_weights=True, num_scales=2)}))
def test_tokens(case, joined, costly, device, dtype):
    x = draw(case, device, dtype)
    x.pop("z")
    like = draw(replace(case, lengths=(2, 0, 3, 4)), device, dtype)
    x |= {"token_k": like["k"], "token_v": like["v"]}
    if costly:
        x["cost_tokens"] = like["cost_encode"]

    def call(x, impl):
        segments, tokens = case.segments(device), fk.Segments.from_lengths((2, 0, 3, 4), device)
        ptr = segments.interleave(tokens) if joined else tokens.ptr
        extra = fk.Tokens(k=x["token_k"], v=x["token_v"], cost=x.get("cost_tokens"), ptr=ptr)
        options = {"scale": case.scale, "ptr": segments, "log_weights": x["log_weights"], "tokens": extra, "impl": impl}
        points, encode, decode = (x["q"], x["k"], x["v"]), cost_of(case, x, "encode"), cost_of(case, x, "decode")
        z, lse = fk.gather(*points, cost=encode, return_lse=True, **options)
        return {"z": z, "lse": lse, "y": fk.mixer(*points, cost=encode, cost_decode=decode, **options)}

    compare(call, case, x, dtype)


@pytest.mark.parametrize(("case", "device", "dtype"), runs({"apart": Case(num_scales=1, one_cost=True)}))
def test_separate_decode_weights(case, device, dtype):
    call, x = problem(mixer, case, device, dtype)
    compare(call, case, x | {"q_decode": x["q"].flip(-1), "k_decode": x["k"].flip(-1) / 2}, dtype)


def strided(t):
    """The first two axes in the other order in memory, and NaN behind each row of the last."""
    t = t.transpose(0, 1)
    return torch.cat([t, torch.full_like(t, torch.nan)], -1)[..., : t.shape[-1]].transpose(0, 1)


def prefix(t):
    """The first rows of the middle axis of a larger tensor: a lower number of latents, or some of the heads."""
    return torch.cat([t, torch.full_like(t, torch.nan)], -2)[..., : t.shape[-2], :]


def scattered(t):
    """Numbers two apart in memory, NaN between them."""
    return torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2]


def shifted(t):
    """One element into its buffer, so that nothing is aligned to 16 bytes."""
    buffer = t.new_full((t.numel() + 2,), torch.nan)
    return buffer[1:-1].copy_(t.flatten()).view(t.shape)


LAYOUTS = {each.__name__: each for each in (strided, prefix, scattered, shifted)}
PLAIN = Case(latents=16, dim=8, value_dim=8)
FULL = replace(PLAIN, log_weights=True, num_scales=2)


@pytest.mark.parametrize("make", [mixer, scatter])
@pytest.mark.parametrize(("layout", "device", "dtype"), runs(LAYOUTS))
def test_memory_layouts_of_points_and_latents(make, layout, device, dtype):
    call, x = problem(make, PLAIN, device, dtype)
    compare(call, PLAIN, x, dtype, lambda _, t: layout(t))


@pytest.mark.parametrize(
    ("layout", "device", "dtype"), runs({each: LAYOUTS[each] for each in ("scattered", "shifted")})
)
def test_memory_layouts_of_numbers(layout, device, dtype):
    """Log-weights and slopes that are a column of a matrix, say."""
    call, x = problem(mixer, FULL, device, dtype)
    compare(call, FULL, x, dtype, lambda _, t: layout(t) if t.dim() == 1 else t)


COSTS = {
    "latents apart": lambda t: t.contiguous(),
    "fp32": lambda t: t.float(),
    "scattered": scattered,
    "shifted": shifted,
}


@pytest.mark.parametrize(("layout", "device", "dtype"), runs(COSTS))
def test_memory_layouts_of_costs(layout, device, dtype):
    call, x = problem(mixer, FULL, device, dtype)
    compare(call, FULL, x, dtype, lambda name, t: layout(t) if name.startswith("cost") else t)


@pytest.mark.parametrize(("case", "device", "dtype"), runs({"two scales": FULL}))
def test_memory_layouts_of_heads(case, device, dtype):
    """Heads that share keys, latents, one slope and one scale, without a copy for each."""
    x = draw(replace(case, heads=1), device, dtype)
    x = {name: x[name] for name in ("q", "k", "z", "cost_decode")} | {"slope_decode": torch.rand(1, device=device)}

    def call(x, impl):
        # What lies behind a number in memory is another number that would do, so that a wrong read is a wrong result.
        slope = torch.cat([x["slope_decode"], x["slope_decode"] + 1])[:1].expand(2)
        head_scale = torch.tensor([1, 0], device=device)[:1].expand(2)
        cost = fk.Cost(values=x["cost_decode"], slope=slope, head_scale=head_scale)
        q, k, z = x["q"].expand(2, -1, -1), x["k"].expand(-1, 2, -1), x["z"].expand(-1, 2, -1, -1)
        return {"y": fk.scatter(q, k, z, scale=case.scale, ptr=case.segments(device), cost=cost, impl=impl)}

    compare(call, case, x, dtype)


GRADIENTS = {
    "strided": strided,
    "scattered": scattered,
    "shifted": shifted,
    "of a plain sum": lambda g: g.new_ones(()).expand(g.shape),
}


@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize(("layout", "device", "dtype"), runs(GRADIENTS))
def test_memory_layouts_of_incoming_gradients(make, layout, device, dtype):
    call, x = problem(make, PLAIN, device, dtype)
    compare(call, PLAIN, x, dtype, of_gradient=layout)


@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize(("case", "device", "dtype"), runs({"dense": Case(lengths=(9, 9, 9), log_weights=True)}))
def test_dense_batch_is_a_packed_batch(make, case, device, dtype):
    packed, x = problem(make, case, device, dtype)

    def dense(x, impl):
        x = {name: t.unflatten(0, (3, 9)) if name in ("k", "v", "log_weights") else t for name, t in x.items()}
        options = {"scale": case.scale, "impl": impl}
        if make is scatter:
            return {"y": fk.scatter(x["q"], x["k"], x["z"], **options).flatten(0, 1)}
        options["log_weights"] = x["log_weights"]
        if make is mixer:
            return {"y": fk.mixer(x["q"], x["k"], x["v"], **options).flatten(0, 1)}
        return dict(zip(("z", "lse"), fk.gather(x["q"], x["k"], x["v"], return_lse=True, **options), strict=True))

    assert_same(outcome(dense, x, "triton", dtype), outcome(packed, x, "triton", dtype))


SHUFFLED = {"ragged": FULL}, {"large": replace(FULL, lengths=(500, 0, 1, 700), latents=130)}


@pytest.mark.parametrize(("case", "device", "dtype"), runs(*SHUFFLED))
def test_points_latents_and_dims_permute(case, device, dtype):
    call, x = problem(mixer, case, device, dtype)
    compare(call, case, x, dtype, order=Order(case, device, seed=99))


@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize(("case", "device", "dtype"), runs(*SHUFFLED))
def test_every_run_gives_the_same_bits(make, case, device, dtype):
    call, x = problem(make, case, device, dtype)
    first = outcome(call, x, "triton", dtype)
    for _ in range(49 if device.type == "cuda" else 2):
        assert_same(outcome(call, x, "triton", dtype), first)


POISONED = {
    "anchored": replace(FULL, latents=5),
    "two blocks": Case(lengths=(9, 0), heads=1, latents=130, num_scales=1),
    "all empty": Case(lengths=(0, 0)),
    "no points": Case(lengths=(0,), log_weights=True, num_scales=1),
}


@pytest.mark.parametrize("make", [scatter, mixer])
@pytest.mark.parametrize(("case", "device", "dtype"), runs(POISONED))
def test_nothing_is_read_before_it_is_written(make, case, device, dtype, monkeypatch):
    """New memory is full of NaN, which neither reaches a result nor stays in one."""
    call, x = problem(make, case, device, dtype)
    clean = outcome(call, x, "triton", dtype)
    poisoned = []

    def poison(allocate):
        def allocated(*arguments, **options):
            t = allocate(*arguments, **options)
            poisoned.append(t.numel())
            return t.fill_(torch.nan) if t.is_floating_point() else t

        return allocated

    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    result = outcome(call, x, "triton", dtype)
    monkeypatch.undo()
    assert sum(poisoned) > 0
    assert_same(result, clean)


PARTS = {"halves": (25, 25), "ends": (1, 48, 1), "an empty part": (0, 50)}


@pytest.mark.parametrize(("parts", "device", "dtype"), runs(PARTS))
def test_partial_gathers_merge_into_the_whole(parts, device, dtype):
    """With gradients, which reach each part through its log-sum-exp too."""
    case = Case(lengths=(50,), log_weights=True, std=3.0)
    whole, x = problem(gather, case, device, dtype)

    def merged(x, impl):
        if impl == "reference":
            return whole(x, impl)
        rows = [t.split(parts) for t in (x["k"], x["v"], x["log_weights"])]
        partials = [
            fk.gather(x["q"], k, v, scale=case.scale, log_weights=weights, return_lse=True, impl=impl)
            for k, v, weights in zip(*rows, strict=True)
        ]
        z, lse = fk.merge_partials(*zip(*partials, strict=True))
        return {"z": z.to(dtype), "lse": lse}

    compare(merged, case, x, dtype)


@pytest.mark.parametrize(("case", "device", "dtype"), runs({"ragged": Case()}))
def test_log_weight_counts_points(case, device, dtype):
    """A point of weight log 2 is a point that stands there twice; −inf is a point that is not there."""
    x = draw(case, device, dtype)
    x = {name: x[name] for name in ("q", "k", "v")} | {"counts": torch.arange(sum(case.lengths), device=device) % 4}

    def call(x, impl):
        q, k, v, counts = x["q"], x["k"], x["v"], x["counts"]
        if impl == "triton":
            given = {"log_weights": counts.float().log(), "ptr": case.segments(device)}
        else:
            given = {"ptr": fk.Segments.from_lengths([int(each.sum()) for each in counts.split(case.lengths)], device)}
            k, v = k.repeat_interleave(counts, 0), v.repeat_interleave(counts, 0)
        z, lse = fk.gather(q, k, v, scale=case.scale, return_lse=True, impl=impl, **given)
        return {"z": z, "lse": lse}

    compare(call, case, x, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("wide", ["q", "v", "qv"])
def test_mixed_dtypes(wide):
    """Some of q, k, v in fp32, the keys in bf16: as if all were in the dtype of the keys."""
    call, x = problem(mixer, FULL, torch.device("cuda"), torch.bfloat16)
    x = {name: t.float() + 1e-3 if name in tuple(wide) else t for name, t in x.items()}

    def cast(x, impl):
        if impl == "triton" or x["k"].dtype == torch.float64:
            return call(x, impl)
        y = call({name: t.to(x["k"].dtype) if name in ("q", "v") else t for name, t in x.items()}, impl)["y"]
        return {"y": y.to(x["v"].dtype)}

    compare(cast, FULL, x, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_keys_and_values(dtype):
    call, x = problem(mixer, FULL, torch.device("cuda"), torch.float32)

    def automatic(x, impl):
        with torch.autocast("cuda", dtype):
            return {"y": call(x, impl)["y"].float()}

    def by_hand(x, impl):
        return {"y": call(x | {name: x[name].to(dtype) for name in "kv"}, impl)["y"].float()}

    assert_same(outcome(automatic, x, "triton", dtype), outcome(by_hand, x, "triton", dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
def test_reduced_precision_of_products(precision):
    """A factor in tf32 has more digits than one in bfloat16, and three products more than one in float16."""
    case = Case(lengths=(500,), latents=64, dim=16, value_dim=16, scale=0.25)
    _, x = problem(mixer, case, torch.device("cuda"), torch.float32)
    fewer = torch.bfloat16 if precision == "tf32" else torch.float16
    rounded = {name: t.to(fewer).float() for name, t in x.items()}

    def call(x, impl):
        return {"y": fk.mixer(x["q"], x["k"], x["v"], scale=case.scale, impl=impl, precision=precision)}

    truth = outcome(call, exact(x), "reference", torch.float32)
    plain = plain_outcomes(call, case, rounded, torch.float32)
    check(outcome(call, x, "triton", torch.float32), plain, truth, torch.float32)


@pytest.mark.gpu
def test_addresses_past_2_to_the_31():
    """All but the last 500 of 2³¹ / 128 points weigh nothing: the rest is a small problem at large addresses."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of free GPU memory")
    dtype, rows = torch.bfloat16, 500
    case = Case(lengths=(rows,), heads=8, latents=16, dim=16, value_dim=16, scale=0.25)
    call, small = problem(mixer, case, torch.device("cuda"), dtype)
    n = 2**31 // (8 * 16) + rows

    def behind(t, fill=0.0):
        large = t.new_full((n, *t.shape[1:]), fill)
        large[-rows:] = t
        return large.requires_grad_()

    q, k, v = small["q"].requires_grad_(), behind(small["k"]), behind(small["v"])
    weights = behind(torch.zeros(rows, device="cuda"), -torch.inf).detach()
    y = fk.mixer(q, k, v, scale=case.scale, log_weights=weights, impl="triton")
    dy = torch.randn(rows, 8, 16, device="cuda", dtype=dtype)
    dq, dk, dv = torch.autograd.grad(y, (q, k, v), behind(dy).detach())
    assert dk[:-rows].count_nonzero() == dv[:-rows].count_nonzero() == 0
    ours = {"y": y[-rows:], "gradient of q": dq, "gradient of k": dk[-rows:], "gradient of v": dv[-rows:]}
    plain = outcome(call, small, "reference", dtype, lambda _: dy)
    check(ours, [plain], outcome(call, exact(small), "reference", dtype, lambda _: dy.double()), dtype)
