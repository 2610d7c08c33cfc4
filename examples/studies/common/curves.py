"""Curves as SVG, a few lines of text each: no library is needed where a study runs."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from rows import Row

from flare_connect.files import write_atomically

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#777777", "#cc79a7", "#e69f00", "#56b4e9")
_PLOT, _HEIGHT, _LEFT, _TOP, _BOTTOM = 490, 360, 62, 34, 44
_LETTER, _LEAST_LEGEND = 6.5, 150


def draw(
    path: Path, curves: Mapping[str, Sequence[float]], *, title: str, x: str, y: str, first: int = 0,
    mark: int | None = None, marked: str = "",
) -> None:  # fmt: skip
    """Curves over whole numbers, on a logarithmic scale.

    Args:
        path: of the file.
        curves: name → values; what is not a positive number is left out.
        title: above.
        x: what the numbers count.
        y: what the values are.
        first: number of the first value.
        mark: number at which a vertical line stands.
        marked: what it says.
    """
    width = _PLOT + max(_LEAST_LEGEND, round(44 + _LETTER * max(map(len, curves), default=0)))
    known = [v for values in curves.values() for v in values if _drawable(v)]
    low = math.floor(math.log10(min(known))) if known else -1
    high = max(low + 1, math.ceil(math.log10(max(known)))) if known else 0
    last = first + max((len(values) for values in curves.values()), default=2) - 1

    def across(number: float) -> float:
        return _LEFT + (number - first) / max(1, last - first) * (_PLOT - _LEFT)

    def up(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_PLOT / 2 + 35, 18, title, "middle"), _text(across((first + last) / 2), _HEIGHT - 8, x, "middle")]
    parts.append(_text(4, _TOP - 8, y, "start"))
    for exponent in range(low, high + 1):
        height = up(10.0**exponent)
        parts += [_line(_LEFT, height, _PLOT, height, "#dddddd")]
        parts += [_text(_LEFT - 6, height + 4, f"{10.0**exponent:g}", "end")]
    for number in sorted({first, last, *(n for n in range(first, last) if n % _step(last - first) == 0)}):
        parts.append(_text(across(number), _HEIGHT - _BOTTOM + 16, str(number), "middle"))
    if mark is not None:
        parts.append(_line(across(mark), _TOP, across(mark), _HEIGHT - _BOTTOM, "#aaaaaa", ' stroke-dasharray="4 3"'))
        parts.append(_text(across(mark) + 4, _TOP + 12, marked, "start"))
    for i, (name, values) in enumerate(curves.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        points = " ".join(
            f"{across(first + n):.1f},{up(value):.1f}" for n, value in enumerate(values) if _drawable(value)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = 48 + 20 * i
        line = _line(_PLOT + 10, height, _PLOT + 30, height, colour, ' stroke-width="2"')
        parts += [line, _text(_PLOT + 36, height + 4, name, "start")]
    font = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" {font}>'
    body = "\n".join([head, f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>', *parts, "</svg>"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{body}\n".encode())


def medians(rows: Iterable[Row], key: str) -> dict[str, list[float]]:
    """Model → the median over its rows, number by number, of a list that each has: a failed seed is no line."""
    lines: dict[str, list[list[float]]] = {}
    for row in rows:
        lines.setdefault(row["model"], []).append(row[key])
    return {model: [statistics.median(values) for values in zip(*each, strict=True)] for model, each in lines.items()}


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _step(span: int) -> int:
    """Between the numbers that are written."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if span / step <= 8)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
