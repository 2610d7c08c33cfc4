"""Gather and scatter a tile at a time against plain torch and the reference in fp64, gradients included."""

import pytest
import torch
from kernels.test_triton import EVERYWHERE
from kernels.triton_cases import CALLS, check, exact, outcome, plain_outcomes, problem

import flare_kernels as fk
from flare_kernels import tiled

DTYPES = (torch.float32, torch.bfloat16)
CPU = torch.device("cpu")


@pytest.fixture(params=[40, tiled.TILE], ids=["several tiles", "one tile"])
def tile(request, monkeypatch):
    """With 16 points a tile, so that most meshes take several, and as it is."""
    monkeypatch.setattr(tiled, "TILE", request.param)


@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize("case", EVERYWHERE.values(), ids=EVERYWHERE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_budget(make, case, dtype, tile):
    call, x = problem(make, case, CPU, dtype)
    truth, plain = outcome(call, exact(x), "reference", dtype), plain_outcomes(call, case, x, dtype)
    check(outcome(call, x, "tiled", dtype), plain, truth, dtype)


@pytest.mark.parametrize("name", ["per mesh", "anchored, two scales", "two blocks"])
def test_in_double_precision_it_is_the_reference(name, tile):
    """To rounding: nothing is in float32 on the way."""
    case = EVERYWHERE[name]
    for make in CALLS:
        call, x = problem(make, case, CPU, torch.float64)
        ours, truth = (outcome(call, exact(x), impl, torch.float64) for impl in ("tiled", "reference"))
        for what, result in ours.items():
            torch.testing.assert_close(result, truth[what], rtol=1e-11, atol=1e-11, msg=what)


def test_a_cpu_takes_it_for_costs(monkeypatch):
    monkeypatch.delenv("FLARE_KERNELS_IMPL", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    seen = []
    for name in ("gather", "scatter"):
        whole = getattr(tiled, name)
        monkeypatch.setattr(tiled, name, lambda *x, n=name, whole=whole: (seen.append(n), whole(*x))[1])
    q, k = torch.randn(2, 3, 4), torch.randn(7, 2, 4)
    cost = fk.Cost(values=torch.rand(7, 3, 1), slope=torch.ones(2))
    fk.mixer(q, k, k, scale=1.0)
    assert not seen
    fk.mixer(q, k, k, scale=1.0, cost=cost, cost_decode=cost)
    assert seen == ["gather", "scatter"]


def test_autocast_does_not_reach_inside():
    q, k = torch.randn(2, 3, 4), torch.randn(7, 2, 4)
    cost = fk.Cost(values=torch.rand(7, 3, 1), slope=torch.ones(2))
    leaves = [x.requires_grad_() for x in (q, k)]

    def found():
        y = fk.mixer(q, k, k, scale=1.0, cost=cost, cost_decode=cost, impl="tiled")
        return y, *torch.autograd.grad(y.square().sum(), leaves)

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        for ours, plain in zip(found(), expected, strict=True):
            assert torch.equal(ours, plain)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_second_derivatives_are_refused_and_transforms_go_another_way(monkeypatch):
    monkeypatch.delenv("FLARE_KERNELS_IMPL", raising=False)
    q, k = torch.randn(2, 3, 4), torch.randn(7, 2, 4, requires_grad=True)
    values = torch.rand(7, 3, 1)

    def mixed(slope, impl="auto"):
        cost = fk.Cost(values=values, slope=slope)
        return fk.mixer(q, k, k, scale=1.0, cost=cost, cost_decode=cost, impl=impl)

    with pytest.raises(RuntimeError, match=r"cannot be differentiated twice .* FLARE_KERNELS_IMPL=reference"):
        torch.autograd.grad(mixed(torch.ones(2)).sum(), k, create_graph=True)
    (slope,) = torch.autograd.grad(mixed(torch.ones(2), "reference").sum(), k, create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), k)[0].isfinite().all()
    several = torch.func.vmap(mixed)(torch.tensor([[1.0, 2.0], [0.5, 0.1]]))
    torch.testing.assert_close(several[1], mixed(torch.tensor([0.5, 0.1])))


def test_nothing_of_all_scores_is_kept():
    """The backward pass holds inputs, outputs, and what has no points in it."""
    q, k = (torch.randn(*size, requires_grad=True) for size in ((2, 64, 4), (5000, 2, 4)))
    cost = fk.Cost(values=torch.rand(5000, 64, 1).half(), slope=torch.ones(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        fk.mixer(q, k, k, scale=1.0, cost=cost, cost_decode=cost, impl="tiled")
    own = [x for x in kept if x.data_ptr() != cost.values.data_ptr()]
    assert max(x.numel() for x in own) == k.numel()
