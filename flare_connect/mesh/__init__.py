"""Meshes, known before anything is learned: files, fields, connectivity, boundary, volumes, prepared data sets."""

from flare_connect.mesh.anchoring import CostKind, anchor_costs
from flare_connect.mesh.cache import MeshCache
from flare_connect.mesh.cells import CELL_KINDS, CellKind
from flare_connect.mesh.conditions import Condition, Conditions, Place, Values
from flare_connect.mesh.defects import Defects, find_defects, merge_duplicate_nodes, remove_orphans
from flare_connect.mesh.diffusion import diffusion_cost
from flare_connect.mesh.distances import anchors, clusters, geodesic_cost, geodesic_distance
from flare_connect.mesh.files.load import EXTENSIONS, load_mesh
from flare_connect.mesh.gradients import nodal_gradient
from flare_connect.mesh.harmonic import cell_potentials, harmonic_extension, load_potential
from flare_connect.mesh.harmonic_features import cell_features, exit_features, harmonic_features, potential_features
from flare_connect.mesh.interpolation import cell_to_point
from flare_connect.mesh.mesh import Mesh, NamedSet
from flare_connect.mesh.modes import laplacian_modes
from flare_connect.mesh.partitioning import partition
from flare_connect.mesh.parts import MeshParts
from flare_connect.mesh.periodic import find_periodic_pairs
from flare_connect.mesh.prepare import prepare_meshes
from flare_connect.mesh.store import MeshStore, write_store
from flare_connect.mesh.thinness import component_distances, local_thickness
from flare_connect.mesh.topology import Topology

__all__ = [
    "Mesh",
    "NamedSet",
    "load_mesh",
    "MeshStore",
    "MeshParts",
    "MeshCache",
    "write_store",
    "prepare_meshes",
    "cell_to_point",
    "Defects",
    "find_defects",
    "merge_duplicate_nodes",
    "remove_orphans",
    "Topology",
    "geodesic_distance",
    "geodesic_cost",
    "diffusion_cost",
    "anchors",
    "anchor_costs",
    "CostKind",
    "clusters",
    "partition",
    "laplacian_modes",
    "harmonic_extension",
    "load_potential",
    "cell_potentials",
    "exit_features",
    "harmonic_features",
    "cell_features",
    "potential_features",
    "nodal_gradient",
    "Condition",
    "Conditions",
    "Place",
    "Values",
    "find_periodic_pairs",
    "component_distances",
    "local_thickness",
    "CELL_KINDS",
    "CellKind",
    "EXTENSIONS",
]
