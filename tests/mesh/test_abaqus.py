"""Sets of Abaqus files: generated, nested, named in the element block, surfaces of every face."""

import itertools

import numpy as np
import pytest
import torch
from mesh.meshes import grid, single

from flare_connect.mesh import CELL_KINDS
from flare_connect.mesh.files.abaqus.read import read_abaqus
from flare_connect.mesh.files.abaqus.types import FACES, NODE_ORDER, SPATIAL_NAMES

TYPES = SPATIAL_NAMES | {"triangle": "CPS3", "quad": "CPS4", "triangle6": "CPS6", "quad8": "CPS8"}
SOLIDS_AND_PLANES = [kind for kind in TYPES if kind not in ("quad9", "line", "line3")]

FILE = """*HEADING
 ** a plate of three triangles, labels with gaps
*NODE, NSET=Everything
10, 0., 0., 0.
20, 1., 0., 0.
30, 1., 1., 0.
40, 0., 1., 0.
50, 2., 0., 0.
*ELEMENT, TYPE=CPS3, ELSET=First
1, 10, 20, 30
2, 10, 30, 40
*ELEMENT, TYPE=CPS3
5, 20, 50, 30
*NSET, NSET=Left
10, 40,
*Nset, nset="Bottom", generate
10, 20, 10
*NSET, NSET=Both
left, Bottom, 50
*ELSET, ELSET=Right
5
*ELSET, ELSET=Both
First, Right
*SURFACE, NAME=Top, TYPE=ELEMENT
2, S2
Right, S1
*SURFACE, NAME=Ends, TYPE=NODE
Left
50
*STEP
*END STEP
"""


def test_every_way_to_name_things(tmp_path):
    (tmp_path / "plate.inp").write_text(FILE)
    mesh = read_abaqus(tmp_path / "plate.inp")
    assert {name: named.entity for name, named in mesh.sets.items()} == {
        "First": "cell", "Right": "cell", "Both": "cell", "Everything": "node", "Left": "node", "Bottom": "node",
        "Both:nodes": "node", "Top": "facet", "Ends": "node",
    }  # fmt: skip
    ids = {name: named.ids.tolist() for name, named in mesh.sets.items()}
    assert ids["First"] == [0, 1]
    assert ids["Right"] == [2]
    assert ids["Both"] == [0, 1, 2]
    assert ids["Everything"] == [0, 1, 2, 3, 4]
    assert ids["Left"] == [0, 3]
    assert ids["Bottom"] == [0, 1]
    assert ids["Both:nodes"] == [0, 1, 3, 4]
    assert ids["Top"] == [[2, 3], [1, 4]]
    assert ids["Ends"] == [0, 3, 4]
    assert mesh.set_nodes("Top").tolist() == [1, 2, 3, 4]


def write(path, mesh, extra=""):
    ((kind, cells),) = mesh.cells.items()
    pos = np.pad(mesh.pos.numpy(), ((0, 0), (0, 3 - mesh.dim)))
    lines = ["*NODE", *(f"{i + 1}, {', '.join(map(repr, p))}" for i, p in enumerate(pos.tolist()))]
    lines += [f"*ELEMENT, TYPE={TYPES[kind]}"]
    back = np.argsort(NODE_ORDER.get(kind, range(cells.shape[1])))
    lines += [f"{i + 1}, {', '.join(str(n + 1) for n in cell)}" for i, cell in enumerate(cells[:, back].tolist())]
    path.write_text("\n".join(lines) + "\n" + extra)


@pytest.mark.parametrize("kind", SOLIDS_AND_PLANES)
def test_every_face_of_a_cell_is_its_own_boundary_facet(kind, tmp_path):
    dim = CELL_KINDS[kind].dim
    cell = single(kind, dim)
    faces = FACES[kind.rstrip("0123456789")]
    extra = "".join(f"*SURFACE, NAME=F{i + 1}\n1, S{i + 1}\n" for i in range(len(faces)))
    write(tmp_path / "cell.inp", cell, extra)
    mesh = read_abaqus(tmp_path / "cell.inp")
    boundary = [frozenset(row) for table in mesh.boundary_facets.values() for row in table.tolist()]
    named = [frozenset(mesh.sets[f"F{i + 1}"].ids[0].tolist()) for i in range(len(faces))]
    assert sorted(map(sorted, named)) == sorted(map(sorted, boundary))
    for facet, corners in zip(named, faces, strict=True):
        assert set(corners) <= facet


def test_faces_of_a_hexahedron_face_the_documented_way(tmp_path):
    """S1 is the bottom, S2 the top; S3 to S6 go round: front, right, back, left."""
    write(tmp_path / "box.inp", single("hexahedron"), "".join(f"*SURFACE, NAME=F{i}\n1, S{i}\n" for i in range(1, 7)))
    mesh = read_abaqus(tmp_path / "box.inp")
    centre = {name: mesh.pos[mesh.set_nodes(name)].mean(0).tolist() for name in mesh.sets}
    assert centre == {
        "F1": [0.5, 0.5, 0], "F2": [0.5, 0.5, 1], "F3": [0.5, 0, 0.5], "F4": [1, 0.5, 0.5],
        "F5": [0.5, 1, 0.5], "F6": [0, 0.5, 0.5],
    }  # fmt: skip


