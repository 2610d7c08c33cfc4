"""Abaqus elements: the kinds behind their names, their order of nodes, the names of their faces."""

import re

# pattern of the name, kinds by the number in it, whether the cell itself is a face (shells, membranes, rigid surfaces)
_FAMILIES: tuple[tuple[str, dict[int, str], bool], ...] = (
    (
        r"(?:(?:A|D|DC|E|EM|F)?C|Q|CIN)3D(\d+)V?[A-Z]*",
        {
            4: "tetra", 5: "pyramid", 6: "wedge", 8: "hexahedron", 10: "tetra10", 13: "pyramid13", 15: "wedge15",
            20: "hexahedron20", 27: "hexahedron27",
        },
        False,
    ),
    (r"(?:COH3D|GK3D|SC|CSS)([68])[A-Z]*", {6: "wedge", 8: "hexahedron"}, False),
    (
        r"(?:(?:A|D|DC|EM)?C2D|Q2D|CP[ES]G?|(?:A|D|DC)?CAX|CGAX|COH2D|COHAX|GKP[ES]|GKAX|CIN(?:P[ES]|AX)|WARP2D)"
        r"(\d)[A-Z]*",
        {3: "triangle", 4: "quad", 6: "triangle6", 8: "quad8", 9: "quad9"},
        False,
    ),
    (
        r"(?:D?S|M3D|R3D|SFM3D|F3D|ASI3D)(\d)[A-Z]*5?|STRI([36])5?",
        {3: "triangle", 4: "quad", 6: "triangle6", 8: "quad8", 9: "quad9"},
        True,
    ),
    (r"(?:T2D|T3D|(?:A|D|DC)C1D)([23])[A-Z]*", {2: "line", 3: "line3"}, False),
    (r"(?:B[23]|PIPE[23]|ELBOW3)([123])[A-Z]*", {1: "line", 2: "line3", 3: "line"}, False),
    (r"(?:D?SAX|MG?AX|SFMG?AX)([12])[A-Z]*", {1: "line", 2: "line3"}, False),
    (r"(?:RB2D|RB3D|R2D|RAX|F2D|FAX)(2)", {2: "line"}, False),
    (r"FRAME([23])D", {2: "line", 3: "line"}, False),
)  # fmt: skip

NODE_ORDER: dict[str, list[int]] = {
    "line3": [0, 2, 1],
    # the centre of the body, then those of the faces S1, S2 …
    "hexahedron27": [*range(20), 26, 24, 23, 25, 21, 22, 20],
}
"""`our_nodes = abaqus_nodes[:, NODE_ORDER[kind]]` for the kinds that differ."""

FACES: dict[str, tuple[tuple[int, ...], ...]] = {
    "line": ((0,), (1,)),
    "triangle": ((0, 1), (1, 2), (2, 0)),
    "quad": ((0, 1), (1, 2), (2, 3), (3, 0)),
    "tetra": ((0, 1, 2), (0, 3, 1), (1, 3, 2), (2, 3, 0)),
    "pyramid": ((0, 1, 2, 3), (0, 4, 1), (1, 4, 2), (2, 4, 3), (3, 4, 0)),
    "hexahedron": ((0, 1, 2, 3), (4, 7, 6, 5), (0, 4, 5, 1), (1, 5, 6, 2), (2, 6, 7, 3), (3, 7, 4, 0)),
    "wedge": ((0, 1, 2), (3, 5, 4), (0, 3, 4, 1), (1, 4, 5, 2), (2, 5, 3, 0)),
}
"""Corner kind → corners of the faces S1, S2 … from 0 (Abaqus Analysis User's Guide, "Element library")."""

PLANAR_NAMES = {
    "triangle": "CPS3", "triangle6": "CPS6", "quad": "CPS4", "quad8": "CPS8", "quad9": "M3D9",
    "line": "T2D2", "line3": "T2D3",
}  # fmt: skip
"""Our kind → the name under which a planar mesh is written."""

SPATIAL_NAMES = {
    "triangle": "S3", "triangle6": "STRI65", "quad": "S4", "quad8": "S8R", "quad9": "S9R5",
    "line": "T3D2", "line3": "T3D3", "tetra": "C3D4", "tetra10": "C3D10", "pyramid": "C3D5", "wedge": "C3D6",
    "wedge15": "C3D15", "hexahedron": "C3D8", "hexahedron20": "C3D20", "hexahedron27": "C3D27",
}  # fmt: skip
"""Our kind → the name under which a mesh in space is written."""


def kind_of(name: str) -> tuple[str, bool] | None:
    """Our kind of an element by its name in capitals, and whether the cell itself is a face; None if not known."""
    for pattern, kinds, shell in _FAMILIES:
        found = re.fullmatch(pattern, name)
        if found:
            kind = kinds.get(int(next(group for group in found.groups() if group)))
            return None if kind is None else (kind, shell)
    return None


def face_code(label: str, kind: str, shell: bool) -> int | None:
    """Number of a face from 1 by its label (`S1`, `E2`, `END1`); 0 for the cell itself, -1 turned round, None if none.

    Args:
        label: the label in capitals.
        kind: kind of the corner cell.
        shell: whether the cell itself is a face.
    """
    flat = kind in ("triangle", "quad")
    if flat and label in ("SPOS", "SNEG"):
        return 0 if label == "SPOS" else -1
    found = re.fullmatch(r"(S|E|END)(\d{1,2})", label)
    if found is None:
        return None
    number = int(found[2])
    if shell and found[1] == "S":  # CalculiX counts the two sides before the edges
        if number in (1, 2):
            return 0 if number == 2 else -1
        number -= 2
    if (found[1] == "END") != (kind == "line") or (found[1] == "E" and not flat):
        return None
    return number if 1 <= number <= len(FACES.get(kind, ())) else None
