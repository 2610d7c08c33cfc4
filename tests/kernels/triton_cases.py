"""What the tests of the Triton kernels share: where they run, problems, memory layouts, and the comparison.

Half of the tests' sense is in `compare`: it runs the kernels, plain torch in the same dtype and the fp64 reference on
the same numbers, and holds every output and every gradient to the error budget.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import flare_kernels as fk

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(
    not INTERPRETED, reason="wants TRITON_INTERPRET=1, which `test_everything_in_the_interpreter` sets"
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Tensors = dict[str, Tensor]
# From tensors by name and the name of an implementation to results by name.
Call = Callable[[Tensors, str], Tensors]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes and options of one problem; the letters are those of `flare_kernels.api`."""

    lengths: tuple[int, ...] = (15, 1, 0, 20)
    heads: int = 2
    latents: int = 5
    dim: int = 4
    value_dim: int = 6
    scale: float = 0.7
    std: float = 1.0
    per_mesh: bool = False
    log_weights: bool = False
    num_scales: int = 0  # S of the costs; 0 leaves them out
    one_cost: bool = False  # whether both directions read the same costs

    def segments(self, device: torch.device) -> fk.Segments:
        """Of these lengths."""
        return fk.Segments.from_lengths(self.lengths, device)


def runs(everywhere: Mapping[str, object], on_gpu: Mapping[str, object] | None = None) -> list:
    """Parameters (case, device, dtype): the small cases in the interpreter, and all of them on a GPU in each dtype."""
    small = [
        pytest.param(case, torch.device("cpu"), torch.float32, id=f"{name}-interpreter", marks=interpreted)
        for name, case in everywhere.items()
    ]
    large = [
        pytest.param(case, torch.device("cuda"), dtype, id=f"{name}-{str(dtype)[6:]}", marks=pytest.mark.gpu)
        for name, case in {**everywhere, **(on_gpu or {})}.items()
        for dtype in DTYPES
    ]
    return small + large


