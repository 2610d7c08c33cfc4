"""Spectra: single waves, the benchmark's own error of the spectrum, and no dependence on batches."""

import math

import pytest
import torch

from flare_connect.errors import ConfigError, InputError
from flare_connect.metrics import SpectraMetrics, pdebench_errors


@pytest.mark.parametrize("space", [(32,), (30, 32), (26, 27, 28)])
def test_error_is_that_of_the_benchmark(space):
    """sqrt of the error's energy, averaged over the shells of a band, is fRMSE of that band and frame."""
    truth = torch.randn(5, *space, 4, 2)
    guess = truth + 0.1 * torch.randn_like(truth)
    metrics = SpectraMetrics([1, 3])
    metrics.update(guess[:2], truth[:2])
    metrics.update(guess[2:], truth[2:])
    found, expected = metrics.compute(), pdebench_errors(guess, truth, initial_step=0)
    for name, band in (("frmse_low", slice(4)), ("frmse_mid", slice(4, 12)), ("frmse_high", slice(12, None))):
        torch.testing.assert_close(found.error[..., band].sqrt().mean(-1), expected.values[name][:, [1, 3]])


def test_a_wave_has_its_energy_in_its_shell():
    """A cosine of amplitude a: (a/2)² in the shell of its wave number, its mean squared in shell 0."""
    x = torch.arange(64) / 64
    wave = 3.0 + 0.8 * torch.cos(2 * math.pi * 5 * x)
    truth = wave[None, :, None, None].double()
    metrics = SpectraMetrics([0])
    metrics.update(0.5 * truth, truth)
    found = metrics.compute()
    expected = torch.zeros(33, dtype=torch.float64)
    expected[0], expected[5] = 9.0, 0.4**2
    torch.testing.assert_close(found.truth[0, 0], expected, atol=1e-12, rtol=1e-5)
    torch.testing.assert_close(found.prediction[0, 0], 0.25 * expected, atol=1e-12, rtol=1e-5)
    torch.testing.assert_close(found.error[0, 0], 0.25 * expected, atol=1e-12, rtol=1e-5)


def test_error_is_of_the_difference():
    """A wave in the wrong place has the right energy and an error."""
    x = 2 * math.pi * torch.arange(64).double() / 64
    truth, guess = (torch.cos(3 * x + phase)[None, :, None, None] for phase in (0.0, math.pi))
    metrics = SpectraMetrics([0])
    metrics.update(guess, truth)
    found = metrics.compute()
    torch.testing.assert_close(found.truth, found.prediction)
    assert found.error[0, 0, 3] == pytest.approx(4 * float(found.truth[0, 0, 3]))


def test_mistakes_are_named():
    for frames in ([], [-1]):
        with pytest.raises(ConfigError, match="`frames` must be at least one number from 0 on"):
            SpectraMetrics(frames)
    metrics = SpectraMetrics([3])
    with pytest.raises(InputError, match="there is no batch"):
        metrics.compute()
    with pytest.raises(InputError, match="there is no frame 3: the batch has 3"):
        metrics.update(torch.zeros(1, 8, 3, 1), torch.zeros(1, 8, 3, 1))
    with pytest.raises(InputError, match="must both have shape"):
        metrics.update(torch.zeros(1, 8, 4, 1), torch.zeros(1, 9, 4, 1))
    metrics.update(torch.zeros(1, 8, 4, 1), torch.zeros(1, 8, 4, 1))
    with pytest.raises(InputError, match="grids and channels must be the same in all"):
        metrics.update(torch.zeros(1, 10, 4, 1), torch.zeros(1, 10, 4, 1))
