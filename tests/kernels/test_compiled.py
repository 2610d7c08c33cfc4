"""Every kernel compiles for GPUs, on machines without one: the interpreter takes more than the compiler does."""

import re
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import torch

import flare_kernels as fk

pytest.importorskip("triton")

import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from flare_kernels.causal.state import running
from flare_kernels.triton_causal import ops as causal_ops
from flare_kernels.triton_edges import ops as edge_ops
from flare_kernels.triton_mixer import ops

TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
HOPPER, AMPERE = GPUTarget("cuda", 90, 32), GPUTarget("cuda", 80, 32)
CASES = {
    "plain, bfloat16": ({}, torch.bfloat16, HOPPER),
    "plain, bfloat16, Ampere": ({}, torch.bfloat16, AMPERE),
    "all of it, float16": ({"scales": 2, "weights": True, "tokens": True, "ragged": True}, torch.float16, HOPPER),
    "all of it, float32": ({"dim": 8, "scales": 1, "weights": True, "tokens": True}, torch.float32, HOPPER),
    "many latents, bfloat16": ({"latents": 300, "scales": 1}, torch.bfloat16, HOPPER),
    "wide, bfloat16": ({"dim": 96, "latents": 40}, torch.bfloat16, HOPPER),
}


def problem(dtype, dim=16, latents=64, scales=0, weights=False, tokens=False, ragged=False):
    """Arguments of a mixer of one or two meshes."""
    draw = lambda *shape: torch.zeros(shape, dtype=dtype, requires_grad=True)  # noqa: E731
    lengths = (3000, 1000) if ragged else (4000,)
    arguments = {"scale": 1.0, "impl": "triton", "ptr": fk.Segments.from_lengths(lengths)}
    if weights:
        arguments["log_weights"] = torch.zeros(4000, requires_grad=True)
    if scales:
        values, slope = torch.zeros(4000, latents, scales, dtype=torch.float16), torch.zeros(2, requires_grad=True)
        head_scale = torch.tensor([0, scales - 1])
        for name in ("cost", "cost_decode"):
            arguments[name] = fk.Cost(values=values, slope=slope, head_scale=head_scale)
    if tokens:
        ptr = fk.Segments.from_lengths([20] * len(lengths))
        arguments["tokens"] = fk.Tokens(k=draw(20 * len(lengths), 2, dim), v=draw(20 * len(lengths), 2, dim), ptr=ptr)
    return (draw(2, latents, dim), draw(4000, 2, dim), draw(4000, 2, dim)), arguments


