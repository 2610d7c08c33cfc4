"""One mesh, several models: truth and predictions in the same colours, the errors of all in the same colours below."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.metrics import relative_l2
from flare_connect.viz.camera import Layout, is_size, plan, read_view
from flare_connect.viz.panel import Panel, colours_of, draw_panel, number, range_line
from flare_connect.viz.render import finished, new_plotter, oversampling, picture_path
from flare_connect.viz.surface import build_surface, clip_plane, drawn_cells, used_nodes
from flare_connect.viz.values import Values, limits, resolve, scalar


def plot_worst(
    mesh: Mesh,
    truth: Any,
    predictions: Mapping[str, Any],
    *,
    name: str | None = None,
    truth_title: str = "truth",
    errors: bool = True,
    component: int | None = None,
    units: str | None = None,
    clim: Literal["robust"] | tuple[float, float] | None = None,
    colormap: str = "viridis",
    error_colormap: str = "magma_r",
    show_edges: bool | None = None,
    save: str | Path | None = None,
    size: tuple[int, int] | None = None,
    view: Any = None,
    clip: Any = None,
) -> Any:
    """Draws the truth and each model's prediction in a row, and the errors in a second row beneath the predictions.

    All panels of a row share colour limits: the truth's range, and 0 to the largest error of any model. Titles give
    each model's relative L2 error over the nodes (or cells), as `plot_field` does. On a mesh more than three times as
    wide as high rows are columns.

    Args:
        mesh: the mesh, N nodes.
        truth: values at nodes `[N]` or `[N, c]`, values on cells, cell kind → values, or a field's name.
        predictions: name of the model → the same for what it predicts; drawn in this order.
        name: what to call the field; by default its name on the mesh.
        truth_title: what to call the truth, above its panel.
        errors: draw the second row; without it the titles alone tell the errors.
        component: draw this component of a vector, 0 to c − 1; by default magnitudes, and magnitudes of differences.
        units: unit of the field; by default the one on the mesh.
        clim: colour limits of the first row, as in `plot_field`; "robust" holds for the errors, too.
        colormap: matplotlib's name of the colours of the field.
        error_colormap: the same for the errors.
        show_edges: draw the cells' edges; by default where they are few.
        save: picture to write (png, jpg, tif, webp or pdf, as pixels); no window opens.
        size: width and height of the picture in pixels.
        view: as in `plot_field`.
        clip: as in `plot_field`.

    Returns:
        The path written, or without `save` a `pyvista.Plotter` on which to call `show()`.

    Raises:
        InputError: there is no prediction, a field is unknown, has the wrong length or values that are not finite, or
            an argument is wrong.
        RenderError: this machine cannot draw.

    Good values: `clim="robust"` where a stress peaks at a corner; at most four models side by side.
    """
    path = None if save is None else picture_path(save)
    if not predictions:
        raise InputError("there is no prediction to draw: give at least one, name of the model → field")
    grid = mesh.to_pyvista()
    grid.clear_data()
    drawn, dim = drawn_cells(grid)
    right = resolve(mesh, truth, "truth", drawn)
    right = replace(
        right,
        name=name or (truth if isinstance(truth, str) else "field"),
        unit=units if units is not None else right.unit,
    )
    guesses = {model: resolve(mesh, field, model, drawn) for model, field in predictions.items()}
    used = used_nodes(grid, drawn)
    keep = used if right.place == "point" else np.flatnonzero(drawn)
    rows = _rows(right, guesses, keep, component, mesh.dim, clim, (colormap, error_colormap), truth_title)
    rows = rows if errors else rows[:1]
    looking = read_view(view, np.asarray(grid.points)[used])
    data = grid.point_data if right.place == "point" else grid.cell_data
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            if panel is not None:
                data[f"panel{i}-{j}"] = panel.array
    surface = build_surface(grid, drawn, dim, clip=clip_plane(clip, looking.direction))
    extent = np.ptp(looking.flat(np.asarray(surface.faces.points)), axis=0)
    if errors:
        layout, upright = _two_rows(len(guesses) + 1, extent, size)
    else:
        layout = plan(len(guesses) + 1, extent, size, header_lines=2, bar=True)
        upright = layout.shape[1] == 1
    for panel in (row[-1] for row in rows):
        if panel is not None:
            panel.colours.table()  # an unknown colour map is an error before a window exists
    finer = oversampling(layout.size) if path else 1
    layout = layout.finer(finer)
    plotter = new_plotter(layout.shape, layout.size, off_screen=path is not None)
    edges = surface.has_few_cells if show_edges is None else show_edges
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            if panel is not None:
                plotter.subplot(*((j, i) if upright else (i, j)))
                draw_panel(plotter, layout, looking, surface, f"panel{i}-{j}", panel, edges=edges)
    return finished(plotter, path, reduce=finer)


def _rows(
    right: Values,
    guesses: Mapping[str, Values],
    keep: np.ndarray,
    component: int | None,
    dim: int,
    clim: Any,
    colormaps: tuple[str, str],
    truth_title: str,
) -> list[list[Panel | None]]:
    """Works out both rows; the place beneath the truth stays empty. `keep` are the nodes or cells that are seen."""
    for model, guess in guesses.items():
        if guess.array.shape != right.array.shape or guess.place != right.place:
            raise InputError(
                f"truth has shape {list(right.array.shape)} at {right.place}s but the prediction of {model!r} "
                f"{list(guess.array.shape)} at {guess.place}s"
            )
    true, quantity = scalar(right, component, dim)
    shared = limits(true[keep], clim)
    colours, array = colours_of(true, keep, shared, colormaps[0], quantity, right.unit, clim)
    above: list[Panel | None] = [Panel(title=truth_title, line=range_line(true[keep]), array=array, colours=colours)]
    errors = {}
    for model, guess in guesses.items():
        shown = scalar(guess, component, dim)[0]
        pair = (guess.array, right.array) if component is None else (shown[:, None], true[:, None])
        errors[model] = np.linalg.norm(pair[0] - pair[1], axis=1)
        ratio = relative_l2(*(torch.from_numpy(field[keep]) for field in pair))
        text = number(ratio) if np.isfinite(ratio) else "undefined (truth is 0)"
        colours, array = colours_of(shown, keep, shared, colormaps[0], quantity, right.unit, clim)
        above.append(
            Panel(title=f"{model}: rel. L2 {text}", line=range_line(shown[keep]), array=array, colours=colours)
        )
    every = np.concatenate([error[keep] for error in errors.values()])
    shared = limits(every, "robust" if clim == "robust" else None, from_zero=True)
    below: list[Panel | None] = [None]
    for model, error in errors.items():
        colours, array = colours_of(error, keep, shared, colormaps[1], f"error of {quantity}", right.unit, clim)
        largest = number(float(error[keep].max())) + (f" {right.unit}" if right.unit else "")
        below.append(Panel(title=f"error of {model}", line=f"max {largest}", array=array, colours=colours))
    return [above, below]


def _two_rows(count: int, extent: np.ndarray, size: Any) -> tuple[Layout, bool]:
    """Panels for two rows of `count`, or two columns where `plan` puts one row into a column; and whether it did."""
    one = plan(count, extent, None, header_lines=2, bar=True)
    rows, columns = (count, 2) if one.shape[1] == 1 else (2, count)
    wide, high = columns // one.shape[1], rows // one.shape[0]
    if size is not None:
        half = (size[0] // wide, size[1] // high) if is_size(size) else size
        try:
            one = plan(count, extent, half, header_lines=2, bar=True)
        except InputError:
            raise InputError(
                f"size must be two integers (width, height) that leave {rows} × {columns} panels at least 160 × 200 "
                f"pixels each, got {size!r}"
            ) from None
    return replace(one, shape=(rows, columns), size=(one.size[0] * wide, one.size[1] * high)), wide == 2
