"""Layers along time in double precision, and what their tests share."""

import torch

from flare_connect.nn import CausalState
from flare_kernels import LatentState

C, H, M = 12, 3, 5
D = C // H


def layer(kind, device="cpu", **options):
    """In double precision, with weights that leave no part without effect."""
    made = kind(C, num_heads=H, **({"num_latents": M} | options)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return made.to(device)


def points(n, device="cpu", seed=2):
    return torch.randn(n, C, generator=torch.Generator().manual_seed(seed)).double().to(device)


def unit(x):
    return x / x.square().mean(-1, keepdim=True).sqrt()


def split(x):
    return x.view(len(x), H, D)


def taken(part, b):
    return part.of(slice(b, b + 1)) if isinstance(part, LatentState) else part[b : b + 1]


def compare(state, other, **close):
    for name in CausalState._fields:
        mine, theirs = getattr(state, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, **close)


def with_gradients(made, run, inputs, given):
    """Outputs, and slopes with respect to inputs and weights."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = run(*leaves)
    return y.detach(), torch.autograd.grad((y * given).sum(), [*leaves, *made.parameters()])


def flat(state):
    return [x for part in state if part is not None for x in (part if isinstance(part, LatentState) else [part])]


def few_latents(weights, rank):
    """The weights of a layer with the first latents."""
    return {name: w[:, :rank] if name.endswith(("latents", "seeds", "log_rates")) else w for name, w in weights.items()}
