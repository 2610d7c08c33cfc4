"""One panel of a picture: mesh, titles, colour bar."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import InputError
from flare_connect.viz.camera import Layout, View, frame
from flare_connect.viz.surface import Surface

INK = "#222222"
BELOW, ABOVE = "#c9cfd6", "#e2401f"
"""Colours of values below and above the limits; neither occurs in the colour maps used here."""

_TITLE, _SMALL = 25, 18  # letters, pixels at scale 1


@dataclass(frozen=True, kw_only=True)
class Colours:
    """How numbers become colours.

    Args:
        colormap: matplotlib's name.
        limits: values at the two ends.
        label: quantity and unit beneath the bar.
        below: whether values below the limits have a colour of their own.
        above: the same above.
    """

    colormap: str
    limits: tuple[float, float]
    label: str
    unit: str = ""
    below: bool = False
    above: bool = False

    def table(self) -> Any:
        """Returns the `pyvista.LookupTable`.

        Raises:
            InputError: there is no such colour map.
        """
        import pyvista as pv

        try:
            table = pv.LookupTable(self.colormap, n_values=256)
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"colour map {self.colormap!r} is not known; good ones: viridis, cividis, plasma, magma, RdBu_r"
            ) from None
        table.scalar_range = self.limits
        if self.below:
            table.below_range_color = BELOW
        if self.above:
            table.above_range_color = ABOVE
        return table


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """What one panel shows: numbers for all nodes or cells `[n]`, their colours, and two lines of text."""

    title: str
    line: str
    array: np.ndarray
    colours: Colours


def colours_of(
    array: np.ndarray, keep: np.ndarray, ends: tuple[float, float], colormap: str, label: str, unit: str, clim: Any
) -> tuple[Colours, np.ndarray]:
    """Colours of a panel, and its values with those that may take the end colours moved onto the limits."""
    lo, hi = ends
    slack = np.inf if isinstance(clim, str) else 0.02 * (hi - lo)
    below, above = bool((array[keep] < lo - slack).any()), bool((array[keep] > hi + slack).any())
    moved = np.where((array < lo) & (array >= lo - slack), lo, array)
    moved = np.where((moved > hi) & (moved <= hi + slack), hi, moved)
    return Colours(colormap=colormap, limits=ends, label=label, unit=unit, below=below, above=above), moved


def range_line(array: np.ndarray) -> str:
    """Least and largest number, as text for a panel."""
    return f"min {number(float(array.min()))},  max {number(float(array.max()))}"


def draw_panel(
    plotter: Any,
    layout: Layout,
    view: View,
    surface: Surface,
    array: str,
    panel: Panel,
    notes: Sequence[str] = (),
    *,
    edges: bool,
) -> None:
    """Draws a panel into the current place: the mesh, coloured by the array of that name, texts and the colour bar."""
    draw_surface(plotter, layout, view, surface, array, panel.colours, edges=edges)
    draw_text(plotter, layout, panel.title, [panel.line, *notes])
    draw_bar(plotter, layout, panel.colours)
    aim(plotter, view, layout, surface)


def draw_surface(
    plotter: Any,
    layout: Layout,
    view: View,
    surface: Surface,
    array: str,
    colours: Colours | None,
    *,
    edges: bool,
    boundary: str = INK,
) -> None:
    """Draws the mesh into the current panel, coloured by an array it carries: numbers, or RGB without `colours`."""
    towards = view.direction * 1.5e-3 * float(np.linalg.norm(np.ptp(np.asarray(surface.faces.points), axis=0)))

    def lines(data: Any, name: str, width: float, opacity: float, colour: str = INK) -> None:
        if data.n_cells == 0:
            return
        actor = plotter.add_mesh(
            data,
            color=colour,
            line_width=width * layout.scale,
            opacity=opacity,
            lighting=False,
            reset_camera=False,
            show_scalar_bar=False,
            name=name,
        )
        actor.position = towards  # in front of the faces it lies on; in parallel projection nothing seems to move

    lit = "Normals" in surface.faces.point_data
    actor = plotter.add_mesh(
        surface.faces.copy(deep=False),
        scalars=array,
        cmap=colours.table() if colours else None,
        clim=colours.limits if colours else None,
        rgb=colours is None,
        show_scalar_bar=False,
        lighting=lit,
        line_width=4.0 * layout.scale,
        point_size=8.0 * layout.scale,
        render_points_as_spheres=surface.dim == 0,
        reset_camera=False,
        copy_mesh=False,
        name="mesh",
    )
    if lit:
        actor.prop.interpolation = "Phong"
        actor.prop.ambient, actor.prop.diffuse, actor.prop.specular = 0.6, 0.5, 0.0
    if surface.dim >= 2:
        if edges:
            lines(surface.edges, "edges", 0.8, 0.4)
        lines(surface.outline, "outline", 1.3 if boundary == INK else 2.2, 0.9 if surface.dim == 2 else 0.5, boundary)
    if surface.undeformed is not None:
        lines(surface.undeformed, "undeformed", 1.2, 0.7, "#7b8794")


def draw_text(plotter: Any, layout: Layout, title: str, lines: list[str]) -> None:
    """Writes the title and the smaller lines beneath it."""
    height = layout.panel[1]
    y = height - 14 * layout.scale - _TITLE * layout.scale
    _text(plotter, layout, "title", title, y, _TITLE, bold=True)
    for i, line in enumerate(lines):
        y -= 27 * layout.scale
        _text(plotter, layout, f"line{i}", line, y, _SMALL)


def draw_bar(plotter: Any, layout: Layout, colours: Colours) -> None:
    """Draws the colour bar with round numbers, and a box at either end that has a colour of its own."""
    width = layout.panel[0]
    s = layout.scale
    length = min(width - 2 * layout.side - 40 * s, 460 * s)
    x0, y0, thick = (width - length) / 2, 68 * s, 18 * s
    table = colours.table()
    rgb = np.asarray(table.values)[:, :3]
    x = x0 + length * np.arange(len(rgb) + 1) / len(rgb)
    corners = np.stack([np.stack([x, np.full_like(x, y0)], 1), np.stack([x, np.full_like(x, y0 + thick)], 1)])
    n = len(rgb) + 1
    quads = np.stack([np.arange(n - 1), np.arange(1, n), np.arange(n, 2 * n - 1) + 1, np.arange(n, 2 * n - 1)], 1)
    _overlay(plotter, layout, "bar", corners.reshape(-1, 2), quads, rgb)
    box = np.array([[0.0, 0.0], [thick, 0.0], [thick, thick], [0.0, thick]])
    for wanted, left, colour, name in (
        (colours.below, x0 - thick - 6 * s, BELOW, "below"),
        (colours.above, x0 + length + 6 * s, ABOVE, "above"),
    ):
        if wanted:
            points = box + np.array([left, y0])
            _overlay(plotter, layout, name, points, np.arange(4)[None], np.array([_rgb(colour)]))
            sign = "<" if name == "below" else ">"
            outside = left - 11 * s if name == "below" else left + thick + 11 * s
            _text(plotter, layout, f"{name}-sign", sign, y0 - 3 * s, _SMALL, x=outside)
    lo, hi = colours.limits
    ticks, power = nice_ticks(lo, hi)
    for count in (5, 4, 3, 2):  # fewer where their labels would touch
        widest = max((len(label) for label in tick_labels(ticks, power)), default=0) * 0.64 * _SMALL * s
        if len(ticks) < 2 or widest + 14 * s <= length * (ticks[1] - ticks[0]) / (hi - lo):
            break
        ticks, power = nice_ticks(lo, hi, count)
    at = x0 + length * (ticks - lo) / (hi - lo)
    marks = np.stack([np.stack([at, np.full_like(at, y0)], 1), np.stack([at, np.full_like(at, y0 - 5 * s)], 1)], 1)
    rim = np.array([[x0, y0], [x0 + length, y0], [x0 + length, y0 + thick], [x0, y0 + thick], [x0, y0]])
    segments = np.concatenate([np.stack([rim[:-1], rim[1:]], 1), marks]).reshape(-1, 2)
    _overlay(plotter, layout, "bar-lines", segments, np.arange(len(segments)).reshape(-1, 2), None)
    for i, (position, label) in enumerate(zip(at, tick_labels(ticks, power), strict=True)):
        _text(plotter, layout, f"tick{i}", label, y0 - 25 * s, _SMALL, x=float(position))
    unit = " ".join(part for part in (_power(power) if power else "", colours.unit) if part)
    _text(plotter, layout, "label", f"{colours.label} [{unit}]" if unit else colours.label, 14 * s, _SMALL)


def aim(plotter: Any, view: View, layout: Layout, surface: Surface) -> None:
    """Points the current panel's camera at everything drawn."""
    points = [np.asarray(part.points) for part in (surface.faces, surface.undeformed) if part is not None]
    frame(plotter.camera, view, layout, np.concatenate(points))
    plotter.renderer.camera_set = True


