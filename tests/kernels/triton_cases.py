"""What the tests of the Triton kernels share: where they run, problems, memory layouts, and the comparison.

Most of the tests' sense is in `compare`: it runs the kernels, plain torch in the same dtype and the fp64 reference on
the same numbers, and holds every output and every gradient to the error budget.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import flare_kernels as fk
from kernels import bfloat16_interpreter

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(
    not INTERPRETED, reason="wants TRITON_INTERPRET=1, which `test_everything_in_the_interpreter` sets"
)
if INTERPRETED:
    bfloat16_interpreter.install()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOTH = (torch.float32, torch.bfloat16)
DEVICES = [pytest.param("cpu", id="interpreter", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
BACKENDS = [
    pytest.param("cpu", "aot_eager", marks=DEVICES[0].marks, id="interpreter"),
    pytest.param("cuda", "inductor", marks=DEVICES[1].marks),
]
# Further orders of its sums that plain torch is computed in.
ORDERS = 7

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
    std: float = 1.0  # of the queries, and so about that of the logits
    per_mesh: bool = False
    log_weights: bool = False
    num_scales: int = 0  # S of the costs; 0 leaves them out
    one_cost: bool = False  # whether both directions read the same costs

    def segments(self, device: torch.device) -> fk.Segments:
        """Of these lengths."""
        return fk.Segments.from_lengths(self.lengths, device)


def runs(
    everywhere: Mapping[str, object],
    on_gpu: Mapping[str, object] | None = None,
    interpreted_in: tuple[torch.dtype, ...] = (torch.float32,),
) -> list:
    """Parameters (case, device, dtype): the small cases in the interpreter, and all of them on a GPU in each dtype."""
    small = [
        pytest.param(case, torch.device("cpu"), dtype, id=f"{name}-interpreter-{str(dtype)[6:]}", marks=interpreted)
        for name, case in everywhere.items()
        for dtype in interpreted_in
    ]
    large = [
        pytest.param(case, torch.device("cuda"), dtype, id=f"{name}-{str(dtype)[6:]}", marks=pytest.mark.gpu)
        for name, case in {**everywhere, **(on_gpu or {})}.items()
        for dtype in DTYPES
    ]
    return small + large


def draw(case: Case, device: torch.device, dtype: torch.dtype) -> Tensors:
    """Random tensors of a case by name; each but the costs has gradients compared."""
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
    """Costs [N, M, S] stored [N, S, M]: latent 1 reaches nothing, nothing reaches point 3, more paths are missing."""
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


def gather(case: Case) -> Call:
    """Points to latents, with the log-sum-exp."""

    def call(x: Tensors, impl: str) -> Tensors:
        z, lse = fk.gather(
            x["q"], x["k"], x["v"], scale=case.scale, ptr=case.segments(x["k"].device), return_lse=True, impl=impl,
            log_weights=x.get("log_weights"), cost=cost_of(case, x, "encode"),
        )  # fmt: skip
        return {"z": z, "lse": lse}

    return call


def scatter(case: Case) -> Call:
    """Latents to points."""

    def call(x: Tensors, impl: str) -> Tensors:
        segments, cost = case.segments(x["k"].device), cost_of(case, x, "decode")
        return {"y": fk.scatter(x["q"], x["k"], x["z"], scale=case.scale, ptr=segments, cost=cost, impl=impl)}

    return call


def mixer(case: Case) -> Call:
    """Both."""

    def call(x: Tensors, impl: str) -> Tensors:
        y = fk.mixer(
            x["q"], x["k"], x["v"], scale=case.scale, ptr=case.segments(x["k"].device), impl=impl,
            log_weights=x.get("log_weights"), q_decode=x.get("q_decode"), k_decode=x.get("k_decode"),
            cost=cost_of(case, x, "encode"), cost_decode=cost_of(case, x, "decode"),
        )  # fmt: skip
        return {"y": y}

    return call


READS = {
    gather: ("q", "k", "v", "log_weights", "slope_encode", "cost_encode"),
    scatter: ("q", "k", "z", "slope_decode", "cost_decode", "cost_encode"),
    mixer: ("q", "k", "v", "log_weights", "slope_encode", "slope_decode", "cost_encode", "cost_decode"),
}
CALLS = tuple(READS)


def problem(make: Callable[[Case], Call], case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Call, Tensors]:
    """A call of `gather`, `scatter` or `mixer`, and what it reads."""
    return make(case), {name: x for name, x in draw(case, device, dtype).items() if name in READS[make]}


class Order:
    """Points of each mesh, latents and dims in a random order, which leaves the mathematics as it is."""

    # The axes of each tensor; a gradient has those of its tensor.
    AXES = {
        "q": {-2: "M", -1: "D"}, "q_decode": {-2: "M", -1: "D"}, "k": {0: "N", -1: "D"}, "k_decode": {0: "N", -1: "D"},
        "v": {0: "N", -1: "V"}, "y": {0: "N", -1: "V"}, "z": {-2: "M", -1: "V"}, "lse": {-1: "M"},
        "last z": {-2: "M", -1: "V"}, "first_lse": {-1: "M"},
        "token_k": {-1: "D"}, "token_v": {-1: "V"}, "log_weights": {0: "N"}, "counts": {0: "N"},
        "cost_encode": {0: "N", 1: "M"}, "cost_decode": {0: "N", 1: "M"}, "cost_tokens": {1: "M"},
        "slope_encode": {}, "slope_decode": {},
    }  # fmt: skip

    def __init__(self, case: Case, device: torch.device, seed: int):
        generator = torch.Generator().manual_seed(seed)

        def shuffled(n: int) -> Tensor:
            return torch.randperm(n, generator=generator)

        starts = [sum(case.lengths[:i]) for i in range(len(case.lengths))]
        points = torch.cat([start + shuffled(length) for start, length in zip(starts, case.lengths, strict=True)])
        orders = {"N": points, "M": shuffled(case.latents), "D": shuffled(case.dim), "V": shuffled(case.value_dim)}
        self._orders = {axis: order.to(device) for axis, order in orders.items()}

    def apply(self, name: str, t: Tensor) -> Tensor:
        """The tensor of that name, or its gradient, in this order."""
        for dim, axis in self.AXES[name].items():
            t = t.index_select(dim, self._orders[axis])
        return t

    def undo(self, name: str, t: Tensor) -> Tensor:
        """The tensor of that name, or its gradient, in the order that it was in."""
        for dim, axis in self.AXES[name].items():
            t = t.index_select(dim, self._orders[axis].argsort())
        return t


def unchanged(t: Tensor) -> Tensor:
    """As it is."""
    return t


def outcome(
    call: Call,
    x: Tensors,
    impl: str,
    dtype: torch.dtype,
    of_gradient: Callable[[Tensor], Tensor] = unchanged,
    order: Order | None = None,
) -> Tensors:
    """Results and gradients by name.

    The gradients of the results are random numbers of `dtype`, the same in every implementation; `of_gradient` may lay
    them out otherwise. With an `order` all is computed in that order and brought back.
    """
    if order is not None:
        x = {name: order.apply(name, t) for name, t in x.items()}
    leaves = {name: t.detach().requires_grad_() for name, t in x.items() if not name.startswith(("cost", "counts"))}
    results = call(x | leaves, impl)
    generator = torch.Generator().manual_seed(1)
    # Plain torch has no gradient for the log-sum-exp of no points at all.
    differentiable = {name: r for name, r in results.items() if r.requires_grad}
    given = []
    for name, r in differentiable.items():
        g = torch.randn(r.shape, generator=generator, dtype=torch.float64).to(dtype).to(r)
        given.append(of_gradient(g if order is None else order.apply(name, g)).detach())
    gradients = torch.autograd.grad(list(differentiable.values()), list(leaves.values()), given)
    gradients = dict(zip(leaves, gradients, strict=True))
    results = {name: r.detach() for name, r in results.items()}
    if order is not None:
        results = {name: order.undo(name, r) for name, r in results.items()}
        gradients = {name: order.undo(name, g) for name, g in gradients.items()}
    return results | {f"gradient of {name}": g for name, g in gradients.items()}


def exact(x: Tensors) -> Tensors:
    """The same numbers in fp64."""
    return {name: t if name.startswith(("cost", "counts")) else t.double() for name, t in x.items()}


def plain_outcomes(
    call: Call, case: Case, x: Tensors, dtype: torch.dtype, of_gradient: Callable[[Tensor], Tensor] = unchanged
) -> list[Tensors]:
    """What plain torch gets in several orders of its sums: in one order a few numbers may be right by luck."""
    orders = [None, *(Order(case, x["k"].device, seed) for seed in range(ORDERS))]
    return [outcome(call, x, "reference", dtype, of_gradient, order) for order in orders]


def compare(
    call: Call,
    case: Case,
    x: Tensors,
    dtype: torch.dtype,
    layout: Callable[[str, Tensor], Tensor] = lambda _, t: t,
    of_gradient: Callable[[Tensor], Tensor] = unchanged,
    order: Order | None = None,
) -> None:
    """Hold the kernels to the error budget; they get each tensor in a `layout` of memory, and in an `order`."""
    truth = outcome(call, exact(x), "reference", dtype, of_gradient)
    plain = plain_outcomes(call, case, x, dtype, of_gradient)
    laid_out = {name: layout(name, t) for name, t in x.items()}
    check(outcome(call, laid_out, "triton", dtype, of_gradient, order), plain, truth, dtype)


def check(ours: Tensors, plain: list[Tensors], truth: Tensors, dtype: torch.dtype) -> None:
    """Names, shapes, dtypes and the error budget of everything."""
    assert ours.keys() == plain[0].keys() == truth.keys()
    over = []
    for name, result in ours.items():
        assert result.shape == truth[name].shape, name
        assert result.dtype == plain[0][name].dtype, name
        # The log-sum-exp is kept in fp32 whatever the inputs are.
        kept_in = torch.float32 if name == "lse" else dtype
        message = _over_budget(result, [each[name] for each in plain], truth[name], kept_in)
        if message:
            over.append(f"{name}: {message}")
    assert not over, "; ".join(over)


def _over_budget(result: Tensor, plain: list[Tensor], truth: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong, if more than twice the error of plain torch and one rounding of the largest value are."""
    # The only value without end is the log-sum-exp of nothing.
    finite = torch.isfinite(truth)
    if not torch.equal(result[~finite].double(), truth[~finite]) or not torch.isfinite(result[finite]).all():
        return "finite where it must not be, or the other way round"
    result, truth = result[finite].double(), truth[finite]
    if truth.numel() == 0:
        return None
    error, largest = (result - truth).abs().max(), truth.abs().max()
    budget = 2 * max((each[finite].double() - truth).abs().max() for each in plain) + torch.finfo(dtype).eps * largest
    return None if error <= budget else f"error {error:.2e} over budget {budget:.2e}, largest value {largest:.2e}"


def assert_same(one: Tensors, other: Tensors) -> None:
    """Every result and gradient is bitwise the same."""
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"these differ: {', '.join(different)}"
