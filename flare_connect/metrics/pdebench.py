"""The six errors of PDEBench on rollouts over regular grids, summed up batch by batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import ConfigError, InputError
from flare_connect.metrics.fields import Field
from flare_connect.metrics.grids import boundary_sum, shell_power

_BANDS = {"frmse_low": (0, 4), "frmse_mid": (4, 12), "frmse_high": (12, None)}

METRICS = ("rmse", "nrmse", "crmse", "max_error", "brmse", *_BANDS)
"""Names of the errors, in the order of the tables."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PDEBenchErrors:
    """The six errors of a split; the last of them, of the spectrum, in three bands.

    Attributes:
        values: name → error of each channel and predicted frame `[V, T]`, float64.
        added: errors whose channels are added and not averaged.
    """

    values: dict[str, Float[Tensor, "V T"]]
    added: frozenset[str] = frozenset()

    def scalars(self) -> dict[str, float]:
        """Name → the error, averaged over channels and frames."""
        return {name: float(steps.mean()) for name, steps in self.steps().items()}

    def steps(self) -> dict[str, Float[Tensor, " T"]]:
        """Name → the error of each predicted frame `[T]`, averaged over channels."""
        return {name: value.sum(0) if name in self.added else value.mean(0) for name, value in self.values.items()}

    def channels(self) -> dict[str, Float[Tensor, " V"]]:
        """Name → the error of each channel `[V]`, averaged over frames."""
        return {name: value.mean(1) for name, value in self.values.items()}


class PDEBenchMetrics:
    r"""Sums up the errors of PDEBench over batches.

    With prediction $p$ and truth $y$ of samples $b$, and $S$ points of the grid, for each channel and each frame from
    `initial_step` on:

    - `rmse`: $\mathrm{mean}_b \sqrt{\mathrm{mean}_S (p - y)^2}$
    - `nrmse`: $\mathrm{mean}_b \sqrt{\mathrm{mean}_S (p - y)^2} / \sqrt{\mathrm{mean}_S\, y^2}$
    - `crmse`, of the conserved quantity: $\sqrt{\mathrm{mean}_b (\sum_S p - \sum_S y)^2} / S$
    - `max_error`: $\max_{b,S} |p - y|$
    - `brmse`: as `rmse`, over the boundary: two ends, four edges or six faces
    - `frmse_low`, `_mid`, `_high`, of the spectrum: $\sqrt{\mathrm{mean}_b \sum |\hat p - \hat y|^2} / S$ of a shell of
      wave numbers, averaged over the shells 0–3, 4–11 and from 12 on; NaN where the grid has no such shell

    ```python
    metrics = PDEBenchMetrics(initial_step=10)
    for initial, frames, grid, static in loader:
        metrics.update(rollout(initial, frames.shape[-2]), frames)
    metrics.compute().scalars()
    ```

    Args:
        initial_step: frames that the model was given, which do not count; 0 for Darcy flow.
        mode: "exact" takes means and maxima over all samples, whatever the batches. "pdebench" does as the published
            tables: it takes the errors of each batch, adds them, and divides by the number of batches less one, so
            that they come out too large, and infinite where there is one batch. Its `brmse` in three dimensions adds
            the channels.

    Raises:
        ConfigError: a setting is wrong.

    Source: Takamoto et al., arXiv:2210.07182.
    """

    def __init__(self, *, initial_step: int, mode: str = "exact"):
        if isinstance(initial_step, bool) or not isinstance(initial_step, int) or initial_step < 0:
            raise ConfigError(f"`initial_step` must be a whole number of 0 or more, got {initial_step!r}")
        if mode not in ("exact", "pdebench"):
            raise ConfigError(f"`mode` must be 'exact' or 'pdebench', got {mode!r}")
        self.initial_step = initial_step
        self.mode = mode
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._shape: tuple[int, ...] = ()
        self._sums: dict[str, Tensor] = {}
        self._num_samples = 0
        self._num_batches = 0

    def update(self, prediction: Field, truth: Field) -> None:
        """Take a batch.

        Args:
            prediction: `[B, X[, Y[, Z]], T, V]`, the given frames included; what stands in them does not matter.
            truth: the same shape.

        Raises:
            InputError: shapes differ from each other or from the batches before, there are too few frames, or values
                are not finite.
        """
        self._check(prediction, truth)
        right = _by_frame(truth, self.initial_step)
        difference = _by_frame(prediction, self.initial_step) - right
        batch = _batch_sums(difference, right)
        if self.mode == "pdebench":
            batch = _errors(batch, len(right), _num_points(right))
        self._shape = tuple(truth.shape[1:])
        self._num_samples += len(right)
        self._num_batches += 1
        for name, value in batch.items():
            if name not in self._sums:
                self._sums[name] = value
            elif name == "max_error" and self.mode == "exact":
                self._sums[name] = torch.maximum(self._sums[name], value)
            else:
                self._sums[name] = self._sums[name] + value

    def compute(self) -> PDEBenchErrors:
        """The errors of all batches so far.

        Raises:
            InputError: there was no batch.
        """
        if not self._num_batches:
            raise InputError("there is no batch to evaluate: call `update` first")
        if self.mode == "exact":
            *space, _, _ = self._shape
            errors = _errors(self._sums, self._num_samples, torch.Size(space).numel())
        else:
            errors = {name: value / (self._num_batches - 1) for name, value in self._sums.items()}
        added = frozenset(["brmse"] if self.mode == "pdebench" and len(self._shape) == 5 else [])
        return PDEBenchErrors(values={name: errors[name].cpu() for name in METRICS}, added=added)

    def _check(self, prediction: Tensor, truth: Tensor) -> None:
        if prediction.shape != truth.shape:
            raise InputError(
                f"prediction has shape {list(prediction.shape)} but truth {list(truth.shape)}: give both alike"
            )
        if truth.ndim not in (4, 5, 6) or not truth.numel():
            raise InputError(
                f"truth must have shape [B, X, T, V], [B, X, Y, T, V] or [B, X, Y, Z, T, V], got {list(truth.shape)}"
            )
        if truth.shape[-2] <= self.initial_step:
            raise InputError(
                f"truth has {truth.shape[-2]} frames, of which `initial_step={self.initial_step}` leaves none: give "
                "more frames"
            )
        if self._shape and tuple(truth.shape[1:]) != self._shape:
            raise InputError(
                f"truth has shape {list(truth.shape)} but batches before [B, {', '.join(map(str, self._shape))}]: "
                "grids, frames and channels must be the same in all"
            )
        for what, values in (("prediction", prediction), ("truth", truth)):
            _check_finite(what, values, self.initial_step)