def draw(case: Case, device: torch.device, dtype: torch.dtype) -> Tensors:
    """Random tensors of a case by name; all but the costs, which no gradient goes to, are leaves of the comparison."""
    n, b = sum(case.lengths), len(case.lengths)
    generator = torch.Generator().manual_seed(n + case.heads + case.latents + case.dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mesh = (b,) if case.per_mesh else ()
    drawn = {
        "q": (case.std * normal(*mesh, case.heads, case.latents, case.dim)).to(dtype),
        "k": normal(n, case.heads, case.dim).to(dtype),
        "v": normal(n, case.heads, case.value_dim).to(dtype),
        "z": normal(b, case.heads, case.latents, case.value_dim).to(dtype),
    }
    if case.log_weights:
        drawn["log_weights"] = _log_weights(normal(n), case.lengths).float()
    if case.num_scales:
        # The first slope is zero: infinite costs must part points from latents there as well.
        drawn["slope_encode"] = torch.linspace(0.0, 1.5, case.heads)
        drawn["slope_decode"] = torch.linspace(0.0, 0.9, case.heads)
        for name in ("cost_encode",) if case.one_cost else ("cost_encode", "cost_decode"):
            drawn[name] = _cost(n, case.latents, case.num_scales, generator)
    return {name: tensor.to(device) for name, tensor in drawn.items()}


def _log_weights(weights: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Every fourth point masked, and all points of the last mesh where there are several."""
    weights[1::4] = -torch.inf
    if len(lengths) > 1:
        weights[len(weights) - lengths[-1] :] = -torch.inf
    return weights


def _cost(n: int, latents: int, num_scales: int, generator: torch.Generator) -> Tensor:
    """Costs [N, M, S], stored [N, S, M]; latent 1 reaches no point, no latent reaches point 3, some paths are missing."""
    cost = 3 * torch.rand(n, num_scales, latents, generator=generator)
    cost[torch.rand(cost.shape, generator=generator) < 0.1] = torch.inf
    cost[:, :, 1:2] = torch.inf
    cost[3:4] = torch.inf
    return cost.half().transpose(1, 2)


def cost_of(case: Case, x: Tensors, direction: str) -> fk.Cost | None:
    """The costs of one direction, "encode" or "decode"."""
    if not case.num_scales:
        return None
    slope = x[f"slope_{direction}"]
    head_scale = torch.arange(case.heads, device=slope.device) % case.num_scales if case.num_scales > 1 else None
    values = x["cost_encode"] if case.one_cost else x[f"cost_{direction}"]
    return fk.Cost(values=values, slope=slope, head_scale=head_scale)


def gather(case: Case, **options: object) -> Call:
    """Points to latents, with the log-sum-exp."""

    def call(x: Tensors, impl: str) -> Tensors:
        z, lse = fk.gather(
            x["q"], x["k"], x["v"], scale=case.scale, ptr=case.segments(x["k"].device), return_lse=True, impl=impl,
            log_weights=x.get("log_weights"), cost=cost_of(case, x, "encode"), **options,
        )  # fmt: skip
        return {"z": z, "lse": lse}

    return call


def scatter(case: Case, **options: object) -> Call:
    """Latents to points."""

    def call(x: Tensors, impl: str) -> Tensors:
        segments, cost = case.segments(x["k"].device), cost_of(case, x, "decode")
        return {"y": fk.scatter(x["q"], x["k"], x["z"], scale=case.scale, ptr=segments, cost=cost, impl=impl, **options)}

    return call


def mixer(case: Case, **options: object) -> Call:
    """Both; `q_decode` and `k_decode` are taken where the tensors hold them."""

    def call(x: Tensors, impl: str) -> Tensors:
        y = fk.mixer(
            x["q"], x["k"], x["v"], scale=case.scale, ptr=case.segments(x["k"].device), impl=impl,
            log_weights=x.get("log_weights"), q_decode=x.get("q_decode"), k_decode=x.get("k_decode"),
            cost=cost_of(case, x, "encode"), cost_decode=cost_of(case, x, "decode"), **options,
        )  # fmt: skip
        return {"y": y}

    return call


# Which tensors each call reads, and so has gradients of.
READS = {
    gather: ("q", "k", "v", "log_weights", "slope_encode", "cost_encode"),
    scatter: ("q", "k", "z", "slope_decode", "cost_decode", "cost_encode"),
    mixer: ("q", "k", "v", "log_weights", "slope_encode", "slope_decode", "cost_encode", "cost_decode"),
}
CALLS = tuple(READS)


def problem(make: Callable[[Case], Call], case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Call, Tensors]:
    """A call of `gather`, `scatter` or `mixer`, and what it reads."""
    return make(case), {name: x for name, x in draw(case, device, dtype).items() if name in READS[make]}


def outcome(call: Call, x: Tensors, impl: str, dtype: torch.dtype, of_gradient: Callable = lambda g: g) -> Tensors:
    """Results and gradients by name.

    The gradients of the results are random numbers of `dtype`, the same in every implementation; `of_gradient` may lay
    them out otherwise.
    """
    leaves = {name: t.detach().requires_grad_() for name, t in x.items() if not name.startswith("cost")}
    results = call(x | leaves, impl)
    generator = torch.Generator().manual_seed(1)
    given = [
        of_gradient(torch.randn(r.shape, generator=generator, dtype=torch.float64).to(dtype).to(r)).detach()
        for r in results.values()
    ]
    gradients = torch.autograd.grad(list(results.values()), list(leaves.values()), given)
    named = {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {name: r.detach() for name, r in results.items()} | named


def exact(x: Tensors) -> Tensors:
    """The same numbers in fp64."""
    return {name: t if name.startswith("cost") else t.double() for name, t in x.items()}


def compare(
    call: Call,
    x: Tensors,
    dtype: torch.dtype,
    layout: Callable[[Tensor], Tensor] = lambda t: t,
    of_gradient: Callable = lambda g: g,
) -> Tensors:
    """Hold the kernels to the error budget; `layout` is how their q, k, v and z lie in memory. Returns their results."""
    truth = outcome(call, exact(x), "reference", dtype, of_gradient)
    plain = outcome(call, x, "reference", dtype, of_gradient)
    laid_out = {name: layout(t) if name in ("q", "k", "v", "z") else t for name, t in x.items()}
    ours = outcome(call, laid_out, "triton", dtype, of_gradient)
    check(ours, plain, truth, dtype)
    return ours


def check(ours: Tensors, plain: Tensors, truth: Tensors, dtype: torch.dtype) -> None:
    """Shapes, dtypes and the error budget of everything."""
    assert ours.keys() == plain.keys() == truth.keys()
    over = []
    for name, result in ours.items():
        assert result.shape == plain[name].shape, name
        assert result.dtype == plain[name].dtype, name
        # The log-sum-exp is kept in fp32 whatever the inputs are.
        message = over_budget(result, plain[name], truth[name], torch.float32 if name == "lse" else dtype)
        if message:
            over.append(f"{name}: {message}")
    assert not over, "; ".join(over)


def over_budget(result: Tensor, plain: Tensor, truth: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong, if something is: more than twice the error of plain torch plus one rounding of the largest value."""
    finite = torch.isfinite(truth)
    # The only value without end is the log-sum-exp of nothing.
    if not torch.equal(result[~finite].double(), truth[~finite]) or not torch.isfinite(result[finite]).all():
        return "not finite where it must be, or the other way round"
    result, plain, truth = result[finite].double(), plain[finite].double(), truth[finite]
    if truth.numel() == 0:
        return None
    allowed = 2 * (plain - truth).abs().max() + torch.finfo(dtype).eps * truth.abs().max()
    error = (result - truth).abs().max()
    return None if error <= allowed else f"error {error:.2e} over budget {allowed:.2e}, largest {truth.abs().max():.2e}"


def assert_same(one: Tensors, other: Tensors) -> None:
    """Every result and gradient is bitwise the same."""
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"differ: {', '.join(different)}"


def strided(t: Tensor) -> Tensor:
    """Rows and heads in the other order in memory, with a gap behind each row of dims."""
    t = t.transpose(0, 1)
    return torch.cat([t, torch.full_like(t, torch.nan)], -1)[..., : t.shape[-1]].transpose(0, 1)


def scattered(t: Tensor) -> Tensor:
    """Dims two apart in memory, NaN between them."""
    return torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2]


def shifted(t: Tensor) -> Tensor:
    """Starting one element into its buffer, so that no row is aligned to 16 bytes."""
    buffer = t.new_full((t.numel() + 2,), torch.nan)
    return buffer[1:-1].copy_(t.flatten()).view(t.shape)
