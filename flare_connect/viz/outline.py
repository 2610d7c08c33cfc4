"""The mesh itself: cells, boundary, parts that are not connected."""

from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.mesh import Mesh
from flare_connect.viz.camera import plan, read_view
from flare_connect.viz.panel import aim, draw_surface, draw_text
from flare_connect.viz.render import new_plotter, oversampling, picture_path, write_picture
from flare_connect.viz.surface import build_surface, clip_plane, drawn_cells, used_nodes

# light enough for edges to be seen on them, told apart by colour-blind eyes (Okabe and Ito, lightened)
_PARTS = ("#dbe7f3", "#f6d9b0", "#bfe3d3", "#efc3d3", "#f5efb5", "#cfd2ee", "#e2c9b8", "#cfe8ee")
_BOUNDARY = "#c2370c"


def plot_mesh(
    mesh: Mesh,
    save: str | Path | None = None,
    *,
    title: str | None = None,
    show_edges: bool = True,
    size: tuple[int, int] | None = None,
    view: Any = None,
    clip: Any = None,
) -> Any:
    """Draws a mesh: cells with their edges, the boundary (sharp edges of solids), each connected part in a colour.

    Args:
        mesh: the mesh.
        save: picture to write (png, jpg, tif, webp or pdf, as pixels); no window opens.
        title: title of the picture.
        show_edges: draw the cells' edges.
        size: width and height of the picture in pixels.
        view: as in `plot_field`.
        clip: as in `plot_field`.

    Returns:
        The path written, or without `save` a `pyvista.Plotter` on which to call `show()`.

    Raises:
        InputError: an argument is wrong.
        RenderError: this machine cannot draw.
    """
    path = None if save is None else picture_path(save)
    grid = mesh.to_pyvista()
    grid.clear_data()
    drawn, dim = drawn_cells(grid)
    part = mesh.component.cpu().numpy()
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _PARTS], dtype=np.uint8)
    first = np.concatenate([nodes[:, 0].cpu().numpy() for nodes in mesh.cells.values()])
    grid.cell_data["rgb"] = palette[part[first] % len(palette)]
    looking = read_view(view, np.asarray(grid.points)[used_nodes(grid, drawn)])
    surface = build_surface(grid, drawn, dim, clip=clip_plane(clip, looking.direction))
    extent = np.ptp(looking.flat(np.asarray(surface.faces.points)), axis=0)
    layout = plan(1, extent, size, header_lines=2, bar=False)
    finer = oversampling(layout.size) if path else 1
    layout = layout.finer(finer)
    plotter = new_plotter(layout.shape, layout.size, off_screen=path is not None)
    draw_surface(plotter, layout, looking, surface, "rgb", None, edges=show_edges, boundary=_BOUNDARY)
    counts = [f"{mesh.num_nodes:,} nodes", f"{int(drawn.sum()):,} cells"]
    if mesh.num_components > 1:
        counts.append(f"{mesh.num_components} parts")
    draw_text(plotter, layout, title or "mesh", [",  ".join(counts)])
    aim(plotter, looking, layout, surface)
    return plotter if path is None else write_picture(plotter, path, reduce=finer)
