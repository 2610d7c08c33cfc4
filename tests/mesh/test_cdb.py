"""MAPDL archives: blocks in fixed columns, collapsed bricks, components, what is damaged."""

import time
from contextlib import suppress

import numpy as np
import pytest
from mesh.damage import damaged
from mesh.meshes import grid, single

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh
from flare_connect.mesh.files.cdb import read_cdb
from flare_connect.mesh.files.failed import FailedError


def nblock(points, form="(3i9,6e21.13e3)", trailing=True):
    """Coordinates of zero at the end of a line are left out, as MAPDL does."""
    lines = [f"NBLOCK,6,SOLID,{len(points):9d},{len(points):9d}", form]
    for label, point in enumerate(points, start=1):
        values = list(point)
        while not trailing and values and values[-1] == 0:
            values.pop()
        lines.append(f"{label:9d}{0:9d}{0:9d}" + "".join(f"{value:21.13E}" for value in values))
    return "\n".join([*lines, "N,R5.3,LOC,       -1,", ""])


def eblock(elements, number=1):
    """Elements of one type, labels from 11."""
    lines = [f"EBLOCK,19,SOLID,{len(elements):9d},{len(elements):9d}", "(19i9)"]
    for label, nodes in enumerate(elements, start=11):
        head = [1, number, 1, 1, 0, 0, 0, 0, len(nodes), 0, label]
        lines.append("".join(f"{value:9d}" for value in [*head, *nodes[:8]]))
        if len(nodes) > 8:
            lines.append("".join(f"{value:9d}" for value in nodes[8:]))
    return "\n".join([*lines, "       -1", ""])


def archive(tmp_path, *parts, types="ET,        1,186\n"):
    (tmp_path / "x.cdb").write_text("/PREP7\n" + types + "".join(parts) + "FINISH\n")
    return tmp_path / "x.cdb"


COMPONENTS = (
    "CMBLOCK,ENDS    ,NODE,       5  ! users node component definition\n(8i10)\n"
    "         1        -4         7        99        12\n"
    "CMBLOCK,ENDS,ELEMENT,1\n(8i10)\n        12\n"
)


def test_bricks_and_components(tmp_path):
    mesh = grid("hexahedron", (2, 1, 1))
    path = archive(tmp_path, nblock(mesh.pos.tolist()), eblock((mesh.cells["hexahedron"] + 1).tolist()), COMPONENTS)
    for newline in ("\n", "\r\n"):
        path.write_bytes(path.read_bytes().replace(b"\n", newline.encode()))
        back = read_cdb(path)
        assert back.pos.tolist() == mesh.pos.tolist()
        assert back.cells["hexahedron"].tolist() == mesh.cells["hexahedron"].tolist()
        assert {name: (named.entity, named.ids.tolist()) for name, named in back.sets.items()} == {
            "ENDS": ("node", [0, 1, 2, 3, 6, 11]),
            "ENDS:cells": ("cell", [1]),
        }


def test_what_is_left_out_at_the_end_of_a_line_is_zero(tmp_path):
    mesh = single("tetra10")
    path = archive(
        tmp_path, nblock(mesh.pos.tolist(), trailing=False), eblock([[*range(1, 11)]]), types="ET,1,SOLID187\n"
    )
    back = read_cdb(path)
    assert back.pos.tolist() == mesh.pos.tolist()
    assert back.cells["tetra10"].tolist() == mesh.cells["tetra10"].tolist()


BRICKS = {
    "hexahedron": [1, 2, 3, 4, 5, 6, 7, 8],
    "wedge": [1, 2, 3, 3, 4, 5, 6, 6],
    "pyramid": [1, 2, 3, 4, 5, 5, 5, 5],
    "tetra": [1, 2, 3, 3, 4, 4, 4, 4],
    "hexahedron20": [*range(1, 21)],
    # Q, R, S = L, T: a midside node on a side of no length is the corner itself
    "wedge15": [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 3, 9, 10, 11, 6, 12, 13, 14, 15, 15],
    "pyramid13": [1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 5, 5, 5, 5, 10, 11, 12, 13],
    "tetra10": [1, 2, 3, 3, 4, 4, 4, 4, 5, 6, 3, 7, 4, 4, 4, 4, 8, 9, 10, 10],
}


@pytest.mark.parametrize("kind", BRICKS)
def test_collapsed_bricks(kind, tmp_path):
    mesh = single(kind)
    back = read_cdb(archive(tmp_path, nblock(mesh.pos.tolist()), eblock([BRICKS[kind]])))
    assert {name: nodes.tolist() for name, nodes in back.cells.items()} == {kind: mesh.cells[kind].tolist()}
    assert back.num_inverted_cells == 0


