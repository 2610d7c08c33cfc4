"""Meshes, known before anything is learned: files, fields, connectivity, boundary, volumes, prepared data sets."""

from flare_connect.mesh.cells import CELL_KINDS, CellKind
from flare_connect.mesh.interpolation import cell_to_point
from flare_connect.mesh.mesh import Mesh, NamedSet
from flare_connect.mesh.parts import MeshParts
from flare_connect.mesh.prepare import prepare_meshes
from flare_connect.mesh.readers import EXTENSIONS, load_mesh
from flare_connect.mesh.store import MeshStore, write_store

__all__ = [
    "Mesh",
    "NamedSet",
    "load_mesh",
    "MeshStore",
    "MeshParts",
    "write_store",
    "prepare_meshes",
    "cell_to_point",
    "CELL_KINDS",
    "CellKind",
    "EXTENSIONS",
]
