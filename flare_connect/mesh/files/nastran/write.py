"""Writing Nastran bulk data: nodes in large fields, elements, sets of cells as properties."""

from pathlib import Path

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.files.assemble import as_array, points3d
from flare_connect.mesh.mesh import Mesh

# kind → card, and the order of our nodes on it where it differs
_CARDS: dict[str, tuple[str, list[int] | None]] = {
    "line": ("CROD", None), "line3": ("CBEAM3", None), "triangle": ("CTRIA3", None), "triangle6": ("CTRIA6", None),
    "quad": ("CQUAD4", None), "quad8": ("CQUAD8", None), "tetra": ("CTETRA", None), "tetra10": ("CTETRA", None),
    "pyramid": ("CPYRAM", None), "pyramid13": ("CPYRAM", None), "wedge": ("CPENTA", None),
    "wedge15": ("CPENTA", [*range(9), 12, 13, 14, 9, 10, 11]), "hexahedron": ("CHEXA", None),
    "hexahedron20": ("CHEXA", [*range(12), 16, 17, 18, 19, 12, 13, 14, 15]),
}  # fmt: skip


def write_nastran(mesh: Mesh, path: Path) -> list[str]:
    """Writes nodes and elements, counted from 1; sets of cells that do not overlap become named properties.

    Meshio's writer gives up on most negative coordinates, which are one character too long for it. A large field has
    room for 11 digits or more.

    Returns:
        What a deck cannot hold, such as `field 'u'`, `units`, `set 'left'`.

    Raises:
        MeshError: Nastran has no element of a kind.
    """
    unknown = [kind for kind in mesh.cells if kind not in _CARDS]
    if unknown:
        raise MeshError(f"Nastran has no elements of kind {', '.join(unknown)}; write a .vtu file")
    lost = [f"field {name!r}" for name in (*mesh.point_data, *mesh.cell_data)]
    lost += ["units"] * bool(mesh.units) + ["periodic_pairs"] * (mesh.periodic_pairs is not None)
    lost += [f"global {name!r}" for name in mesh.global_data]
    properties = np.zeros(mesh.num_cells, dtype=np.int64)
    lines = ["$ written by flare_connect\n"]
    for name, named in mesh.sets.items():
        ids = as_array(named.ids)
        if named.entity != "cell" or not len(ids) or properties[ids].any():
            lost.append(f"set {name!r}")
            continue
        title = "".join(c if c.isprintable() else "_" for c in name.replace('"', "'")).strip() or "_"
        lost += [] if title == name else [f"the name of set {name!r}"]
        properties[ids] = properties.max() + 1
        lines.append(f'$HMNAME PROP {properties.max():>23}"{title}"\n')
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines([*lines, "BEGIN BULK\n"])
        for label, (x, y, z) in enumerate(points3d(mesh).tolist(), start=1):
            file.write(f"GRID*   {label:<16d}{'':16}{_number(x):>16}{_number(y):>16}\n*       {_number(z):>16}\n")
        start = 0
        for kind, nodes in mesh.cells.items():
            card, order = _CARDS[kind]
            table = as_array(nodes) + 1 if order is None else as_array(nodes)[:, order] + 1
            owners = properties[start : start + len(table)].tolist()
            for label, (owner, cell) in enumerate(zip(owners, table.tolist(), strict=True), start=start + 1):
                file.write(_card(card, [label, owner or "", *cell]))
            start += len(table)
        file.write("ENDDATA\n")
    return lost


def _number(value: float) -> str:
    """A number in 16 characters with as many digits as there is room for; the exponent without its letter E."""
    text = repr(value)
    if len(text) <= 16 and "e" not in text:
        return text
    for digits in range(15, 8, -1):
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        text = f"{mantissa}{int(exponent):+d}"
        if len(text) <= 16:
            break
    return text


def _card(name: str, values: list[int | str]) -> str:
    """Eight small fields a line, four large ones where a number has more than eight digits."""
    large = max(len(str(value)) for value in values) > 8
    width, count, mark = (16, 4, "*") if large else (8, 8, "+")
    lines = [values[i : i + count] for i in range(0, len(values), count)]
    heads = [name + "*" * large, *[mark] * len(lines)]
    return "".join(
        head.ljust(8) + "".join(str(value).rjust(width) for value in line) + "\n"
        for head, line in zip(heads, lines, strict=False)
    )
