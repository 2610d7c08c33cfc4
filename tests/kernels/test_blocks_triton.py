"""Block-causal FLARE on its kernels against plain torch and the reference in fp64: time steps of points."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from kernels.triton_cases import Case, check, cost_of, exact, outcome, plain_outcomes, runs

import flare_kernels as fk
from kernels import triton_cases

# Steps of three sequences; the second has none, and some steps have no points.
STEPS, SEQUENCES = (9, 0, 13, 1, 17), (3, 0, 2)
EVERYWHERE = {
    "a few": Case(lengths=STEPS),
    "weights": Case(lengths=STEPS, log_weights=True),
    "latents of each sequence": Case(lengths=STEPS, per_mesh=True),
    "costs": Case(lengths=STEPS, num_scales=2, log_weights=True),
    "one cost": Case(lengths=STEPS, num_scales=1, one_cost=True),
    "far apart": Case(lengths=STEPS, std=30.0),
    "blocks of latents": Case(lengths=STEPS, heads=1, latents=70, num_scales=1),
    "signs": Case(lengths=STEPS, scale=-0.7),
}
ON_GPU = {
    "large": Case(lengths=(700, 3000, 1, 0, 4096), heads=8, latents=64, dim=16, value_dim=16),
    "large costs": Case(lengths=(700, 3000, 1, 0, 4096), heads=8, latents=64, dim=16, value_dim=16, num_scales=2),
}


def draw(case, device, dtype):
    """Tensors of a call by name: queries of each sequence, and what latents knew before."""
    x = triton_cases.draw(case, device, dtype)
    b, (h, m) = len(SEQUENCES), x["q"].shape[-3:-1]
    if case.per_mesh:
        x["q"] = x["q"][:b]
    generator = torch.Generator().manual_seed(len(x))
    x["first_lse"] = torch.randn(b, h, m, generator=generator).to(device)
    x["first_lse"][:, :, 2] = -torch.inf
    x["z"] = torch.randn(b, h, m, case.value_dim, generator=generator).to(device)
    return x


def steps_of(case, apart=False):
    """A call as `outcome` makes them; `apart` with keys of their own for the scatter, of the same numbers."""

    def call(x, impl):
        y, state = fk.block_causal_mixer(
            x["q"], x["k"], x["v"], scale=case.scale, steps=case.segments(x["k"].device),
            sequences=fk.Segments.from_lengths(SEQUENCES, x["k"].device), log_weights=x.get("log_weights"),
            k_decode=x["k"] if apart else None, cost=cost_of(case, x, "encode"), cost_decode=cost_of(case, x, "decode"),
            initial_state=fk.LatentState(x["first_lse"], x["z"]), return_state=True, impl=impl,
        )  # fmt: skip
        return {"y": y, "last z": state.z, "lse": state.lse}

    return call


@pytest.mark.parametrize(("case", "device", "dtype"), runs(EVERYWHERE, ON_GPU))
def test_error_budget(case, device, dtype):
    x = draw(case, device, dtype)
    truth = outcome(steps_of(case), exact(x), "reference", dtype)
    plain = plain_outcomes(steps_of(case), case, x, dtype)
    check(outcome(steps_of(case), x, "triton", dtype), plain, truth, dtype)
    # The way of those whose scatter has keys of its own.
    check(outcome(steps_of(case, apart=True), x, "triton", dtype), plain, truth, dtype)


@pytest.mark.parametrize("device", triton_cases.DEVICES)
def test_gradients_of_both_halves_take_one_pass(device, monkeypatch):
    from flare_kernels.triton_mixer import ops

    seen = []
    launch = ops.launch
    monkeypatch.setattr(ops, "launch", lambda kernel, *rest: (seen.append(kernel.fn.__name__), launch(kernel, *rest)))
    case = dataclasses.replace(EVERYWHERE["costs"], lengths=STEPS)
    x = draw(case, torch.device(device), torch.float32)
    outcome(steps_of(case), x, "triton", torch.float32)
    assert seen.count("point_grad_kernel") == 1
    seen.clear()
    outcome(steps_of(case, apart=True), x, "triton", torch.float32)
    assert seen.count("point_grad_kernel") == 2


@pytest.mark.parametrize("device", triton_cases.DEVICES)
def test_what_does_not_fit_is_named(device):
    x = draw(EVERYWHERE["a few"], torch.device(device), torch.float32)
    given = {"scale": 1.0, "steps": fk.Segments.from_lengths(STEPS, device), "impl": "triton"}
    with pytest.raises(ValueError, match="`precision` must be one of"):
        fk.block_causal_mixer(x["q"], x["k"], x["v"], precision="low", **given)
    with pytest.raises(ValueError, match="log_weights"):
        fk.block_causal_mixer(x["q"], x["k"], x["v"], log_weights=torch.zeros(3, device=device), **given)
    cost = fk.Cost(values=torch.zeros(2, 5, 1, device=device), slope=torch.ones(2, device=device))
    with pytest.raises(ValueError, match="cost"):
        fk.block_causal_mixer(x["q"], x["k"], x["v"], cost=cost, cost_decode=cost, **given)


def test_operators_are_there_from_the_first_call():
    """Whatever was imported before: the layers import nothing else."""
    code = "import torch, flare_kernels.triton_causal.blocks; torch.ops.flare_connect.latent_scan"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
