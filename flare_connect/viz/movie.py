"""Truth, prediction and error of a rollout on a regular grid, side by side, as a film."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from flare_connect.errors import InputError

from .chart import FAINT, HUES, INK, new_figure
from .film import film_path, write_film

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Updates = list[tuple[Callable[[Any], Any], np.ndarray]]  # what shows an array, and the arrays of all frames
_MAPS = ("viridis", "RdBu_r")  # of fields and of errors
_TITLES = ("truth", "prediction", "prediction − truth")


def save_movie(
    truth: Any,
    prediction: Any,
    path: str | Path,
    *,
    channels: Sequence[str],
    coordinates: Sequence[Any] | None = None,
    times: Sequence[float] | None = None,
    given: int = 0,
    rate: float = 8.0,
    title: str = "",
    progress: bool = False,
) -> Path:
    """Writes a film of a rollout: a row a channel; truth, prediction and their difference in its columns.

    Lines on grids of one dimension, with the truth in grey behind the prediction; images on those of two; of three the
    plane in the middle of z. Scales are the same in all frames: the truth's range for truth and prediction, which is
    left where a prediction leaves it, and the largest error for the differences.

    Args:
        truth: `[X[, Y[, Z]], T, V]`, array or tensor.
        prediction: the same shape, the given frames included.
        path: `.gif`, or `.mp4` where ffmpeg or the package imageio-ffmpeg is installed.
        channels: names of the V channels.
        coordinates: places of the points along each axis `[X]`, evenly spaced; 0, 1, 2 … by default.
        times: of the frames `[T]`.
        given: frames that the model was given; the film says so.
        rate: frames a second.
        title: above all panels.
        progress: show a bar.

    Returns:
        The path written.

    Raises:
        InputError: shapes do not agree, a value is not finite, or the path cannot be written.
        RenderError: there is no ffmpeg for an `.mp4`.

    Good values: 8 frames a second for 40 frames.
    """
    path = film_path(path)
    right, guess = (np.asarray(values, dtype=np.float64) for values in (truth, prediction))
    _check(right, guess, channels, coordinates, times, given, rate)
    axes = [np.arange(n) if coordinates is None else np.asarray(coordinates[i]) for i, n in enumerate(right.shape[:-2])]
    if len(axes) == 3:
        right, guess, axes = right[:, :, right.shape[2] // 2], guess[:, :, guess.shape[2] // 2], axes[:2]
    frames = _Frames(right, guess, axes, channels)
    labels = [_label(title, t, right.shape[-2], times, given) for t in range(right.shape[-2])]
    bar = tqdm(labels, desc="film", unit="frame", disable=not progress, leave=False)
    return write_film(path, frames.drawn(bar), frames.ramps(), rate=rate)


@dataclass
class _Frames:
    """Draws one frame after another into the same figure."""

    truth: np.ndarray
    prediction: np.ndarray
    axes: Sequence[np.ndarray]
    channels: Sequence[str]

    def drawn(self, labels: Any) -> Iterator[np.ndarray]:
        """A frame `[height, width, 3]` for each of the labels."""
        figure, panels = new_figure(len(self.channels), 3, size=(3.2, self._height()), sharex=True)
        heading = figure.suptitle(" ", fontsize=11)
        draw = self._lines if len(self.axes) == 1 else self._images
        updates = [update for v in range(len(self.channels)) for update in draw(figure, panels[v], v)]
        for i, name in enumerate(_TITLES):
            panels[0, i].set_title(name)
        canvas: Any = figure.canvas
        for t, label in enumerate(labels):
            heading.set_text(label)
            for show, values in updates:
                show(values[t])
            canvas.draw()
            figure.set_layout_engine("none")  # what has found its place stays there
            yield np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def ramps(self) -> list[np.ndarray]:
        """The colours of the film."""
        if len(self.axes) == 1:
            return [_blend(colour, 36) for colour in (INK, FAINT, *HUES[:2], "#000000")]
        import matplotlib

        maps = [matplotlib.colormaps[name](np.linspace(0, 1, 104))[:, :3] * 255 for name in _MAPS]
        return [*maps, _blend(INK, 48)]

    def _height(self) -> float:
        """Of a row, so that images fill it."""
        if len(self.axes) == 1:
            return 2.6
        wide, high = (float(x[-1] - x[0]) for x in self.axes)
        return min(max(2.55 * high / wide, 1.2), 5.0) + 0.5 / len(self.channels)

    def _lines(self, figure: "Figure", row: Any, v: int) -> _Updates:
        x, (low, high), most = self.axes[0], _widened(self.truth[..., v]), self._most(v)
        truth, prediction = self.truth[..., v].T, self.prediction[..., v].T
        kinds = ((truth, INK), (prediction, HUES[0]), (prediction - truth, HUES[1]))
        updates: _Updates = []
        for i, (axis, (values, colour)) in enumerate(zip(row, kinds, strict=True)):
            if i == 1:
                (behind,) = axis.plot(x, truth[0], color=FAINT, linewidth=3.0)
                updates.append((behind.set_ydata, truth))
            (line,) = axis.plot(x, values[0], color=colour)
            axis.set(xlim=(x[0], x[-1]), ylim=(-1.05 * most, 1.05 * most) if i == 2 else (low, high))
            updates.append((line.set_ydata, values))
        self._name(row, v)
        return updates

    def _images(self, figure: "Figure", row: Any, v: int) -> _Updates:
        limits, most = _widened(self.truth[..., v], share=0.0), self._most(v)
        steps = [(x[1] - x[0]) / 2 for x in self.axes]
        extent = [end for x, h in zip(self.axes, steps, strict=True) for end in (x[0] - h, x[-1] + h)]
        truth, prediction = self.truth[..., v].T, self.prediction[..., v].T  # [T, Y, X]
        kinds = ((truth, *limits), (prediction, *limits), (prediction - truth, -most, most))
        updates: _Updates = []
        for i, (axis, (values, low, high)) in enumerate(zip(row, kinds, strict=True)):
            image = axis.imshow(
                values[0], origin="lower", extent=extent, interpolation="nearest", cmap=_MAPS[i == 2], vmin=low,
                vmax=high,
            )  # fmt: skip
            axis.grid(False)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            updates.append((image.set_data, values))
            if i:
                figure.colorbar(image, ax=axis if i == 2 else list(row[:2]), shrink=0.9, pad=0.02)
        self._name(row, v)
        return updates

    def _name(self, row: Any, v: int) -> None:
        if len(self.channels) > 1:
            row[0].set_ylabel(self.channels[v])

    def _most(self, v: int) -> float:
        return float(np.abs(self.prediction[..., v] - self.truth[..., v]).max()) or 1.0


def _blend(colour: str, count: int) -> np.ndarray:
    """From a colour to white: what smooth edges of it are drawn with."""
    from matplotlib.colors import to_rgb

    share = np.linspace(0, 1, count)[:, None]
    return 255 * (share + (1 - share) * np.array(to_rgb(colour)))


def _widened(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """The range of values, a little wider; never empty."""
    low, high = float(values.min()), float(values.max())
    room = share * (high - low) if high > low else 0.5 * max(abs(low), 1.0)
    return low - room, high + room


def _label(title: str, t: int, count: int, times: Sequence[float] | None, given: int) -> str:
    parts = [title] if title else []
    if count > 1:
        parts.append(f"frame {t:0{len(str(count - 1))}} of {count - 1}")
    if count > 1 and times is not None:
        parts.append(f"time {float(times[t]):.3g}")
    return ", ".join(parts) + (" (given)" if t < given else "")


def _check(
    right: np.ndarray, guess: np.ndarray, channels: Sequence[str], coordinates: Any, times: Any, given: int, rate: float
) -> None:
    if right.shape != guess.shape or right.ndim not in (3, 4, 5) or not right.size:
        raise InputError(
            f"truth and prediction must both have shape [X[, Y[, Z]], T, V], got {list(right.shape)} and "
            f"{list(guess.shape)}"
        )
    *space, count, width = right.shape
    if len(channels) != width:
        raise InputError(f"`channels` must be {width} names, one for each channel, got {list(channels)}")
    if min(space) < 2:
        raise InputError(f"a film needs 2 points or more along each axis, got {space}")
    if coordinates is not None and [len(x) for x in coordinates] != space:
        raise InputError(f"`coordinates` must be {space} places along the axes, got {[len(x) for x in coordinates]}")
    if times is not None and len(times) != count:
        raise InputError(f"`times` must be one for each of the {count} frames, got {len(times)}")
    if not 0 <= given <= count:
        raise InputError(f"`given` must be from 0 to the {count} frames there are, got {given}")
    if not 0 < rate <= 50:
        raise InputError(f"`rate` must be above 0 and at most 50 frames a second, got {rate}")
    for what, values in (("truth", right), ("prediction", guess)):
        if not np.isfinite(values).all():
            frame = int(np.flatnonzero(~np.isfinite(values).all(axis=(*range(len(space)), -1)))[0])
            raise InputError(f"{what} is NaN or infinite, first in frame {frame}: there is nothing to draw")