def compiled(target, kernel, programs, tensors, numbers, strides, constants, num_warps=4, num_stages=2):
    """In place of a launch: compile the kernel as Triton would for these arguments."""
    signature, constexprs, attributes = {}, {}, {}
    for place, (name, value) in enumerate(
        zip(kernel.arg_names, (*tensors, *numbers, *strides, *constants), strict=True)
    ):
        kind = "fp32"
        if kernel.params[place].is_constexpr or value is None:
            kind, constexprs[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            kind, attributes[(place,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, int):
            kind = "i32"
            if value % 16 == 0 and name not in kernel.do_not_specialize:
                attributes[(place,)] = [["tt.divisibility", 16]]
        signature[name] = kind
    options = {"num_warps": num_warps, "num_stages": num_stages}
    made = compile(ASTSource(kernel, signature, constexprs, attributes), target=target, options=options)
    assert made.asm["cubin"]
    # What a program may have at most; more would not launch.
    assert made.metadata.shared <= (227 if target is HOPPER else 163) * 1024
    return made


@pytest.mark.parametrize(("change", "dtype", "target"), CASES.values(), ids=CASES)
def test_kernels_compile(change, dtype, target, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # only for the operators to accept tensors on a CPU
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (q, k, v), arguments = problem(dtype, **change)
    seen = set()

    def launch(kernel, *rest, **more):
        seen.add(kernel.fn.__name__)
        compiled(target, kernel, *rest, **more)

    with mock.patch.object(ops, "launch", launch):
        fk.mixer(q, k, v, **arguments).sum().backward()
    kernels = {"gather", "merge", "scatter", "latent_grad", "point_grad", "sum"}
    assert seen == {f"{name}_kernel" for name in kernels}


def edge_kernels(channels, features, target, monkeypatch, folder):
    """Name → kernel, of both operators forward and backward, compiled."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    source, end = (torch.zeros(5, channels, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    values, weight = torch.zeros(5, channels, requires_grad=True), torch.zeros(channels, features, requires_grad=True)
    attr, plan = (
        torch.zeros(2, features, dtype=torch.bfloat16),
        fk.EdgePlan.from_edges(torch.tensor([[0, 1], [1, 2]]), 5),
    )
    made = {}

    def launch(kernel, *rest, **more):
        made[kernel.fn.__name__] = compiled(target, kernel, *rest, **more)

    with mock.patch.object(edge_ops, "launch", launch):
        fk.edge_mean(source, end, attr, weight, plan, impl="triton").sum().backward()
        fk.edge_difference(values, source, end, attr, weight, plan, impl="triton").sum().backward()
    return made


@pytest.mark.parametrize("target", [HOPPER, AMPERE], ids=["Hopper", "Ampere"])
@pytest.mark.parametrize(("channels", "features"), [(64, 5), (56, 16), (1024, 1)])
def test_edge_kernels_compile(channels, features, target, monkeypatch, tmp_path: Path):
    assert set(edge_kernels(channels, features, target, monkeypatch, tmp_path)) == {
        "edge_mean_kernel", "target_grad_kernel", "source_grad_kernel",
        "edge_difference_kernel", "difference_target_grad_kernel", "difference_source_grad_kernel",
    }  # fmt: skip


@pytest.mark.parametrize("channels", [64, 128])
def test_a_thread_loads_each_feature_of_an_edge_once(channels, monkeypatch, tmp_path: Path):
    """Not once for each channel that it works on. Rows are loaded in wider pieces, so these loads are the features'."""
    for name, made in edge_kernels(channels, 5, HOPPER, monkeypatch, tmp_path).items():
        assert made.asm["ptx"].count("ld.global.b16") == 5, name


@pytest.mark.parametrize("target", [HOPPER, AMPERE], ids=["Hopper", "Ampere"])
@pytest.mark.parametrize("value_dim", [16, 200])
def test_scan_kernels_compile(value_dim, target, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    first, parts = (fk.LatentState.empty(n, 2, 64, value_dim) for n in (1, 3))
    seen = set()

    def launch(kernel, *rest, **more):
        seen.add(kernel.fn.__name__)
        compiled(target, kernel, *rest, **more)

    parts.z.requires_grad_()
    with mock.patch.object(causal_ops, "launch", launch):
        running(parts, first, fk.Segments.from_lengths([3]), "triton").after.z.sum().backward()
    assert seen == {"scan_kernel", "scan_grad_kernel"}


@pytest.mark.parametrize(
    ("dtype", "latents", "dim", "target"),
    [
        (torch.bfloat16, 64, 32, HOPPER), (torch.float16, 200, 16, AMPERE), (torch.bfloat16, 64, 256, HOPPER),
        (torch.float32, 16, 16, AMPERE),
    ],
)  # fmt: skip
def test_causal_kernels_compile(dtype, latents, dim, target, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    draw = lambda *shape: torch.zeros(shape, dtype=dtype, requires_grad=True)  # noqa: E731
    q, k, v = draw(2, latents, dim), draw(70, 2, dim), draw(70, 2, dim)
    seen = {}

    def launch(kernel, *rest, **more):
        seen.setdefault(kernel.fn.__name__, compiled(target, kernel, *rest, **more))

    state = fk.LatentState.empty(1, 2, latents, dim)
    with mock.patch.object(causal_ops, "launch", launch):
        weights = torch.zeros(70)
        y = fk.causal_mixer(q, k, v, scale=1.0, log_weights=weights, initial_state=state, impl="triton")
        y.float().sum().backward()
    assert seen.keys() == {
        "span_kernel", "scan_kernel", "answer_kernel", "answer_grad_kernel", "carry_kernel", "group_grad_kernel",
        "sum_kernel", *(["token_kernel"] if latents == 200 else []),
    }  # fmt: skip
    if (dtype, dim) == (torch.bfloat16, 32):  # of what the benchmarks measure
        assert spilled(seen["span_kernel"], tmp_path) == 0
        assert spilled(seen["answer_kernel"], tmp_path) <= 64


def spilled(made, folder):
    """Bytes a thread that found no register."""
    (folder / "kernel.cubin").write_bytes(made.asm["cubin"])
    tool = Path(triton.backends.nvidia.__file__).with_name("bin") / "cuobjdump"
    report = subprocess.check_output([tool, "--dump-resource-usage", folder / "kernel.cubin"], text=True)
    return int(re.search(r"STACK:(\d+)", report)[1])


@pytest.mark.parametrize("target", [HOPPER, AMPERE], ids=["Hopper", "Ampere"])
@pytest.mark.parametrize(
    ("dtype", "latents", "dim", "value_dim", "apart"),
    [
        (torch.bfloat16, 64, 32, 32, False), (torch.bfloat16, 256, 32, 32, True), (torch.float16, 300, 250, 256, True),
        (torch.float32, 512, 256, 256, True), (torch.float32, 5, 4, 6, False), (torch.float32, 1, 1, 1, False),
    ],
)  # fmt: skip
def test_the_kernel_of_one_token_compiles(dtype, latents, dim, value_dim, apart, target, monkeypatch, tmp_path: Path):
    """In registers alone; and where a block is all of the state, nothing of it is written before all of it was read."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    q, k, v = (torch.zeros(shape, dtype=dtype) for shape in ((2, latents, dim), (3, 2, dim), (3, 2, value_dim)))
    more = {"q_decode": q, "k_decode": k, "log_weights": torch.zeros(3)} if apart else {}
    made = []

    def launch(kernel, *rest, **options):
        made.append(compiled(target, kernel, *rest, **options))

    with mock.patch.object(causal_ops, "launch", launch):
        fk.decode_step(q, k, v, fk.LatentState.empty(3, 2, latents, value_dim), scale=1.0, impl="triton", **more)
    assert len(made) == 1
    assert spilled(made[0], tmp_path) == 0
    if latents <= 64:
        ptx = made[0].asm["ptx"]
        written = ptx.index("st.global")
        read = ptx.rindex("ld.global", 0, written)
        assert "ld.global" not in ptx[written:]
        assert "bar.sync" in ptx[read:written]
