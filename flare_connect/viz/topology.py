"""What the mesh module knows of a mesh, as a picture: boundary parts, clusters around anchors, one cost, thickness."""

import colorsys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, MeshCache, anchors, clusters, diffusion_cost, local_thickness
from flare_connect.mesh.arrays import host
from flare_connect.viz.camera import plan, read_view
from flare_connect.viz.panel import Colours, aim, draw_bar, draw_surface, draw_text, number
from flare_connect.viz.render import finished, new_plotter, oversampling, picture_path
from flare_connect.viz.surface import build_surface, clip_plane, drawn_cells, used_nodes

_INNER = np.array([232, 234, 238], dtype=np.uint8)


def plot_topology(
    mesh: Mesh,
    *,
    num_anchors: int = 32,
    scale: float = 60.0,
    save: str | Path | None = None,
    size: tuple[int, int] | None = None,
    view: Any = None,
    clip: Any = None,
    cache: MeshCache | None = None,
) -> Any:
    """Draws four panels: the parts of the boundary, clusters around anchors, one diffusion cost, local thickness.

    A mesh of several connected parts has a fifth panel, which comes first and shows these.

    A colour that stops at a slit or goes round a hole shows that the mesh is connected as you think it is; one that
    does not shows where nodes should have been merged, or should not.

    Args:
        mesh: the mesh.
        num_anchors: M, anchors and clusters; fewer on a mesh of fewer nodes.
        scale: κ of the cost from the first anchor, see `diffusion_cost`.
        save: picture to write (png, jpg, tif, webp or pdf); no window opens.
        size: width and height of the picture in pixels.
        view: as in `plot_field`.
        clip: as in `plot_field`.
        cache: where to keep what is computed, for the next time.

    Returns:
        The path written, or without `save` a `pyvista.Plotter` on which to call `show()`.

    Raises:
        InputError: an argument is wrong.
        RenderError: this machine cannot draw.
    """
    path = None if save is None else picture_path(save)
    if num_anchors < 1:
        raise InputError(f"`num_anchors` must be at least 1, got {num_anchors}")
    call = _call if cache is None else cache
    chosen, _ = call(anchors, mesh, min(num_anchors, int((mesh.component >= 0).sum())))
    cost = host(call(diffusion_cost, mesh, chosen[:1], scales=(scale,))[:, 0, 0])
    thickness = host(call(local_thickness, mesh))
    cells = host(call(clusters, mesh, chosen))
    label = mesh.boundary_component.cpu().numpy()
    topology = mesh.topology
    loops, cavities = topology.betti[1:]
    counts = f"parts: {topology.num_boundary_components}; loops: {loops}; cavities: {cavities}"
    arrays: list[tuple[str, str, np.ndarray, Colours | None]] = [
        ("boundary", counts, _categories(label), None),
        ("clusters", f"anchors: {len(chosen)}", _categories(cells), None),
        ("diffusion cost", f"from the first anchor, κ = {number(scale)}", *_coloured(cost, "cost")),
        ("local thickness", "along the mesh", *_coloured(thickness, "thickness")),
    ]
    if mesh.num_components > 1:
        arrays.insert(0, ("connected parts", str(mesh.num_components), _categories(host(mesh.component)), None))
    grid = mesh.to_pyvista()
    grid.clear_data()
    drawn, dim = drawn_cells(grid)
    for i, (_, _, array, _) in enumerate(arrays):
        grid.point_data[f"panel{i}"] = array
    looking = read_view(view, np.asarray(grid.points)[used_nodes(grid, drawn)])
    surface = build_surface(grid, drawn, dim, shift=None, clip=clip_plane(clip, looking.direction))
    extent = np.ptp(looking.flat(np.asarray(surface.faces.points)), axis=0)
    layout = plan(len(arrays), extent, size, header_lines=2, bar=True)
    finer = oversampling(layout.size) if path else 1
    layout = layout.finer(finer)
    plotter = new_plotter(layout.shape, layout.size, off_screen=path is not None)
    for i, (title, line, _, colours) in enumerate(arrays):
        plotter.subplot(*((i, 0) if layout.shape[1] == 1 else (0, i)))
        draw_surface(plotter, layout, looking, surface, f"panel{i}", colours, edges=False)
        if title == "boundary" and dim < 3:
            towards = looking.direction * 3e-3 * mesh.length_scale  # in front of the outline
            _draw_facets(plotter, mesh, label, towards, 3.5 * layout.scale)
        if title == "clusters":
            _draw_anchors(plotter, np.asarray(grid.points)[chosen.cpu().numpy()], 7 * layout.scale)
        draw_text(plotter, layout, title, [line])
        if colours is not None:
            draw_bar(plotter, layout, colours)
        aim(plotter, looking, layout, surface)
    return finished(plotter, path, reduce=finer)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _coloured(values: np.ndarray, label: str) -> tuple[np.ndarray, Colours]:
    """Values with nothing where there is no way, and their colours."""
    shown = np.where(np.isfinite(values), values, np.nan)
    high = float(np.nanmax(shown)) if np.isfinite(values).any() else 1.0
    return shown, Colours(colormap="viridis", limits=(0.0, high or 1.0), label=label)


def _categories(numbers: np.ndarray) -> np.ndarray:
    """A colour for each number `[N, 3]`; neighbours in number are far apart in hue, −1 is grey."""
    golden = 0.61803398875  # steps of the golden ratio never come close to one another
    wheel = [colorsys.hsv_to_rgb((0.6 + golden * i) % 1.0, 0.55 + 0.3 * (i % 2), 0.9 - 0.25 * (i % 3 == 2))
             for i in range(int(numbers.max(initial=-1)) + 1)]  # fmt: skip
    table = np.concatenate([np.array(wheel).reshape(-1, 3) * 255, _INNER[None]]).astype(np.uint8)
    return table[numbers]


def _draw_facets(plotter: Any, mesh: Mesh, label: np.ndarray, towards: np.ndarray, width: float) -> None:
    """The boundary of a planar mesh or a surface, as thick lines in the colours of its parts."""
    import pyvista as pv

    points = np.pad(mesh.pos.cpu().numpy(), ((0, 0), (0, 3 - mesh.dim)))
    ends = [nodes.cpu().numpy()[:, :2] for kind, nodes in mesh.boundary_facets.items() if kind.startswith("line")]
    if not ends:
        return
    segments = np.concatenate(ends)
    segments = segments[(label[segments] >= 0).all(1)]
    data = pv.PolyData(points, lines=np.insert(segments, 0, 2, axis=1).reshape(-1))
    data.cell_data["colour"] = _categories(label[segments[:, 0]])
    actor = plotter.add_mesh(
        data, scalars="colour", rgb=True, line_width=width, lighting=False, reset_camera=False, name="boundary-parts"
    )
    actor.position = towards


def _draw_anchors(plotter: Any, points: np.ndarray, width: float) -> None:
    plotter.add_points(
        points, color="black", point_size=width, render_points_as_spheres=True, reset_camera=False, name="anchors"
    )
