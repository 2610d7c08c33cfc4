"""The errors of PDEBench against numbers worked by hand, and against loops over single points and modes."""

import itertools
import math

import pytest
import torch

from flare_connect.errors import ConfigError, InputError
from flare_connect.metrics import PDEBenchMetrics, pdebench_errors
from flare_connect.metrics.pdebench import METRICS

GRIDS = [(32,), (32, 24), (28, 32, 26)]


def fields(*space, samples=3, frames=4, channels=2):
    return torch.randn(samples, *space, frames, channels, dtype=torch.float64)


def wave(*space, numbers, phase=0.3):
    """cos(2π k·x) on the cell centres of the unit box `[X…, 1, 1]`."""
    axes = torch.meshgrid(*((torch.arange(n).double() + 0.5) / n for n in space), indexing="ij")
    angle = sum(2 * math.pi * k * x for k, x in zip(numbers, axes, strict=True)) + phase
    return angle.cos()[..., None, None]


@pytest.mark.parametrize("space", GRIDS)
def test_a_constant_error(space):
    truth = fields(*space)
    errors = pdebench_errors(truth - 0.5, truth, initial_step=1)
    scalars = errors.scalars()
    axes = tuple(range(1, 1 + len(space)))
    rms = truth[..., 1:, :].square().mean(axes).sqrt()
    for name in ("rmse", "crmse", "max_error", "brmse"):
        assert scalars[name] == pytest.approx(0.5, rel=1e-12)
    assert scalars["nrmse"] == pytest.approx(float((0.5 / rms).mean()), rel=1e-12)
    assert scalars["frmse_low"] == pytest.approx(0.5 / 4, rel=1e-12)
    assert scalars["frmse_mid"] == pytest.approx(0, abs=1e-12)
    assert list(scalars) == list(METRICS)


@pytest.mark.parametrize(
    ("space", "numbers", "band", "shells"),
    [
        ((32,), (2,), "frmse_low", 4),
        ((32,), (7,), "frmse_mid", 8),
        ((32,), (13,), "frmse_high", 5),  # modes 12 to 16
        ((32, 32), (2, 2), "frmse_low", 4),  # |k| = 2.83
        ((32, 32), (3, 4), "frmse_mid", 8),  # |k| = 5, on the edge of its shell
        ((32, 32), (12, 9), "frmse_high", 4),  # shells 12 to 15
        ((26, 26, 26), (1, 2, 2), "frmse_low", 4),
        ((26, 26, 26), (2, 4, 4), "frmse_mid", 8),
        ((26, 26, 26), (4, 4, 11), "frmse_high", 1),  # |k| = 12.4
    ],
)
def test_a_single_mode(space, numbers, band, shells):
    truth = fields(*space, samples=2, frames=2, channels=1)
    errors = pdebench_errors(truth + 0.8 * wave(*space, numbers=numbers), truth, initial_step=0).scalars()
    for name in ("frmse_low", "frmse_mid", "frmse_high"):
        expected = 0.4 / shells if name == band else 0
        assert errors[name] == pytest.approx(expected, abs=1e-12)
    assert errors["rmse"] == pytest.approx(0.8 / math.sqrt(2), rel=1e-6)
    assert errors["crmse"] == pytest.approx(0, abs=1e-12)


def test_by_hand():
    """Two samples of four points, one channel, one predicted frame."""
    truth = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]])[..., None, None]
    prediction = truth + torch.tensor([[3.0, 0, 0, 4], [0, 2, 0, 0]])[..., None, None]
    scalars = pdebench_errors(prediction, truth, initial_step=0).scalars()
    assert scalars["rmse"] == pytest.approx((2.5 + 1) / 2)
    assert scalars["nrmse"] == pytest.approx((2.5 + 0.5) / 2)
    assert scalars["crmse"] == pytest.approx(math.sqrt((7**2 + 2**2) / 2) / 4)
    assert scalars["max_error"] == 4
    assert scalars["brmse"] == pytest.approx((math.sqrt(25 / 2) + 0) / 2)
    # Fourier modes of the errors: (7, 3 + 4i, -1) and (2, -2i, -2)
    modes = [math.sqrt((49 + 4) / 2), math.sqrt((25 + 4) / 2), math.sqrt((1 + 4) / 2)]
    assert scalars["frmse_low"] == pytest.approx(sum(modes) / 3 / 4)
    assert math.isnan(scalars["frmse_mid"])
    assert math.isnan(scalars["frmse_high"])


