"""The running softmax over parts of sequences in Triton, against plain torch and the reference in fp64."""

import dataclasses

import pytest
import torch
from kernels.triton_cases import DEVICES, assert_same, check, exact, outcome, runs

import flare_kernels as fk
from flare_kernels.causal.state import running


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Parts of each sequence, sizes of a state, and how far log-sum-exps are spread."""

    lengths: tuple[int, ...] = (9, 0, 1, 14)
    heads: int = 2
    latents: int = 5
    value_dim: int = 6
    std: float = 1.0
    fresh: bool = False  # whether sequences begin with nothing


EVERYWHERE = {
    "a few": Case(),
    "from nothing": Case(fresh=True),
    "far apart": Case(std=40.0),
    "one latent": Case(latents=1, heads=1, value_dim=1),
    "one sequence": Case(lengths=(20,), latents=16, value_dim=16),
    "no parts": Case(lengths=(0, 0)),
    "wide": Case(lengths=(3,), heads=1, value_dim=200),
}
ON_GPU = {"many": Case(lengths=(300, 17, 128), heads=8, latents=64, value_dim=16), "long": Case(lengths=(2000,))}


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


def draw(case, device):
    """(tensors by name, where sequences are); some parts bring nothing to some latents, the first of all to none."""
    generator = torch.Generator().manual_seed(sum(case.lengths) + case.latents)
    t, b, shape = sum(case.lengths), len(case.lengths), (case.heads, case.latents)
    normal = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    x = {"lse": case.std * normal(t, *shape), "z": normal(t, *shape, case.value_dim)}
    x["lse"][torch.rand(x["lse"].shape, generator=generator) < 0.2] = -torch.inf
    x["lse"][:1] = -torch.inf
    x |= {"first_lse": case.std * normal(b, *shape), "first_z": normal(b, *shape, case.value_dim)}
    if case.fresh:
        x |= {"first_lse": torch.full((b, *shape), -torch.inf), "first_z": torch.zeros(b, *shape, case.value_dim)}
    return {name: tensor.to(device) for name, tensor in x.items()}, fk.Segments.from_lengths(case.lengths, device)


def along(order):
    """A call as `triton_cases.outcome` makes them: all states."""

    def call(x, impl):
        parts, first = fk.LatentState(x["lse"], x["z"]), fk.LatentState(x["first_lse"], x["first_z"])
        states = running(parts, first, order, impl)
        return {f"{when} {what}": x for when, state in states._asdict().items() for what, x in state._asdict().items()}

    return call


@pytest.mark.parametrize(("case", "device", "dtype"), runs(EVERYWHERE, ON_GPU))
def test_error_budget(case, device, dtype):
    if dtype != torch.float32:
        pytest.skip("states are in float32")
    x, order = draw(case, device)
    truth = outcome(along(order), exact(x), "reference", dtype)
    plain = outcome(along(order), x, "reference", dtype)
    check(outcome(along(order), x, "triton", dtype), [plain], truth, dtype)


def test_the_same_bits_again(device):
    x, order = draw(Case(), device)
    first = outcome(along(order), x, "triton", torch.float32)
    assert_same(first, outcome(along(order), x, "triton", torch.float32))


def test_steps_of_points(device):
    """All of the block-causal mixer on its kernels, in twice the error of plain torch."""
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(size, generator=generator).to(device) for name, size in
         {"q": (2, 5, 4), "k": (40, 2, 4), "v": (40, 2, 6), "log_weights": (40,)}.items()}  # fmt: skip
    steps, sequences = fk.Segments.from_lengths((9, 0, 13, 1, 17), device), torch.tensor([0, 3, 5], device=device)

    def call(x, impl):
        y, state = fk.block_causal_mixer(
            x["q"], x["k"], x["v"], scale=1.0, steps=steps, sequences=sequences, log_weights=x["log_weights"],
            return_state=True, impl=impl,
        )  # fmt: skip
        return {"y": y, "z": state.z, "lse": state.lse}

    truth, plain = (outcome(call, each, "reference", torch.float32) for each in (exact(x), x))
    check(outcome(call, x, "triton", torch.float32), [plain], truth, torch.float32)


@pytest.mark.parametrize("name", ["latent_scan", "latent_scan_grad"])
def test_operators_keep_the_rules_of_torch(name, device):
    import flare_kernels.triton_causal.ops  # noqa: F401

    x, order = draw(Case(), device)
    given = (*x.values(), order.ptr)
    if name == "latent_scan_grad":
        states = torch.ops.flare_connect.latent_scan(*given)
        given = (x["lse"], x["z"], order.ptr, *states, *(torch.randn_like(each) for each in states))
    torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, given)
