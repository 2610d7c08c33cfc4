"""Fields on a mesh: one panel, or truth, prediction and error side by side."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.viz.camera import plan, read_view
from flare_connect.viz.panel import Panel, colours_of, draw_panel, number, range_line
from flare_connect.viz.render import finished, new_plotter, oversampling, picture_path
from flare_connect.viz.surface import build_surface, clip_plane, deformation, drawn_cells, used_nodes
from flare_connect.viz.values import Values, limits, resolve, scalar


def plot_field(
    mesh: Mesh,
    prediction: Any,
    *,
    truth: Any = None,
    name: str | None = None,
    component: int | None = None,
    displacement: Any = None,
    warp: Literal["auto"] | float | None = None,
    units: str | None = None,
    title: str | None = None,
    clim: Literal["robust"] | tuple[float, float] | None = None,
    colormap: str = "viridis",
    error_colormap: str = "magma_r",
    show_edges: bool | None = None,
    save: str | Path | None = None,
    size: tuple[int, int] | None = None,
    view: Any = None,
    clip: Any = None,
) -> Any:
    """Draws a field on a mesh; with the truth, three panels: truth, prediction, absolute error.

    Truth and prediction share colour limits, which come from the truth; values beyond them by more than 2 % of the
    range have colours of their own, shown as boxes at the bar's ends. The error panel gives

        relative L2 error = ‖prediction − truth‖₂ / ‖truth‖₂

    over the nodes (or cells), each counted once, and the largest error. Vectors are drawn as magnitudes ‖u‖, and their
    error is ‖u_prediction − u_truth‖, so that a wrong direction counts. Solids are drawn by their outer surface.

    Args:
        mesh: the mesh, N nodes.
        prediction: values at nodes `[N]` or `[N, c]`, values on cells `[num_cells]` or `[num_cells, c]`, cell kind →
            values, or the name of a field of the mesh. Where N equals the number of cells: at nodes.
        truth: the same for what is right, or None.
        name: what to call the field; by default its name on the mesh.
        component: draw this component of a vector, 0 to c − 1.
        displacement: `[N, dim]`, or a field's name, in units of the positions: all panels show the deformed shape, with
            the undeformed outline.
        warp: factor of the displacement; "auto" (and None) shows the largest as 6.5 % of the mesh's length scale.
        units: unit of the field; by default the one on the mesh.
        title: title of the picture; with three panels it precedes each one's.
        clim: colour limits: None takes the range, "robust" the 1st to 99th percentiles (the rest takes the end
            colours), or (lo, hi).
        colormap: matplotlib's name of the colours of the field.
        error_colormap: the same for the error, whose limits start at 0.
        show_edges: draw the cells' edges; by default where they are few.
        save: picture to write (png, jpg, tif, webp or pdf, as pixels); no window opens.
        size: width and height of the picture in pixels; by default 600 × 650 a panel or what the mesh's shape needs.
        view: "xy", "xz", "yz", "iso" or a direction towards the viewer `[3]`; by default "xy" if flat, else "iso".
        clip: cut the mesh open: "x", "y" or "z" through its centre, the half towards the viewer removed, or
            (normal `[3]`, origin `[3]`), the side the normal points at removed.

    Returns:
        The path written, or without `save` a `pyvista.Plotter` on which to call `show()`.

    Raises:
        InputError: a field is unknown, has the wrong length or values that are not finite, or an argument is wrong.
        RenderError: this machine cannot draw.

    Good values:
        `clim="robust"` where a stress peaks at a corner; `colormap="RdBu_r"` with symmetric limits for signed fields.
    """
    path = None if save is None else picture_path(save)
    grid = mesh.to_pyvista()
    grid.clear_data()
    drawn, dim = drawn_cells(grid)
    field = resolve(mesh, prediction, "prediction" if truth is not None else "field", drawn)
    right = None if truth is None else resolve(mesh, truth, "truth", drawn)
    used = used_nodes(grid, drawn)
    panels = _panels(
        field,
        right,
        keep=used if field.place == "point" else np.flatnonzero(drawn),
        label=name or _label(prediction, truth),
        component=component,
        dim=mesh.dim,
        unit=units if units is not None else field.unit or (right.unit if right else ""),
        clim=clim,
        colormaps=(colormap, error_colormap),
        title=title,
    )
    shift, factor = deformation(mesh, displacement, warp)
    looking = read_view(view, np.asarray(grid.points)[used])
    for i, panel in enumerate(panels):
        (grid.point_data if field.place == "point" else grid.cell_data)[f"panel{i}"] = panel.array
    surface = build_surface(grid, drawn, dim, shift=shift, clip=clip_plane(clip, looking.direction))

    notes = [] if shift is None else [f"deformation × {number(factor)}"]
    points = [np.asarray(part.points) for part in (surface.faces, surface.undeformed) if part is not None]
    extent = np.ptp(looking.flat(np.concatenate(points)), axis=0)
    layout = plan(len(panels), extent, size, header_lines=2 + len(notes), bar=True)
    for panel in panels:
        panel.colours.table()  # an unknown colour map is an error before a window exists
    finer = oversampling(layout.size) if path else 1
    layout = layout.finer(finer)
    plotter = new_plotter(layout.shape, layout.size, off_screen=path is not None)
    edges = surface.has_few_cells if show_edges is None else show_edges
    for i, panel in enumerate(panels):
        plotter.subplot(*((i, 0) if layout.shape[1] == 1 else (0, i)))
        draw_panel(plotter, layout, looking, surface, f"panel{i}", panel, notes, edges=edges)
    return finished(plotter, path, reduce=finer)


def _panels(
    field: Values,
    right: Values | None,
    *,
    keep: np.ndarray,
    label: str,
    component: int | None,
    dim: int,
    unit: str,
    clim: Any,
    colormaps: tuple[str, str],
    title: str | None,
) -> list[Panel]:
    """Works out the panels; `keep` are the ids of the nodes or cells that are seen, over which limits are taken."""
    shown, _ = scalar(field, component, dim)
    quantity = scalar(Values(name=label, array=field.array[:1], place=field.place, unit=unit), component, dim)[1]
    if right is None:
        colours, array = colours_of(shown, keep, limits(shown[keep], clim), colormaps[0], quantity, unit, clim)
        return [Panel(title=title or quantity, line=range_line(shown[keep]), array=array, colours=colours)]
    if right.array.shape != field.array.shape or right.place != field.place:
        raise InputError(
            f"truth has shape {list(right.array.shape)} at {right.place}s but the prediction "
            f"{list(field.array.shape)} at {field.place}s"
        )
    true, _ = scalar(right, component, dim)
    shared = limits(true[keep], clim)
    difference = field.array - right.array if component is None else (shown - true)[:, None]
    reference = right.array if component is None else true[:, None]
    error = np.linalg.norm(difference, axis=1)
    size = float(np.linalg.norm(reference[keep]))
    relative = number(float(np.linalg.norm(difference[keep])) / size) if size else "undefined (truth is 0)"
    suffix = f" {unit}" if unit else ""
    before = f"{title}: " if title else ""
    panels = []
    for heading, array in (("truth", true), ("prediction", shown)):
        colours, drawn = colours_of(array, keep, shared, colormaps[0], quantity, unit, clim)
        panels.append(Panel(title=before + heading, line=range_line(array[keep]), array=drawn, colours=colours))
    of_error = limits(error[keep], "robust" if clim == "robust" else None, from_zero=True)
    colours, drawn = colours_of(error, keep, of_error, colormaps[1], f"error of {quantity}", unit, clim)
    line = f"relative L2 error {relative},  max {number(float(error[keep].max()))}{suffix}"
    panels.append(Panel(title=before + "absolute error", line=line, array=drawn, colours=colours))
    return panels


def _label(prediction: Any, truth: Any) -> str:
    return next((value for value in (truth, prediction) if isinstance(value, str)), "field")
