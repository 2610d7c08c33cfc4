"""Peers on grids: spectral layers against sums of waves, periodic shifts, rollouts step by step, equal parameters."""

import itertools
import math
import re

import pytest
import torch

from flare_connect.errors import ConfigError, InputError
from flare_connect.models.baselines import (
    FNO,
    GRID_BASELINES,
    GridRollout,
    Persistence,
    UNet,
    matching_grid_channels,
)
from flare_connect.models.baselines.fno import SpectralConv

SIZES = {"features": 3, "outputs": 2}
LEARNED = {"fno": {"channels": 6, "modes": 3, "hidden": 10}, "unet": {"channels": 4, "num_levels": 2}}


def net(name, dim, **options):
    torch.manual_seed(0)
    return GRID_BASELINES[name](dim=dim, **SIZES, **LEARNED[name] | options).double()


def rollout(name="fno", dim=1, **options):
    torch.manual_seed(0)
    given = {"width": 2, "history": 3, "conditions": 2} | LEARNED.get(name, {}) | options
    model = GridRollout(name, dim=dim, **given).double()
    frames = 2 + 3 * torch.randn(4, 6, *(12,) * dim, given["width"]).double()
    conditions = torch.randn(5, given["conditions"]).double()
    model.fit_statistics([frames], conditions if given["conditions"] else None)
    return model


@pytest.mark.parametrize("shape", [(12,), (11,), (8, 11), (6, 7, 8)])
def test_spectral_convolution_is_a_sum_over_waves(shape):
    """Every mode taken alone from the definition of the transform, sizes odd and even."""
    torch.manual_seed(0)
    dim, m, c = len(shape), 3, 2
    layer = SpectralConv(c, m, dim).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, c, *shape).double()
    weight, count = torch.view_as_complex(layer.weight.detach()), math.prod(shape)
    places = torch.meshgrid(*(torch.arange(n).double() / n for n in shape), indexing="ij")
    expected = torch.zeros_like(x)
    for waves in itertools.product(*(range(-m, m) for _ in shape[:-1]), range(m)):
        phase = sum(2 * math.pi * k * place for k, place in zip(waves, places, strict=True))
        amplitude = (x * torch.exp(-1j * phase)).flatten(2).sum(2) / count
        at = weight[(slice(None), slice(None), *waves)]  # negative waves stand at the end
        mixed = torch.einsum("bi,io->bo", amplitude, at)
        # A wave and its mirror image are one real wave; of those that do not turn along the last axis both are listed.
        doubled = 1 if waves[-1] == 0 else 2
        expected += doubled * (mixed[(..., *(None,) * dim)] * torch.exp(1j * phase)).real
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", LEARNED)
def test_a_periodic_grid_has_no_seam(name, dim):
    """What is shifted by whole cells comes out shifted; only where the grid repeats."""
    x, shift = torch.randn(2, 3, *(16,) * dim).double(), 8  # by what a U-Net halves without a rest
    for periodic in (True, False):
        model = net(name, dim, periodic=periodic)
        moved = model(x.roll(shift, -1))
        same = torch.allclose(moved, model(x).roll(shift, -1), rtol=1e-9, atol=1e-11)
        assert same == periodic


def test_waves_that_are_kept_are_the_same_on_a_finer_grid():
    model = net("fno", 1)
    fine = torch.sin(2 * math.pi * torch.arange(64).double() / 64 * torch.tensor([[1.0], [2.0], [1.0]]).double())[None]
    coarse = model.layers[0].spectral(model.encode(fine[..., ::2]))
    torch.testing.assert_close(model.layers[0].spectral(model.encode(fine))[..., ::2], coarse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("name", "options"), [("fno", {}), ("fno", {"mlp_ratio": 0.5}), ("unet", {})])
def test_every_weight_is_trained(name, options, dim):
    model = net(name, dim, **options)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model(torch.randn(2, 3, *(12,) * dim).double()).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-12]


def test_a_u_net_sees_as_far_as_it_halves():
    """Two convolutions a level: far cells are seen through the coarse levels, without them only a few."""
    model, x = net("unet", 1, num_levels=1, periodic=False), torch.randn(1, 3, 64).double().requires_grad_()
    for module in model.modules():  # each sample's mean reaches everywhere, and is not what is asked here
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda h: h
    model(x)[0, 0, 32].backward()
    seen = (x.grad.abs().sum((0, 1)) > 0).nonzero().squeeze(1)
    assert (int(seen.min()), int(seen.max())) == (24, 41)


