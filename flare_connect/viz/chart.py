"""What charts share: a figure without a window, its style, and files that are either whole or not there.

Matplotlib is imported by the first chart, not by this module.
"""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from flare_connect.files import replacing

from .render import PICTURE_FORMATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#b5bcc4"
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
"""Colours of channels, told apart by all eyes (after Okabe and Ito), in turn."""

_LETTERS = 12.0  # to an inch, of a title or a legend
_STYLE = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "svg.hashsalt": "flare_connect",
}


def hue(number: int) -> str:
    """Colour of a channel."""
    return HUES[number % len(HUES)]


def new_figure(rows: int, columns: int, *, size: tuple[float, float], **options: Any) -> tuple["Figure", Any]:
    """A figure and its axes `[rows, columns]`.

    Args:
        rows: of panels.
        columns: of panels.
        size: width and height of a panel in hundreds of pixels.
        options: of `Figure.subplots`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(columns * size[0], rows * size[1]), dpi=100, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend_below(figure: "Figure", styles: Mapping[str, Mapping[str, Any]]) -> None:
    """One legend for all panels, beneath them: text → style of its line."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=text, **style) for text, style in styles.items()]
    width, needed = figure.get_figwidth(), [0.6 + len(text) / _LETTERS for text in styles]  # of a line, gaps and text
    columns = min(len(handles), 6)
    while columns > 1 and sum(sorted(needed)[-columns:]) > width:
        columns -= 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def title_above(figure: "Figure", title: str) -> None:
    """One title for all panels, in as many lines as it takes."""
    if title:
        figure.suptitle(fill(title, round(figure.get_figwidth() * _LETTERS)), fontsize=11)


def finished_figure(figure: "Figure", path: Path | None) -> Any:
    """What a function that draws a chart returns: the path, once it is written; without one the figure."""
    if path is None:
        return figure
    suffix = path.suffix.lower()
    kind = "pdf" if suffix == ".pdf" else PICTURE_FORMATS[suffix].lower()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)
    return path
