"""Speed and memory of the mixer beside what people would use instead, in one run.

Run from the repository: `python kernels/benchmarks/mixer.py [--quick] [--cases mixer ragged …] [--out FILE]`. No speed
is written when our result or a gradient is outside of its error budget. Implementations: `ours`; `sdpa`, two calls of
`scaled_dot_product_attention` with the backend that torch picks; `sdpa_flash`, `sdpa_efficient`, `sdpa_cudnn`, the same
with one backend; `reference`, plain torch; `flashslice`, the fused slice attention of Transolver, where installed.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/mixer.py"
BACKENDS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
}
Inputs = dict[str, Tensor]
Work = Callable[[], Tensor]


def mixer(size: dict[str, int], dtype: torch.dtype, device: torch.device) -> tuple[Inputs, dict[str, Work], Work]:
    """One mesh: inputs, implementations, and the fp64 oracle's arguments bound by name."""
    q, k, v = (
        measure.draw(shape, dtype, device, seed).requires_grad_()
        for seed, shape in enumerate([(size["H"], size["M"], size["D"]), *2 * [(size["N"], size["H"], size["D"])]])
    )
    works: dict[str, Work] = {
        "ours": lambda: fk.mixer(q, k, v, scale=1.0),
        "sdpa": lambda: two_calls(q, k, v),
    }
    if device.type == "cuda":
        for name, backend in BACKENDS.items():
            works[name] = lambda backend=backend: two_calls(q, k, v, backend)
        if find_spec("flashslice") and dtype == torch.bfloat16:
            works["flashslice"] = flashslice(q, k, v)
    if size["N"] * size["H"] * size["M"] <= 2**29:
        works["reference"] = lambda: fk.mixer(q, k, v, scale=1.0, impl="reference")
    return {"q": q, "k": k, "v": v}, works, lambda: fk.mixer(q, k, v, scale=1.0, impl="reference")


def anchored(size: dict[str, int], dtype: torch.dtype, device: torch.device) -> tuple[Inputs, dict[str, Work], Work]:
    """Costs of two scales, in fp16, heads alternating."""
    inputs, _, _ = mixer(size, dtype, device)
    q, k, v = inputs.values()
    values = torch.rand(size["N"], size["S"], size["M"], device=device, dtype=torch.float16).mul_(4).permute(0, 2, 1)
    slopes = [torch.linspace(0.1, 2, size["H"], device=device).requires_grad_() for _ in range(2)]
    scales = torch.arange(size["H"], device=device) % size["S"]
    encode, decode = (fk.Cost(values=values, slope=slope, head_scale=scales) for slope in slopes)

    def run(impl: str) -> Tensor:
        return fk.mixer(q, k, v, scale=1.0, cost=encode, cost_decode=decode, impl=impl)

    inputs |= {"slope_encode": slopes[0], "slope_decode": slopes[1]}
    works: dict[str, Work] = {"ours": lambda: run("auto"), "plain": lambda: fk.mixer(q, k, v, scale=1.0)}
    if size["N"] <= 100_000:
        works["sdpa"] = lambda: run("sdpa")
    return inputs, works, lambda: run("reference")


def ragged(size: dict[str, int], dtype: torch.dtype, device: torch.device) -> tuple[Inputs, dict[str, Work], Work]:
    """64 meshes of 1,000 to 20,000 points in one packed batch, against a loop of SDPA calls."""
    lengths = torch.linspace(size["shortest"], size["longest"], size["B"]).long()
    lengths = lengths[torch.randperm(size["B"], generator=torch.Generator().manual_seed(0))].tolist()
    segments = fk.Segments.from_lengths(lengths, device)
    size["N"] = sum(lengths)
    inputs, _, _ = mixer(size, dtype, device)
    q, k, v = inputs.values()

    def loop() -> Tensor:
        return torch.cat([two_calls(q, k[rows], v[rows]) for rows in segments.slices])

    works: dict[str, Work] = {"ours": lambda: fk.mixer(q, k, v, scale=1.0, ptr=segments), "sdpa": loop}
    if device.type == "cpu":
        works["padded"] = lambda: fk.mixer(q, k, v, scale=1.0, ptr=segments, impl="sdpa")
    return inputs, works, lambda: fk.mixer(q, k, v, scale=1.0, ptr=segments, impl="reference")


def two_calls(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend | None = None) -> Tensor:
    """FLARE as published: SDPA from points to latents, SDPA back."""
    q, k, v = q[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None]
    if backend is None:
        z = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return F.scaled_dot_product_attention(k, q, z, scale=1.0)[0].transpose(0, 1)
    with sdpa_kernel(backend):
        z = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return F.scaled_dot_product_attention(k, q, z, scale=1.0)[0].transpose(0, 1)


def flashslice(q: Tensor, k: Tensor, v: Tensor) -> Work:
    """Transolver's slice attention of the same size: one softmax over slices, used in both directions."""
    from flashslice.kernels import fused_deslice, fused_slice, set_dot_mode

    set_dot_mode("bf16")
    tau = torch.ones(q.shape[0], device=q.device)

    def run() -> Tensor:
        z, total, stats = fused_slice(k[None], v[None], q, None, tau, return_stats=True)
        return fused_deslice(k[None], q, None, tau, (z / (total + 1e-5)[..., None]).to(k.dtype), stats)[0]

    return run


CASES = {"mixer": mixer, "anchored": anchored, "ragged": ragged}