def nice_ticks(lo: float, hi: float, count: int = 6) -> tuple[np.ndarray, int]:
    """Round numbers within the limits, at most `count` steps, and the power of ten (3, −3, 6 …) to take out of them."""
    raw = (hi - lo) / count
    decade = 10.0 ** np.floor(np.log10(raw))
    step = next(decade * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if decade * m >= raw * (1 - 1e-9))
    ticks = step * np.arange(np.ceil(lo / step - 1e-6), np.floor(hi / step + 1e-6) + 1)
    ticks[np.abs(ticks) < 1e-9 * step] = 0.0
    largest = max(abs(lo), abs(hi))
    power = 0 if 1e-2 <= largest < 1e5 else int(3 * np.floor(np.log10(largest) / 3))
    return ticks, power


def tick_labels(ticks: np.ndarray, power: int) -> list[str]:
    """The ticks as text, all with the decimals that tell them apart."""
    scaled = ticks / 10.0**power
    step = abs(scaled[1] - scaled[0]) if len(scaled) > 1 else abs(scaled[0]) or 1.0
    decimals = next((d for d in range(9) if abs(round(step, d) - step) <= 1e-6 * step), 9)
    return [f"{v:.{decimals}f}".replace("-", "−") for v in scaled]


def number(value: float) -> str:
    """A number to three digits, as text for a picture."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 0 if abs(value) >= 100 else 3
        text = f"{value:.0f}" if digits == 0 else f"{value:.3g}"
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa}·{_power(int(exponent))}"
    return text.replace("-", "−")


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _text(
    plotter: Any,
    layout: Layout,
    name: str,
    text: str,
    y: float,
    size: int,
    *,
    x: float | None = None,
    bold: bool = False,
) -> None:
    """Writes text whose base line is at y pixels, centred at x (by default the panel's middle)."""
    from vtkmodules.vtkRenderingCore import vtkTextActor

    width, height = layout.panel
    letters = size * layout.scale
    if x is None:  # long titles become smaller rather than cut off; 0.6 em is a wide average letter
        letters = min(letters, (width - 12) / (0.6 * max(len(text), 1)))
    actor = vtkTextActor()
    actor.SetInput(text.replace("|", "∣").replace("$", "\\$"))  # VTK takes | for columns and $ for mathematics
    actor.SetTextScaleModeToNone()
    style = actor.GetTextProperty()
    style.SetFontFamily(4)  # from a file: VTK's own fonts lack ⁻ and Greek
    style.SetFontFile(_font(bold))
    style.SetFontSize(max(round(letters), 8))
    style.SetColor(*(v / 255 for v in _rgb(INK)))
    style.SetJustificationToCentered()
    style.SetVerticalJustificationToBottom()
    actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    actor.SetPosition((width / 2 if x is None else x) / width, y / height)
    plotter.add_actor(actor, name=name, reset_camera=False, pickable=False, render=False)


def _overlay(plotter: Any, layout: Layout, name: str, points: np.ndarray, cells: np.ndarray, rgb: Any) -> None:
    """Draws flat quads `[n, 4]` or lines `[n, 2]` over points given in the panel's pixels `[p, 2]`."""
    import pyvista as pv
    from vtkmodules.vtkRenderingCore import vtkActor2D, vtkCoordinate, vtkPolyDataMapper2D

    data = pv.PolyData()
    data.points = np.pad(points / np.array(layout.panel, dtype=float), ((0, 0), (0, 1)))
    flat = np.insert(cells, 0, cells.shape[1], axis=1).reshape(-1)
    if cells.shape[1] == 2:
        data.lines = flat
    else:
        data.faces = flat
    mapper, coordinate = vtkPolyDataMapper2D(), vtkCoordinate()
    coordinate.SetCoordinateSystemToNormalizedViewport()
    mapper.SetTransformCoordinate(coordinate)
    mapper.SetInputData(data)
    actor = vtkActor2D()
    actor.SetMapper(mapper)
    if rgb is None:
        actor.GetProperty().SetColor(*(v / 255 for v in _rgb(INK)))
        actor.GetProperty().SetLineWidth(max(1.0, layout.scale))
    else:
        data.cell_data.set_scalars(np.asarray(rgb, dtype=np.uint8), "rgb")
        mapper.SetScalarModeToUseCellData()
    plotter.add_actor(actor, name=name, reset_camera=False, pickable=False, render=False)


@cache
def _font(bold: bool) -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
