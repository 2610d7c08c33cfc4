"""Errors of rollouts, frame by frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import InputError
from flare_connect.metrics.pdebench import METRICS, PDEBenchErrors

from .chart import FAINT, INK, finished_figure, hue, legend_below, new_figure, title_above
from .render import picture_path

_NAMES = {"rmse": "RMSE", "nrmse": "nRMSE", "crmse": "cRMSE", "max_error": "largest error", "brmse": "bRMSE",
          "frmse_low": "fRMSE, low", "frmse_mid": "fRMSE, middle", "frmse_high": "fRMSE, high"}  # fmt: skip
_STROKES = ("-", "--", ":", "-.")


def plot_curves(
    errors: Mapping[str, PDEBenchErrors],
    *,
    channels: Sequence[str],
    initial_step: int,
    window: int | None = None,
    metrics: Sequence[str] = ("nrmse", "rmse"),
    title: str = "",
    save: str | Path | None = None,
) -> Any:
    """Draws the error of each frame on a logarithmic scale: a panel a metric, a colour a channel, a stroke a model.

    The frames that were given are shaded. Errors of 0 and infinite ones have no place on the scale and leave a gap.

    Args:
        errors: name of a model → its errors, of V channels and T predicted frames each.
        channels: names of the V channels.
        initial_step: frames that were given: the number of the first one that is predicted.
        window: frames of a training sample where that is known; a line marks its end. Beyond, a rollout is longer than
            any that was trained on.
        metrics: which errors, a panel each.
        title: above all panels.
        save: picture to write (png, jpg, tif, webp or pdf).

    Returns:
        The path written, or without `save` the matplotlib `Figure`.

    Raises:
        InputError: there is nothing to draw, shapes do not agree, a metric is unknown, or the path cannot be written.

    Good values: a model and "persistence", the last frame given for all times: a model above it is worse than nothing.
    """
    path = None if save is None else picture_path(save)
    _check(errors, channels, metrics)
    figure, axes = new_figure(1, len(metrics), size=(5.2, 4.0))
    for axis, metric in zip(axes[0], metrics, strict=True):
        for each, stroke in zip(errors.values(), _STROKES, strict=False):
            for v, values in enumerate(np.asarray(each.values[metric])):
                frames = initial_step + np.arange(len(values))
                shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
                # One frame alone is no line.
                axis.plot(frames, shown, stroke, color=hue(v), marker="o" if len(values) == 1 else "")
        axis.set(yscale="log", title=_NAMES[metric], xlabel="frame", xlim=(-0.5, frames[-1] + 0.5))
        low, high = axis.dataLim.intervaly
        if high < 10 * low:  # powers of ten, so that there are some to read
            axis.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        axis.axvspan(-0.5, initial_step - 0.5, color=FAINT, alpha=0.35, linewidth=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if window is not None and window - 0.5 < axis.get_xlim()[1]:
            axis.axvline(window - 0.5, color=INK, linewidth=1.0, linestyle=(0, (1, 2)))
    legend_below(figure, _legend(errors, channels, initial_step, window))
    title_above(figure, title)
    return finished_figure(figure, path)


def _legend(errors: Mapping[str, Any], channels: Sequence[str], given: int, window: int | None) -> dict[str, dict]:
    styles: dict[str, dict] = {}
    if len(channels) > 1:
        styles |= {name: {"color": hue(v)} for v, name in enumerate(channels)}
    colour = INK if len(channels) > 1 else hue(0)
    styles |= {name: {"color": colour, "linestyle": s} for name, s in zip(errors, _STROKES, strict=False)}
    if given:
        styles["given frames"] = {"color": FAINT, "linewidth": 8, "alpha": 0.5}
    if window is not None:
        styles[f"window of training, {window} frames"] = {"color": INK, "linewidth": 1.0, "linestyle": (0, (1, 2))}
    return styles


def _check(errors: Mapping[str, PDEBenchErrors], channels: Sequence[str], metrics: Sequence[str]) -> None:
    if not errors or len(errors) > len(_STROKES):
        raise InputError(f"`errors` must be of 1 to {len(_STROKES)} models, got {len(errors)}")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise InputError(f"`metrics` must be some of {', '.join(METRICS)}, got {list(metrics)}")
    shapes = {name: list(each.values[metrics[0]].shape) for name, each in errors.items()}
    if any(shape != [len(channels), *next(iter(shapes.values()))[1:]] for shape in shapes.values()):
        raise InputError(f"errors must be [V, T] of the {len(channels)} channels {list(channels)}, got {shapes}")
    for metric in metrics:
        values = [each.values[metric] for each in errors.values()]
        if not any(bool((each.isfinite() & (each > 0)).any()) for each in values):
            raise InputError(f"there is nothing to draw of {metric!r}: every error is 0, infinite or not a number")
