"""Energy spectra of truth, prediction and error."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import InputError
from flare_connect.metrics.spectra import Spectra

from .chart import FAINT, HUES, INK, finished_figure, legend_below, new_figure, title_above
from .render import picture_path

_LINES = {
    "truth": {"color": INK, "linewidth": 2.6},
    "prediction": {"color": HUES[0], "linewidth": 1.6},
    "error": {"color": HUES[1], "linestyle": "--", "linewidth": 1.6},
}
_BANDS = (4, 12)  # where the benchmark's low, middle and high wave numbers meet
_ROUNDING = 1e-14  # of an energy in float32, against the largest


def plot_spectra(spectra: Spectra, *, channels: Sequence[str], title: str = "", save: str | Path | None = None) -> Any:
    """Draws energy over wave number, both logarithmic: a row a channel, a column a frame.

    Where the error meets the truth, nothing is known of smaller waves. Both thin lines divide the low, middle and high
    wave numbers of the benchmark. Wave number 0, the mean, has no place on the scale.

    Args:
        spectra: of V channels and F frames.
        channels: names of the V channels.
        title: above all panels.
        save: picture to write (png, jpg, tif, webp or pdf).

    Returns:
        The path written, or without `save` the matplotlib `Figure`.

    Raises:
        InputError: there is nothing to draw, names and channels do not agree, or the path cannot be written.
    """
    path = None if save is None else picture_path(save)
    count, frames, shells = spectra.truth.shape
    if len(channels) != count:
        raise InputError(f"the spectra have {count} channels, but {len(channels)} names: {list(channels)}")
    if shells < 3:
        raise InputError(f"a grid with the wave numbers 0 to {shells - 1} has no spectrum to draw: take a finer one")
    figure, axes = new_figure(count, frames, size=(3.6, 3.0), sharex=True, sharey="row")
    numbers = np.arange(1, shells)
    for v, name in enumerate(channels):
        top = 0.0
        for f, frame in enumerate(spectra.frames):
            axis = axes[v, f]
            for kind, style in _LINES.items():
                values = getattr(spectra, kind)[v, f, 1:].numpy()
                axis.plot(numbers, np.where(values > 0, values, np.nan), **style)
                top = max(top, float(values.max()))
            for edge in _BANDS:
                if edge < shells - 1:
                    axis.axvline(edge, color=FAINT, linewidth=0.9)
            axis.set(xscale="log", yscale="log", xlim=(1, shells - 1))
            axis.set_title(f"{name}, frame {frame}" if count > 1 else f"frame {frame}")
            if v == count - 1:
                axis.set_xlabel("wave number")
        axes[v, 0].set_ylabel("energy")
        if top > 0:
            axes[v, 0].set_ylim(max(axes[v, 0].get_ylim()[0], _ROUNDING * top), None)
    legend_below(figure, _LINES)
    title_above(figure, title)
    return finished_figure(figure, path)