@pytest.mark.parametrize("name", GRID_BASELINES)
@pytest.mark.parametrize("dim", [1, 2])
def test_a_rollout_is_its_steps_and_knows_no_more_than_the_last_frames(name, dim):
    model = rollout(name, dim)
    given, condition = torch.randn(4, 5, *(12,) * dim, 2).double(), torch.randn(4, 2).double()
    found = model.rollout(given, 4, condition)
    known = given
    with torch.no_grad():
        for t in range(4):
            known = torch.cat([known, model(known, condition)[:, None]], 1)
            assert torch.equal(known[:, -1], found[:, t])
    earlier = given.clone()
    earlier[:, :2] += 1
    assert torch.equal(model.rollout(earlier, 4, condition), found)
    # Samples do not mix.
    torch.testing.assert_close(model.rollout(given[1:2], 4, condition[1:2]), found[1:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LEARNED)
def test_frames_conditions_and_places_are_read(name):
    model = rollout(name)
    given, condition = torch.randn(1, 3, 12, 2).double(), torch.randn(1, 2).double()
    known = model(given, condition)
    for frame in range(3):
        other = given.clone()
        other[:, frame, :, 1] += torch.randn(12)
        assert not torch.allclose(model(other, condition) - other[:, -1], known - given[:, -1])
    assert not torch.allclose(model(given, condition + 1), known)
    turned = model(given.roll(4, 2), condition).roll(-4, 1)
    assert not torch.allclose(turned, known)  # it knows where it is


def test_the_change_is_learned_in_units_of_the_usual_change():
    """Twice the physical units in, twice out: nothing depends on them once statistics are fitted."""
    series = torch.randn(6, 8, 12, 1).double().cumsum(1)
    found = []
    for unit in (1.0, 1e3):
        model = rollout(width=1, conditions=0)
        model.fit_statistics([unit * series + 5 * unit])
        torch.testing.assert_close(model.change_scale, unit * series.diff(dim=1).square().mean().sqrt()[None])
        found.append((model(unit * series + 5 * unit) - 5 * unit) / unit)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_persistence_has_no_weights_and_changes_nothing():
    model, given = rollout("persistence"), torch.randn(2, 3, 12, 2).double()
    found = model.rollout(given, 3, torch.zeros(2, 2).double())
    assert torch.equal(found, given[:, -1:].expand(-1, 3, -1, -1))
    assert model.num_parameters == 0
    assert isinstance(model.net, Persistence)


@pytest.mark.parametrize(("name", "dim", "options"), [("fno", 1, {}), ("fno", 2, {"modes": 8}), ("unet", 1, {}),
                                                      ("unet", 2, {"num_levels": 3})])  # fmt: skip
def test_widths_match_a_number_of_parameters(name, dim, options):
    settings = {"dim": dim, "width": 2, "history": 10} | options
    for wanted in (300_000, 800_000):
        channels = matching_grid_channels(name, wanted, **settings)
        made = GridRollout(name, channels=channels, **settings).num_parameters
        assert abs(made - wanted) <= 0.1 * wanted
        for other in (channels - 1, channels + 1):
            there = GridRollout(name, channels=other, **settings).num_parameters
            assert abs(there - wanted) >= abs(made - wanted)
    with pytest.raises(ConfigError, match=r"neither within 10% of 200"):
        matching_grid_channels(name, 200, **settings)


def test_published_sizes():
    """The setting of PDEBench in one dimension: two given numbers, all others follow."""
    model = FNO(features=11, outputs=1, dim=1)
    layers = 4 * (2 * 20 * 20 * 12 + 20 * 20 + 20)
    assert sum(p.numel() for p in model.parameters()) == (11 + 1) * 20 + layers + 21 * 128 + 129


@pytest.mark.parametrize(("make", "message"), [
    (lambda: FNO(**SIZES, dim=4), "`dim` must be 1, 2 or 3, the axes of a grid, got 4"),
    (lambda: FNO(**SIZES, dim=1, modes=0), "`modes` must be at least 1, got 0"),
    (lambda: FNO(**SIZES, dim=1, padding=-1), "must not be negative, got -1"),
    (lambda: UNet(**SIZES, dim=1, num_levels=0), "must be at least 1, got 32 and 0"),
    (lambda: GridRollout("fno", dim=1, width=1, history=0), "`history` must be at least 1, got 0"),
    (lambda: GridRollout("vit", dim=1, width=1), "unknown baseline on grids 'vit'; known: fno, unet, persistence"),
    (lambda: GridRollout("unet", dim=1, width=1, modes=3), "'unet' has no option 'modes'; its options: channels"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(("given", "condition", "message"), [
    (torch.zeros(1, 2, 12, 2), torch.zeros(1, 2), "with T of at least 3, got [1, 2, 12, 2]"),
    (torch.zeros(1, 3, 12, 1), torch.zeros(1, 2), "frames must be [B, T, X, 2]"),
    (torch.zeros(1, 3, 12, 2), None, "`condition` must have 2 numbers a sample, got 0"),
    (torch.zeros(1, 3, 5, 2), torch.zeros(1, 2), "1 axes of at least 6 points, got [5]: lower `modes`"),
])  # fmt: skip
def test_frames_that_do_not_fit_are_refused(given, condition, message):
    model = rollout()
    with pytest.raises(InputError, match=re.escape(message)):
        model(given.double(), None if condition is None else condition.double())
    with pytest.raises(InputError, match="`steps` must be at least 1, got 0"):
        model.rollout(given.double(), 0)


def test_a_u_net_tells_which_grids_it_can_halve():
    with pytest.raises(InputError, match=re.escape("axes of a multiple of 4 points, got [10]: lower `num_levels`")):
        net("unet", 1)(torch.zeros(1, 3, 10).double())


def test_a_series_without_change_is_refused():
    with pytest.raises(InputError, match="there is no change to learn"):
        rollout().fit_statistics([torch.zeros(2, 1, 12, 2)])
