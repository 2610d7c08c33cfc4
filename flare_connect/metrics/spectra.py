"""Energy by wave number of truth, prediction and error on regular grids, summed up batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import ConfigError, InputError
from flare_connect.metrics.fields import Field
from flare_connect.metrics.grids import shell_power


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectra:
    """Energy of each channel in each shell of wave numbers, at a few frames.

    Attributes:
        frames: which frames F, counted from 0.
        truth: `[V, F, K]`, float64, as the following; the shells k are those of `shell_power`.
        prediction: of the prediction.
        error: of the difference, not the difference of the energies.
    """

    frames: tuple[int, ...]
    truth: Float[Tensor, "V F K"]
    prediction: Float[Tensor, "V F K"]
    error: Float[Tensor, "V F K"]


class SpectraMetrics:
    r"""Sums up spectra over batches; memory is that of one spectrum.

    The energy of shell $k$ is $E(k) = \mathrm{mean}_b \sum_{\lfloor |k'| \rfloor = k} |\hat u(k')|^2 / S^2$ with
    samples $b$ and $S$ points. Shells and scale are those of the benchmark's error of the spectrum: `frmse_low` of
    `PDEBenchMetrics` is the mean of $\sqrt{E}$ of the error over the first four shells.

    Args:
        frames: which frames, counted from 0.

    Raises:
        ConfigError: there is no frame, or its number is negative.

    Good values: three frames: the first that is predicted, the middle, the last.
    Source: Takamoto et al., arXiv:2210.07182, for the shells.
    """

    def __init__(self, frames: Sequence[int]) -> None:
        if not frames or min(frames) < 0:
            raise ConfigError(f"`frames` must be at least one number from 0 on, got {list(frames)}")
        self.frames = tuple(frames)
        self._sums: Tensor | None = None
        self._num_samples = 0

    def update(self, prediction: Field, truth: Field) -> None:
        """Take a batch.

        Args:
            prediction: `[B, X[, Y[, Z]], T, V]`.
            truth: the same shape.

        Raises:
            InputError: shapes differ from each other or from the batches before, or there are too few frames.
        """
        if prediction.shape != truth.shape or truth.ndim not in (4, 5, 6):
            raise InputError(
                f"prediction and truth must both have shape [B, X[, Y[, Z]], T, V], got {list(prediction.shape)} and "
                f"{list(truth.shape)}"
            )
        if truth.shape[-2] <= max(self.frames):
            raise InputError(f"there is no frame {max(self.frames)}: the batch has {truth.shape[-2]}, counted from 0")
        right, guess = (
            values.detach()[..., list(self.frames), :].movedim((-1, -2), (1, 2)).double()
            for values in (truth, prediction)
        )
        dim, points = truth.ndim - 3, right.shape[3:].numel()
        found = torch.stack([shell_power(each, dim).sum(0) / points**2 for each in (right, guess, guess - right)])
        if self._sums is not None and found.shape != self._sums.shape:
            raise InputError(
                f"a spectrum has shape {list(found.shape[1:])} but those of batches before {list(self._sums.shape[1:])}"
                ": grids and channels must be the same in all"
            )
        self._sums = found if self._sums is None else self._sums + found
        self._num_samples += len(truth)

    def compute(self) -> Spectra:
        """The mean over all samples so far.

        Raises:
            InputError: there was none.
        """
        if self._sums is None:
            raise InputError("there is no batch to take the spectrum of: call `update` first")
        truth, prediction, error = (self._sums / self._num_samples).cpu()
        return Spectra(frames=self.frames, truth=truth, prediction=prediction, error=error)
