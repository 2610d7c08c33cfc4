"""Errors of causal FLARE and its gradients, and whether its numbers stay numbers.

`python kernels/benchmarks/causal_accuracy.py [--quick] [--repeats 50] [--draws 10000] [--out FILE]`, on a GPU the
kernels, elsewhere plain torch, or the kernels in Triton's interpreter (`TRITON_INTERPRET=1`).

Rows `causal_accuracy`: the largest error against fp64 beside that of plain torch in the same dtype, both in units of
the largest value, for scores of standard deviation 1, 8 and 40; and whether repeats gave the same bits. Rows
`causal_draws`: random sequences, of lengths from 0 to 200, with scores of standard deviation 0.01 to 100, with and
without a write gate that keeps out a fifth of the tokens, or all, or grows; how many have a number in the output, the
state or a gradient that is not finite. Many are packed into one call.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import measure
import torch
import trials
from causal import call_of, inputs_of
from torch import Tensor
from trials import Row, Sheet

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/causal_accuracy.py"
STDS = (1, 8, 40)
LONGEST, PACKED = 200, 100  # tokens of a draw, draws of a call


class Family(NamedTuple):
    """What kernels are compiled for."""

    dtype: torch.dtype
    heads: int
    latents: int
    dim: int
    value_dim: int


FAMILIES = (
    Family(torch.bfloat16, 2, 16, 16, 16), Family(torch.bfloat16, 1, 50, 32, 32),
    Family(torch.bfloat16, 2, 130, 16, 16), Family(torch.float16, 1, 64, 16, 32), Family(torch.float32, 2, 20, 12, 8),
)  # fmt: skip


def errors_of(size: Row, dtype: torch.dtype, impl: str, device: torch.device, repeats: int) -> list[Row]:
    """A row for the output and one for each gradient."""
    call, x = call_of(size, device), inputs_of(size, dtype, device)
    found = trials.errors(call, impl, "chunked", x)
    leaves = [t.requires_grad_() for t in x.values()]
    gradient = measure.draw(tuple(x["v"].shape), dtype, device, 9)

    def once() -> list[Tensor]:
        y = call(x, impl)
        return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]

    first, equal = once(), [True] * len(found)
    for _ in range(repeats):
        equal = [same and torch.equal(a, b) for same, a, b in zip(equal, first, once(), strict=True)]
    return [
        {
            "quantity": name, "error": error.ours / error.largest, "plain_error": error.plain / error.largest,
            "error_budget": error.budget(dtype) / error.largest, "repeats": repeats, "bitwise_equal": same,
        }
        for (name, error), same in zip(found.items(), equal, strict=True)
    ]  # fmt: skip


def call_of_draws(family: Family, impl: str, seed: int, device: torch.device) -> int:
    """How many of the sequences of one call have a number that is not finite."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, LONGEST + 1, (PACKED,), generator=generator)
    lengths[0] = LONGEST  # so that no call is empty
    n, shape = int(lengths.sum()), (family.heads, family.latents)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    std = 10 ** (4 * torch.rand(PACKED, 1, 1, 1, generator=generator) - 2)
    gate = normal(n)
    gate[torch.rand(n, generator=generator) < 0.2] = -torch.inf
    owner = torch.repeat_interleave(torch.arange(PACKED), lengths)
    gate[owner % 10 == 1] = -torch.inf  # nothing of these is ever read
    gate[owner % 10 == 2] = 0.0
    for turn, rise in ((3, 1.0), (4, 2.0), (5, 8.0)):
        gate += rise * (owner % 10 == turn) * torch.arange(n)
    x = {
        "q": std / family.dim**0.5 * normal(PACKED, *shape, family.dim), "k": normal(n, family.heads, family.dim),
        "v": normal(n, family.heads, family.value_dim),
    }  # fmt: skip
    x = {name: t.to(device, family.dtype) for name, t in x.items()} | {"log_weights": gate.to(device)}
    leaves = {name: t.requires_grad_() for name, t in x.items()}
    segments = fk.Segments.from_lengths(lengths.tolist(), device)
    y, state = fk.causal_mixer(
        **leaves, scale=1.0, ptr=segments, return_state=True, impl=impl
    )  # fmt: skip
    gradients = torch.autograd.grad(y, list(leaves.values()), normal(*y.shape).to(y))
    bad = torch.zeros(PACKED, dtype=torch.bool, device=device)
    for of_sequence in (state.z, gradients[0]):
        bad |= ~torch.isfinite(of_sequence).flatten(1).all(1)
    bad |= torch.isnan(state.lse).flatten(1).any(1)  # −∞ where nothing was read
    owner = owner.to(device)
    for of_token in (y, *gradients[1:]):
        wrong = ~torch.isfinite(of_token).reshape(n, -1).all(1)
        bad.index_put_((owner[wrong],), torch.ones((), dtype=torch.bool, device=device))
    return int(bad.sum())


def draws_of(family: Family, impl: str, draws: int, device: torch.device) -> Row:
    """A row of all draws of one family."""
    calls = -(-draws // PACKED)
    return {
        "draws": calls * PACKED, "not_finite": sum(call_of_draws(family, impl, seed, device) for seed in range(calls)),
        "value_dim": family.value_dim,
    }  # fmt: skip


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda, impl = device.type == "cuda", "triton" if trials.kernels_run(device) else "chunked"
    sheet = Sheet(args.out, measure.provenance(COMMAND, device), fresh=True)
    size: dict[str, Any] = {"case": "causal_accuracy", "impl": impl, "B": 1, "N": 8192, "H": 8, "M": 64, "D": 32}
    if not cuda:
        size |= {"N": 100 if args.quick else 1000, "H": 2, "M": 16, "D": 16}
    sizes = [size | {"scores": f"std {std}"} for std in STDS]
    jobs = list(itertools.product([torch.bfloat16, torch.float16, torch.float32] if cuda else [torch.float32], sizes))
    if cuda and not args.quick:
        jobs.append((torch.bfloat16, size | {"N": 65_536, "scores": "std 1"}))
        jobs += [(torch.bfloat16, size | {"scores": f"rising by {rise}"}) for rise in (0.5, 2, 8)]
    for dtype, each in jobs:
        base = each | {"dtype": str(dtype).removeprefix("torch.")}
        try:
            for row in errors_of(each, dtype, impl, device, args.repeats):
                sheet.add(base | row)
        except Exception as problem:
            sheet.add(base | {"failed": trials.reason(problem)})
    for family in FAMILIES if cuda else [FAMILIES[-1]]:
        base = {
            "case": "causal_draws", "impl": impl, "H": family.heads, "M": family.latents, "D": family.dim,
            "dtype": str(family.dtype).removeprefix("torch."),
        }  # fmt: skip
        try:
            sheet.add(base | draws_of(family, impl, args.draws // (len(FAMILIES) if cuda else 1), device))
        except Exception as problem:
            sheet.add(base | {"failed": trials.reason(problem)})
    print(args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats and draws, and small sizes on a CPU")
    parser.add_argument("--repeats", type=int, help="50, if not given")
    parser.add_argument("--draws", type=int, help="random sequences; 10,000 on a GPU, if not given")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    few = args.quick or not torch.cuda.is_available()
    args.repeats = args.repeats or (2 if args.quick else 50)
    args.draws = args.draws or (PACKED if few else 10_000)
    args.out = args.out or measure.results("causal_accuracy", args.quick)
    main(args)