@pytest.mark.parametrize("space", [(10,), (6, 4), (4, 6, 8)])
def test_against_loops(space):
    truth = fields(*space)
    prediction = truth + fields(*space)
    found = pdebench_errors(prediction, truth, initial_step=1)
    size, dim = math.prod(space), len(space)
    low = torch.zeros(2, 3)
    for c, t in itertools.product(range(2), range(3)):
        p, y = prediction[..., t + 1, c], truth[..., t + 1, c]
        rows = {name: [] for name in ("rmse", "nrmse", "crmse", "brmse")}
        shells = {}
        for b in range(3):
            d = p[b] - y[b]
            rows["rmse"].append(math.sqrt(float((d**2).sum()) / size))
            rows["nrmse"].append(rows["rmse"][-1] / math.sqrt(float((y[b] ** 2).sum()) / size))
            rows["crmse"].append(float(p[b].sum() - y[b].sum()) ** 2)
            edge, count = 0.0, 0
            for axis, end in itertools.product(range(dim), (0, -1)):
                face = d.select(axis, end)
                edge, count = edge + float((face**2).sum()), count + face.numel()
            rows["brmse"].append(math.sqrt(edge / count))
            modes = torch.fft.fftn(d)
            top = [n // 2 + (dim == 1) for n in space]
            for k in itertools.product(*map(range, top)):
                shell = math.floor(math.sqrt(sum(i * i for i in k)))
                if shell < min(top):
                    shells.setdefault(shell, [0.0] * 3)[b] += float(modes[k].abs() ** 2)
        low[c, t] = sum(math.sqrt(sum(shells[s]) / 3) / size for s in range(4) if s in shells) / min(4, len(shells))
        assert float(found.values["rmse"][c, t]) == pytest.approx(sum(rows["rmse"]) / 3, rel=1e-12)
        assert float(found.values["nrmse"][c, t]) == pytest.approx(sum(rows["nrmse"]) / 3, rel=1e-12)
        assert float(found.values["crmse"][c, t]) == pytest.approx(math.sqrt(sum(rows["crmse"]) / 3) / size, rel=1e-12)
        assert float(found.values["brmse"][c, t]) == pytest.approx(sum(rows["brmse"]) / 3, rel=1e-12)
        assert float(found.values["max_error"][c, t]) == float((p - y).abs().max())
    assert torch.allclose(found.values["frmse_low"], low.double(), rtol=1e-6)


def test_points_of_the_boundary():
    """Edges hold 2nx + 2ny points, corners twice; faces hold a box's corner three times."""
    for space, place, count, times in (((6, 4), (0, 0), 20, 2), ((6, 4), (0, 2), 20, 1), ((4, 4, 4), (0, 3, 0), 96, 3)):
        truth = torch.ones(1, *space, 1, 1)
        prediction = truth.clone()
        prediction[(0, *place, 0, 0)] += 1
        found = pdebench_errors(prediction, truth, initial_step=0).scalars()["brmse"]
        assert found == pytest.approx(math.sqrt(times / count), rel=1e-12)
    prediction = torch.ones(1, 6, 4, 1, 1)
    prediction[0, 3, 2] += 7
    assert pdebench_errors(prediction, torch.ones(1, 6, 4, 1, 1), initial_step=0).scalars()["brmse"] == 0


@pytest.mark.parametrize("space", GRIDS)
def test_exact_errors_do_not_depend_on_the_batches(space):
    truth = fields(*space, samples=7, frames=3)
    prediction = truth + fields(*space, samples=7, frames=3)
    whole = pdebench_errors(prediction, truth, initial_step=1)
    for size in (1, 2, 3, 100):
        parts = pdebench_errors(prediction, truth, initial_step=1, batch_size=size)
        for name in METRICS:
            assert torch.allclose(parts.values[name], whole.values[name], rtol=1e-12, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("space", GRIDS)
def test_published_mode_adds_batches_and_divides_by_the_last_index(space):
    truth = fields(*space, samples=6, frames=3)
    prediction = truth + fields(*space, samples=6, frames=3)
    published = pdebench_errors(prediction, truth, initial_step=1, mode="pdebench", batch_size=2)
    each = [
        pdebench_errors(prediction[i : i + 2], truth[i : i + 2], initial_step=1, mode="exact") for i in range(0, 6, 2)
    ]
    for name in METRICS:
        expected = sum(errors.values[name] for errors in each) / 2
        assert torch.allclose(published.values[name], expected, rtol=1e-12, equal_nan=True)
    factor = 2 if len(space) == 3 else 1  # it adds the two channels
    assert published.scalars()["brmse"] == pytest.approx(factor * float(published.values["brmse"].mean()))
    assert published.scalars()["rmse"] == pytest.approx(float(published.values["rmse"].mean()))
    exact = pdebench_errors(prediction, truth, initial_step=1)
    assert published.scalars()["rmse"] == pytest.approx(3 / 2 * exact.scalars()["rmse"])


def test_published_mode_is_infinite_with_one_batch():
    truth = fields(32)
    errors = pdebench_errors(truth + 0.1 * fields(32), truth, initial_step=0, mode="pdebench").scalars()
    assert all(math.isinf(value) for value in errors.values())


def test_steps_and_channels():
    truth = fields(16, frames=6)
    errors = pdebench_errors(truth + fields(16, frames=6), truth, initial_step=2)
    for name, value in errors.values.items():
        if name == "frmse_high":
            continue  # 16 points have no such mode
        assert value.shape == (2, 4)
        assert torch.equal(errors.steps()[name], value.mean(0))
        assert torch.equal(errors.channels()[name], value.mean(1))
        assert errors.scalars()[name] == pytest.approx(float(value.mean()))


def test_given_frames_do_not_count():
    truth = fields(16, frames=6)
    prediction = truth + 1
    prediction[..., :2, :] = math.nan
    assert pdebench_errors(prediction, truth, initial_step=2).scalars()["rmse"] == pytest.approx(1)


def test_batches_one_by_one_in_single_precision():
    metrics = PDEBenchMetrics(initial_step=1)
    truth = fields(32, 32).float()
    for sample in truth:
        metrics.update(sample[None] + 0.25, sample[None])
    assert metrics.compute().scalars()["rmse"] == pytest.approx(0.25, rel=1e-6)
    metrics.update(truth, truth)
    assert metrics.compute().scalars()["rmse"] == pytest.approx(0.125, rel=1e-6)
    metrics.reset()
    metrics.update(truth[:, :16], truth[:, :16])
    assert metrics.compute().scalars()["rmse"] == 0


def test_a_truth_of_zero():
    zero = torch.zeros(2, 8, 1, 1)
    assert pdebench_errors(zero, zero, initial_step=0).scalars()["nrmse"] == 0
    assert math.isinf(pdebench_errors(zero + 1, zero, initial_step=0).scalars()["nrmse"])


def bad(value):
    values = torch.ones(2, 8, 5, 1)
    values[1, 3, 4] = value
    return values


def ones(*shape):
    return torch.ones(*shape)


@pytest.mark.parametrize(
    ("prediction", "truth", "says"),
    [
        (ones(2, 8, 4, 1), ones(2, 8, 5, 1), r"prediction has shape \[2, 8, 4, 1\] but truth \[2, 8, 5, 1\]"),
        (ones(2, 8, 5), ones(2, 8, 5), r"truth must have shape \[B, X, T, V\], .*, got \[2, 8, 5\]"),
        (ones(0, 8, 5, 1), ones(0, 8, 5, 1), r"got \[0, 8, 5, 1\]"),
        (ones(2, 8, 2, 1), ones(2, 8, 2, 1), "truth has 2 frames, of which `initial_step=2` leaves none"),
        (bad(math.nan), ones(2, 8, 5, 1), "is NaN or infinite at 1 of 48 values, first in sample 1, frame 4: count"),
        (ones(2, 8, 5, 1), bad(math.inf), "truth is NaN or infinite at 1 of 48 values"),
        (ones(2, 8, 5, 1).cfloat(), ones(2, 8, 5, 1), "prediction must hold real numbers"),
        (ones(2, 9, 5, 1), ones(2, 9, 5, 1), r"truth has shape \[2, 9, 5, 1\] but batches before \[B, 8, 5, 1\]"),
    ],
)
def test_what_cannot_be_compared(prediction, truth, says):
    metrics = PDEBenchMetrics(initial_step=2)
    metrics.update(torch.ones(1, 8, 5, 1), torch.ones(1, 8, 5, 1))
    with pytest.raises(InputError, match=says):
        metrics.update(prediction, truth)
    assert metrics.compute().scalars()["rmse"] == 0  # as before


def test_wrong_settings():
    with pytest.raises(ConfigError, match="`initial_step` must be a whole number of 0 or more, got -1"):
        PDEBenchMetrics(initial_step=-1)
    with pytest.raises(ConfigError, match="`mode` must be 'exact' or 'pdebench', got 'official'"):
        PDEBenchMetrics(initial_step=0, mode="official")
    with pytest.raises(ConfigError, match="`batch_size` must be a whole number of 1 or more, got 0"):
        pdebench_errors(torch.ones(1, 8, 1, 1), torch.ones(1, 8, 1, 1), initial_step=0, batch_size=0)
    with pytest.raises(InputError, match="there is no batch to evaluate: call `update` first"):
        PDEBenchMetrics(initial_step=0).compute()
