"""Gmsh's types of elements as kinds of cells."""

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.failed import FailedError

GMSH_TYPES = {
    1: "line",
    2: "triangle",
    3: "quad",
    4: "tetra",
    5: "hexahedron",
    6: "wedge",
    7: "pyramid",
    8: "line3",
    9: "triangle6",
    10: "quad9",
    11: "tetra10",
    12: "hexahedron27",
    15: "vertex",
    16: "quad8",
    17: "hexahedron20",
    18: "wedge15",
    19: "pyramid13",
}
"""Gmsh's number of an element type → kind of cell."""

GMSH_ORDER: dict[str, list[int]] = {
    "tetra10": [*range(8), 9, 8],
    "hexahedron20": [*range(8), 8, 11, 13, 9, 16, 18, 19, 17, 10, 12, 14, 15],
    "hexahedron27": [*range(8), 8, 11, 13, 9, 16, 18, 19, 17, 10, 12, 14, 15, 22, 23, 21, 24, 20, 25, 26],
    "wedge15": [*range(6), 6, 9, 7, 12, 14, 13, 8, 10, 11],
    "pyramid13": [*range(5), 5, 8, 10, 6, 7, 9, 11, 12],
}
"""Our nodes are `nodes[:, GMSH_ORDER[kind]]` of Gmsh's; kinds that are not here have one order."""

# types that meshes are known to come with, to name them in the error
_OTHER_TYPES = {
    **{13: "wedge18", 14: "pyramid14", 20: "triangle9", 21: "triangle10", 22: "triangle12", 23: "triangle15"},
    **{25: "triangle21", 26: "line4", 27: "line5", 28: "line6", 29: "tetra20", 30: "tetra35", 31: "tetra56"},
    **{34: "polygon", 35: "polyhedron", 36: "quad16", 37: "quad25", 90: "wedge40", 92: "hexahedron64"},
    **{93: "hexahedron125", 118: "pyramid30"},
}


def kind_of(number: int) -> tuple[str, int]:
    """Kind of cell and number of nodes of an element type."""
    kind = GMSH_TYPES.get(number)
    if kind is None:
        name = f" ({_OTHER_TYPES[number]})" if number in _OTHER_TYPES else ""
        raise FailedError(f"elements of Gmsh's type {number}{name} are not known")
    return kind, CELL_KINDS[kind].num_nodes