def sizes(case: str, cuda: bool, quick: bool) -> Iterator[tuple[dict[str, int], torch.dtype]]:
    """What is measured: the rows of the project's goals; `--quick` only shows that it runs."""
    base = {"B": 1, "H": 8, "M": 64, "D": 16}
    half, full = torch.bfloat16, torch.float32
    if case == "mixer" and not cuda:
        for n in (10_000,) if quick else (10_000, 100_000):
            yield base | {"N": n}, full
    elif case == "mixer":
        for n, m in [(10_000, 64)] if quick else [(10**6, 64), (10**6, 128), (10**6, 512), (10**6, 2048)]:
            yield base | {"N": n, "M": m}, half
        if not quick:
            yield base | {"N": 10**5}, half
            yield base | {"N": 10**4}, half
            yield base | {"N": 10**5}, full
            yield base | {"N": 10**6, "H": 16, "D": 32}, half
    elif case == "anchored":
        if cuda:
            yield base | {"N": 10**4 if quick else 10**6, "S": 2}, half
    else:
        small = quick or not cuda
        many = {"B": 16, "shortest": 100, "longest": 2000} if small else {"B": 64, "shortest": 1000, "longest": 20_000}
        yield base | many, half if cuda else full


def check(case: str, size: dict[str, int], dtype: torch.dtype, device: torch.device) -> dict[str, tuple[float, float]]:
    """Error of our output and gradients at a size that fp64 can do, and what plain torch would be allowed."""
    inputs, works, oracle = CASES[case](size | {"N": min(size.get("N", 0), 20_000)}, dtype, device)
    gradient = measure.draw(tuple(inputs["v"].shape), dtype, device, 9)
    ours, plain = evaluate(works["ours"], inputs, gradient), evaluate(oracle, inputs, gradient)
    exact = {name: x.detach().double() for name, x in inputs.items()}
    for name, x in inputs.items():
        x.data = exact[name]
    truth = evaluate(oracle, inputs, gradient.double())
    errors = {}
    for name, true in truth.items():
        allowed = 2 * (plain[name].double() - true).abs().max() + torch.finfo(dtype).eps * true.abs().max()
        errors[name] = (float((ours[name].double() - true).abs().max()), float(allowed))
    return errors


def evaluate(work: Work, inputs: Inputs, gradient: Tensor) -> Inputs:
    """Output and gradients by name."""
    y = work()
    found = torch.autograd.grad(y, list(inputs.values()), gradient.to(y.dtype))
    return {"y": y.detach()} | {f"d{name}": x for name, x in zip(inputs, found, strict=True)}


def rows_of(
    case: str, size: dict[str, int], dtype: torch.dtype, device: torch.device, repeats: int, limits: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Rows of one case and size: every implementation, both directions."""
    errors = check(case, dict(size), dtype, device)
    wrong = {name: pair for name, pair in errors.items() if not pair[0] <= pair[1]}
    if wrong:
        raise SystemExit(f"{case} {size} {dtype}: (error, budget) {wrong}; no speed is reported")
    inputs, works, _ = CASES[case](size, dtype, device)
    gradient = measure.draw(tuple(inputs["v"].shape), dtype, device, 9)
    error, budget = errors["y"]
    costs = size["N"] * size["M"] * size["S"] * 2 if case == "anchored" else 0
    for (impl, work), direction in itertools.product(works.items(), ("fwd", "fwd+bwd")):

        def both(work: Work = work) -> Any:
            return torch.autograd.grad(work(), [x for n, x in inputs.items() if "slope" not in n], gradient)

        # Without the host, where the host is what takes the time.
        small = device.type == "cuda" and size["N"] <= 10**5 and impl in ("ours", "sdpa")
        graphs = (False, True) if small else (False,)
        for graph in graphs:
            run = both if direction == "fwd+bwd" else work
            try:
                timing = measure.timed(measure.captured(run) if graph else run, device, repeats)
            except RuntimeError as problem:
                print(f"{case} {impl} {direction}: {str(problem).splitlines()[0][:100]}")
                continue
            best, bound_by = measure.bound(size, dtype.itemsize, direction, limits, costs)
            row = {
                "case": case, "impl": impl, **{name: size[name] for name in ("B", "N", "H", "M", "D")},
                "dtype": str(dtype).removeprefix("torch."), "direction": direction, "graph": graph,
                "bound_ms": best, "bound_by": bound_by, **timing.row(),
            }  # fmt: skip
            if impl == "ours":
                row |= {"error": error, "error_budget": budget}
            print(
                f"{case:>9} {impl:>14} N={size['N']:>8} M={size['M']:>5} D={size['D']} {row['dtype']:>8} {direction:>8}"
                f"{' graph' if graph else ''}: {row['ms']:9.3f} ms, bound {best:.3f} ({bound_by})",
                flush=True,
            )
            yield row


def main(cases: list[str], quick: bool, out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = measure.ceilings(device)
    print({name: f"{rate:.3g}" for name, rate in limits.items()})
    rows = json.loads(out.read_text()) if out.is_file() and not quick else []
    origin = measure.provenance(COMMAND, device)
    for case in cases:
        rows = [row for row in rows if row["case"] != case]
        for size, dtype in sizes(case, device.type == "cuda", quick):
            rows += [row | origin for row in rows_of(case, size, dtype, device, 5 if quick else 30, limits)]
            measure.save(out, rows)
    print(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    args = parser.parse_args()
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    name = f"mixer_{kind}{'_quick' if args.quick else ''}.json"
    main(args.cases, args.quick, args.out or Path(__file__).parent / "results" / name)