def test_a_surface_over_facets_of_two_kinds_becomes_nodes(tmp_path):
    write(tmp_path / "wedge.inp", single("wedge"), "*SURFACE, NAME=Mixed\n1, S1\n1, S3\n")
    mixed = read_abaqus(tmp_path / "wedge.inp").sets["Mixed"]
    assert mixed.entity == "node"
    assert mixed.ids.tolist() == [0, 1, 2, 3, 4]


def test_sets_that_name_each_other_end_and_unknown_labels_are_left_out(tmp_path):
    extra = "*NSET, NSET=A\nB, 1\n*NSET, NSET=B\nA, 2, 9999\n"
    write(tmp_path / "loop.inp", grid("quad", (2, 2)), extra)
    mesh = read_abaqus(tmp_path / "loop.inp")
    assert mesh.set_nodes("A").tolist() == mesh.set_nodes("B").tolist() == [0, 1]


@pytest.mark.parametrize("kinds", list(itertools.permutations(["triangle", "quad"])))
def test_cells_are_counted_over_kinds_as_the_mesh_counts_them(kinds, tmp_path):
    blocks = {
        "triangle": "*ELEMENT, TYPE=CPS3, ELSET=T\n7, 2, 5, 3\n",
        "quad": "*ELEMENT, TYPE=CPS4, ELSET=Q\n3, 1, 2, 3, 4\n",
    }
    nodes = "*NODE\n1, 0, 0\n2, 1, 0\n3, 1, 1\n4, 0, 1\n5, 2, 0\n"
    (tmp_path / "two.inp").write_text(nodes + "".join(blocks[kind] for kind in kinds))
    mesh = read_abaqus(tmp_path / "two.inp")
    assert torch.equal(mesh.set_nodes("T"), torch.tensor([1, 2, 4]))
    assert torch.equal(mesh.set_nodes("Q"), torch.tensor([0, 1, 2, 3]))


PLATE = "*NODE\n1, 0, 0\n2, 1, 0\n3, 1, 1\n4, 0, 1\n5, 2, 0\n6, 2, 1\n"
TWO_QUADS = PLATE + "*ELEMENT, TYPE=CPS4R, ELSET=All\n1, 1, 2, 3, 4\n2, 2, 5, 6, 3\n"


def deck(tmp_path, text):
    (tmp_path / "deck.inp").write_text(text)
    return tmp_path / "deck.inp"


def test_sets_of_nodes_of_elements_and_ranges_without_step(tmp_path):
    sets = "*NSET, NSET=Right, ELSET=Second\n*ELSET, ELSET=Second, GENERATE\n2, 900000000000\n*NSET, NSET=None\n"
    mesh = read_abaqus(deck(tmp_path, TWO_QUADS + sets))
    assert mesh.sets["Right"].ids.tolist() == [1, 2, 4, 5]
    assert mesh.sets["Second"].ids.tolist() == [1]
    assert mesh.sets["None"].ids.tolist() == []


def test_surfaces_without_a_face_are_what_is_exposed(tmp_path):
    surfaces = "*SURFACE, NAME=Skin\nAll\n*SURFACE, NAME=Half\n2,\n"
    mesh = read_abaqus(deck(tmp_path, TWO_QUADS + surfaces))
    assert sorted(map(sorted, mesh.sets["Skin"].ids.tolist())) == [[0, 1], [0, 3], [1, 4], [2, 3], [2, 5], [4, 5]]
    assert sorted(map(sorted, mesh.sets["Half"].ids.tolist())) == [[1, 4], [2, 5], [4, 5]]


def test_surfaces_of_shells_and_lines(tmp_path):
    faces = ("SPOS", "SNEG", "E2", "S1", "S2", "S3", "S6")
    surfaces = "".join(f"*SURFACE, NAME={face}\n1, {face}\n" for face in faces)
    text = TWO_QUADS.replace("CPS4R", "S4R") + "*ELEMENT, TYPE=T3D2\n7, 1, 2\n"
    mesh = read_abaqus(deck(tmp_path, text + surfaces + "*SURFACE, NAME=END\n7, END2\n*SURFACE, NAME=All\nAll\n"))
    ids = {name: named.ids.tolist() for name, named in mesh.sets.items()}
    assert ids["SPOS"] == ids["S2"] == [[0, 1, 2, 3]]
    assert ids["SNEG"] == ids["S1"] == [[0, 3, 2, 1]]
    assert ids["E2"] == [[1, 2]]
    assert ids["S3"] == [[0, 1]]
    assert ids["S6"] == [[3, 0]]
    assert ids["END"] == [[1]]
    assert ids["All:surface"] == [[0, 1, 2, 3], [1, 4, 5, 2]]


def test_faces_that_are_not_known_are_named(tmp_path):
    with pytest.warns(UserWarning, match="surface 'Odd' left out: there is no face 'Q7'"):
        assert list(read_abaqus(deck(tmp_path, TWO_QUADS + "*SURFACE, NAME=Odd\n1, Q7\n")).sets) == ["All"]
    with pytest.warns(UserWarning, match="surface 'Odd' is incomplete: there is no face 'S5' of a quad"):
        mesh = read_abaqus(deck(tmp_path, TWO_QUADS + "*SURFACE, NAME=Odd\n1, S5\n1, S1\n"))
    assert mesh.sets["Odd"].ids.tolist() == [[0, 1]]
