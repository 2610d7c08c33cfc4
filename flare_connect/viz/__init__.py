"""Pictures of meshes and of fields on them, files for ParaView; charts and films of rollouts on regular grids.

PyVista and matplotlib are imported by the first picture, not by this module: a machine that only trains needs no
renderer.
"""

from flare_connect.viz.curves import plot_curves
from flare_connect.viz.export import save_fields
from flare_connect.viz.field import plot_field
from flare_connect.viz.movie import save_movie
from flare_connect.viz.outline import plot_mesh
from flare_connect.viz.render import RenderError
from flare_connect.viz.series import save_series
from flare_connect.viz.spectrum import plot_spectra
from flare_connect.viz.topology import plot_topology
from flare_connect.viz.worst import plot_worst

__all__ = [
    "plot_field",
    "plot_mesh",
    "plot_topology",
    "plot_worst",
    "save_fields",
    "save_series",
    "plot_curves",
    "plot_spectra",
    "save_movie",
    "RenderError",
]