def pdebench_errors(
    prediction: Field, truth: Field, *, initial_step: int, mode: str = "exact", batch_size: int | None = None
) -> PDEBenchErrors:
    """The errors of PDEBench of all samples at once; see `PDEBenchMetrics`.

    Args:
        prediction: `[N, X[, Y[, Z]], T, V]`, the given frames included.
        truth: the same shape.
        initial_step: frames that the model was given, which do not count.
        mode: "exact", or "pdebench" as in the published tables.
        batch_size: samples at a time; all by default. In the mode "exact" it changes memory and nothing else.

    Raises:
        ConfigError: a setting is wrong.
        InputError: shapes differ, there are too few frames, or values are not finite.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
        raise ConfigError(f"`batch_size` must be a whole number of 1 or more, got {batch_size!r}")
    metrics = PDEBenchMetrics(initial_step=initial_step, mode=mode)
    if batch_size is None or prediction.shape != truth.shape:  # `update` says what is wrong
        metrics.update(prediction, truth)
    else:
        for p, y in zip(prediction.split(batch_size), truth.split(batch_size), strict=True):
            metrics.update(p, y)
    return metrics.compute()


def _by_frame(values: Tensor, initial_step: int) -> Tensor:
    """`[B, X…, T, V]` as `[B, V, T, X…]`, float64, without the given frames."""
    return values.detach()[..., initial_step:, :].movedim((-1, -2), (1, 2)).double()


def _num_points(values: Tensor) -> int:
    return values.shape[3:].numel()


def _batch_sums(difference: Tensor, right: Tensor) -> dict[str, Tensor]:
    """What the errors of a batch are made of, added over its samples: `[V, T]`, of the spectrum `[V, T, K]`."""
    dim = difference.ndim - 3
    squares, size = difference.square(), right.square().flatten(3).mean(-1).sqrt()
    rms = squares.flatten(3).mean(-1).sqrt()
    edge, count = boundary_sum(squares, dim)
    return {
        "rmse": rms.sum(0),
        "nrmse": torch.where(rms == 0, 0.0, rms / size).sum(0),  # 0 of a truth of 0 is no error
        "crmse": difference.flatten(3).sum(-1).square().sum(0),
        "max_error": difference.abs().flatten(3).amax(-1).amax(0),
        "brmse": (edge / count).sqrt().sum(0),
        "frmse": shell_power(difference, dim).sum(0),
    }


def _errors(sums: dict[str, Tensor], num_samples: int, num_points: int) -> dict[str, Tensor]:
    """The errors `[V, T]` of the sums over so many samples."""
    means = {name: value / num_samples for name, value in sums.items()}
    spectrum = means["frmse"].sqrt() / num_points
    return {
        "rmse": means["rmse"],
        "nrmse": means["nrmse"],
        "crmse": means["crmse"].sqrt() / num_points,
        "max_error": sums["max_error"],
        "brmse": means["brmse"],
        **{name: spectrum[..., low:high].mean(-1) for name, (low, high) in _BANDS.items()},
    }


def _check_finite(what: str, values: Tensor, initial_step: int) -> None:
    if values.is_complex():
        raise InputError(f"{what} must hold real numbers, got dtype {values.dtype}")
    finite = values[..., initial_step:, :].isfinite()
    if finite.all():
        return
    bad = ~finite.movedim(-2, 1).flatten(2).all(2)  # [B, T]
    sample, frame = bad.nonzero()[0].tolist()
    raise InputError(
        f"{what} is NaN or infinite at {int((~finite).sum())} of {finite.numel()} values, first in sample {sample}, "
        f"frame {frame + initial_step}: count this case as failed"
    )