FLAT = {
    "quad": [1, 2, 3, 4],
    "triangle": [1, 2, 3, 3],
    "quad8": [*range(1, 9)],
    "triangle6": [1, 2, 3, 3, 4, 5, 3, 6],
}


@pytest.mark.parametrize("kind", FLAT)
def test_shells_and_planes(kind, tmp_path):
    mesh = single(kind, 2)
    points = np.pad(mesh.pos.numpy(), ((0, 0), (0, 1))).tolist()
    back = read_cdb(archive(tmp_path, nblock(points), eblock([FLAT[kind]]), types="ET,1,281\n"))
    assert back.pos.tolist() == mesh.pos.tolist()
    assert {name: nodes.tolist() for name, nodes in back.cells.items()} == {kind: mesh.cells[kind].tolist()}


def test_beams_and_the_short_form_of_elements(tmp_path):
    points = [[0, 0, 0], [2, 0, 0], [1, 0, 0], [0, 0, 9], [2, 2, 0]]
    short = "TYPE,3\neblock,10,,,2\n(15i9)\n" + "".join(
        "".join(f"{value:9d}" for value in [label, number, 1, 1, 0, *nodes]) + "\n"
        for label, number, nodes in [(5, 3, (1, 2, 5)), (6, 77, (1, 3, 2))]
    )  # fmt: skip
    types = "ET,1,188\nET,2,189\nET,3,181\n"
    back = read_cdb(
        archive(tmp_path, nblock(points), eblock([[1, 2, 4]]), eblock([[1, 2, 3, 4]], 2), short, types=types)
    )
    assert {kind: nodes.tolist() for kind, nodes in back.cells.items()} == {
        "line": [[0, 1]],
        "line3": [[0, 1, 2]],
        "triangle": [[0, 1, 4], [0, 2, 1]],
    }


def test_missing_midside_nodes_and_unknown_types(tmp_path):
    mesh = single("hexahedron20")
    some, none = [*range(1, 20), 0], [*range(1, 9), *[0] * 12]
    with pytest.warns(UserWarning, match="1 elements lack some midside nodes and were read as linear ones"):
        back = read_cdb(archive(tmp_path, nblock(mesh.pos.tolist()), eblock([some, none, [*range(1, 21)]])))
    assert {kind: len(nodes) for kind, nodes in back.cells.items()} == {"hexahedron": 2, "hexahedron20": 1}
    contact = eblock([[1, 2, 3, 4]], 2)
    with pytest.warns(UserWarning, match="elements left out: 1 of type 174"):
        read_cdb(archive(tmp_path, nblock(mesh.pos.tolist()), eblock([none]), contact, types="ET,1,186\nET,2,174\n"))
    with pytest.raises(FailedError, match="no elements but 1 of type 174, which are not understood"):
        read_cdb(archive(tmp_path, nblock(mesh.pos.tolist()), contact, types="ET,2,174\n"))


POINTS = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
TETRA = eblock([[1, 2, 3, 3, 4, 4, 4, 4]])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([TETRA], "there is no NBLOCK; write the archive by CDWRITE in its blocked form"),
        ([nblock(POINTS)], "no cells found"),
        ([nblock(POINTS), TETRA.replace("        2        3", "        2       33")], "element 11 names node 33"),
        ([nblock(POINTS, form="(3x)"), TETRA], "NBLOCK has no format such as"),
        ([nblock(POINTS).replace("1.0", "1.x"), TETRA], r"'1.x\d*E\+00' is not a number"),
        ([nblock(POINTS), TETRA.replace("       8  ", "     800  ")], "element 11 has 800 nodes"),
        ([nblock(POINTS), eblock([[*range(1, 21)]]).rsplit("\n", 3)[0]], "ends within an element"),
        ([nblock(POINTS), TETRA.replace("(19i9)", "(9i9)")], "EBLOCK has 9 fields; 12 or more"),
    ],
)
def test_what_cannot_be_read_is_named(parts, said, tmp_path):
    with pytest.raises(FailedError, match=said):
        read_cdb(archive(tmp_path, *parts))


@pytest.mark.filterwarnings("ignore")
def test_damaged_archives_give_a_mesh_or_an_error(tmp_path):
    mesh = grid("hexahedron20", (2, 1, 1))
    path = archive(tmp_path, nblock(mesh.pos.tolist()), eblock((mesh.cells["hexahedron20"] + 1).tolist()), COMPONENTS)
    whole = path.read_bytes()
    for seed in range(60):
        path.write_bytes(damaged(whole, seed))
        start = time.perf_counter()
        with suppress(FailedError, MeshError):
            assert isinstance(read_cdb(path), Mesh)
        assert time.perf_counter() - start < 2, seed
