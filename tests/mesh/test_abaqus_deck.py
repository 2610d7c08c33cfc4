"""Abaqus decks: how they are written, elements, parts and instances, included files, what is damaged."""

import time
from contextlib import suppress

import numpy as np
import pytest
from mesh.damage import damaged
from mesh.meshes import grid, single

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh
from flare_connect.mesh.files.abaqus.read import read_abaqus
from flare_connect.mesh.files.abaqus.types import NODE_ORDER, PLANAR_NAMES, SPATIAL_NAMES, kind_of
from flare_connect.mesh.files.abaqus.write import write_abaqus
from flare_connect.mesh.files.failed import FailedError

PLATE = "*NODE\n1, 0, 0\n2, 1, 0\n3, 1, 1\n4, 0, 1\n5, 2, 0\n6, 2, 1\n"
TWO_QUADS = PLATE + "*ELEMENT, TYPE=CPS4R, ELSET=All\n1, 1, 2, 3, 4\n2, 2, 5, 6, 3\n"


def deck(tmp_path, text, name="deck.inp"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CPS3", "triangle"), ("CPE4R", "quad"), ("CPE4RH", "quad"), ("CPEG8", "quad8"), ("CAX4P", "quad"),
        ("CGAX8R", "quad8"), ("DC2D6", "triangle6"), ("DCAX4", "quad"), ("COH2D4", "quad"), ("C3D10M", "tetra10"),
        ("C3D10HS", "tetra10"), ("C3D8I", "hexahedron"), ("C3D8RH", "hexahedron"), ("C3D5", "pyramid"),
        ("C3D15V", "wedge15"), ("C3D27R", "hexahedron27"), ("DC3D20", "hexahedron20"), ("DCC3D8D", "hexahedron"),
        ("AC3D4", "tetra"), ("EC3D8R", "hexahedron"), ("CIN3D8", "hexahedron"), ("SC6R", "wedge"),
        ("SC8R", "hexahedron"), ("CSS8", "hexahedron"), ("COH3D8", "hexahedron"), ("COH3D6P", "wedge"),
        ("GK3D8N", "hexahedron"), ("S3", "triangle"), ("S3RS", "triangle"), ("S4R", "quad"), ("S4R5", "quad"),
        ("S4RSW", "quad"), ("S8R5", "quad8"), ("S9R5", "quad9"), ("STRI3", "triangle"), ("STRI65", "triangle6"),
        ("M3D4R", "quad"), ("M3D9", "quad9"), ("R3D4", "quad"), ("R3D3", "triangle"), ("SFM3D8R", "quad8"),
        ("F3D4", "quad"), ("DS4", "quad"), ("B21", "line"), ("B22", "line3"), ("B31OS", "line"), ("B32H", "line3"),
        ("B33", "line"), ("PIPE31", "line"), ("ELBOW32", "line3"), ("T3D2", "line"), ("T2D3H", "line3"),
        ("SAX1", "line"), ("SAX2T", "line3"), ("RAX2", "line"), ("R2D2", "line"), ("FRAME3D", "line"),
        ("DC1D2", "line"), ("MASS", None), ("SPRINGA", None), ("CONN3D2", None), ("GK3D4L", None), ("CIN3D12R", None),
        ("CAXA4R1", None), ("U1", None), ("", None), ("C3D99999999999", None), ("S5", None),
    ],
)  # fmt: skip
def test_elements_are_known_by_their_names(name, kind):
    found = kind_of(name)
    assert (found and found[0]) == kind


def test_all_names_that_are_written_are_known():
    assert all(kind_of(name)[0] == kind for names in (PLANAR_NAMES, SPATIAL_NAMES) for kind, name in names.items())


def test_a_deck_as_people_write_it(tmp_path):
    text = (
        '\ufeff** made by hand\r\n*Heading\r\nplate, 5 \r\n * node , nset = "all of it"\r\n'
        "1, 0.,  0.\r\n\r\n** in between\r\n 2, 1.0D0,,\r\n3 , 1e0, 1., \r\n4,,1.\r\n"
        "*ELEMENT, ELSET=Plate,\r\n type=cps4r\r\n12, 1, 2,\r\n   3, 4\r\n"
        "*NODE PRINT, NSET=all\r\n*Boundary\r\n1, 1, 2\r\n*nset,nset=Caf\u00e9\r\n1,\r\n"
        "*STEP\r\n*NODE\r\n99, 9, 9\r\n*NSET, NSET=late\r\n2\r\n*END STEP"
    )
    (tmp_path / "deck.inp").write_bytes(text.encode("utf-8"))
    mesh = read_abaqus(tmp_path / "deck.inp")
    assert mesh.pos.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert mesh.cells["quad"].tolist() == [[0, 1, 2, 3]]
    assert {name: named.ids.tolist() for name, named in mesh.sets.items()} == {
        "Plate": [0], "all of it": [0, 1, 2, 3], "Café": [0], "late": [1],
    }  # fmt: skip
    (tmp_path / "deck.inp").write_bytes(text.encode("latin-1", errors="replace"))
    assert read_abaqus(tmp_path / "deck.inp").num_nodes == 4


def test_the_documented_order_of_beams_and_bricks(tmp_path):
    """The middle node of a beam is its second; node 21 of a brick is its centre, 22 is on S1, 24 on S3."""
    nodes = "*NODE\n1, 0, 0, 0\n2, 1, 1, 0\n3, 2, 2, 0\n9, 0, 0, 1\n"
    path = deck(tmp_path, nodes + "*ELEMENT, TYPE=B32\n1, 1, 2, 3, 9\n")
    assert read_abaqus(path).cells["line3"].tolist() == [[0, 2, 1]]
    pos = single("hexahedron27").pos.numpy()
    in_file = pos[np.argsort(NODE_ORDER["hexahedron27"])].tolist()
    assert in_file[20:24] == [[0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0.5, 1], [0.5, 0, 0.5]]


def test_bricks_on_several_lines(tmp_path):
    mesh = grid("hexahedron20", (2, 1, 1))
    write_abaqus(mesh, tmp_path / "deck.inp")
    text = (tmp_path / "deck.inp").read_text()
    assert max(line.count(",") for line in text.splitlines()) == 16
    for lines in (text, text.replace(",\n", "\n")):  # some programs leave the comma out
        back = read_abaqus(deck(tmp_path, lines))
        assert back.cells["hexahedron20"].tolist() == mesh.cells["hexahedron20"].tolist()


def test_elements_that_are_no_cells_are_left_out(tmp_path):
    masses = "*ELEMENT, TYPE=MASS, ELSET=M\n7, 1\n8, 2\n*ELEMENT, TYPE=SPRINGA\n9, 1, 2\n"
    with pytest.warns(UserWarning, match="elements left out: 2 of type 'MASS', 1 of type 'SPRINGA'"):
        mesh = read_abaqus(deck(tmp_path, TWO_QUADS + masses))
    assert mesh.num_cells == 2
    with pytest.raises(FailedError, match="no elements but 2 of type 'MASS', 1 of type 'SPRINGA'"):
        read_abaqus(deck(tmp_path, PLATE + masses))
    with pytest.raises(FailedError, match="no cells found"):
        read_abaqus(deck(tmp_path, PLATE))


CAE = """*Heading
*Part, name=Plate
*Node
      1,           0.,           0.,           0.
      2,           1.,           0.,           0.
      3,           1.,           1.,           0.
      4,           0.,           1.,           0.
*Element, type=S4R
1, 1, 2, 3, 4
*Nset, nset=Edge, generate
 1,  2,  1
*Elset, elset=Own
 1,
*End Part
*Part, name=Rod
*Node
1, 0., 0., 0.
2, 0., 0., 1.
*Element, type=B31, elset=Beam
1, 1, 2
*Nset, nset=Tip
 2,
*End Part
*Assembly, name=Assembly
*Instance, name=Plate-1, part=Plate
*End Instance
*Instance, name=Plate-2, part=plate
          5.,           0.,           0.
          5.,           0.,           0.,           5.,           0.,           1.,          90.
*End Instance
*Instance, name=Rod-1, part=Rod
          0.,           0.,           3.
*End Instance
*Node
      1,           9.,           9.,           9.
*Nset, nset=_PickedSet7, internal
 1,
*Nset, nset=Corners, instance=Plate-2
 2, 3
*Nset, nset=Corners, instance=Rod-1
 1,
*Nset, nset=Mixed
 Plate-1.3, Rod-1.Tip, Corners
*Elset, elset=_Top_SPOS, internal, instance=Plate-2
 1,
*Surface, type=ELEMENT, name=Top
_Top_SPOS, SPOS
*End Assembly
"""


def test_parts_and_instances_as_cae_writes_them(tmp_path):
    mesh = read_abaqus(deck(tmp_path, CAE))
    square = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    turned = [[5, 0, 0], [5, 1, 0], [4, 1, 0], [4, 0, 0]]
    turned = [[5 - y, x, 0] for x, y, _ in square]
    np.testing.assert_allclose(mesh.pos, [*square, *turned, [0, 0, 3], [0, 0, 4], [9, 9, 9]], atol=1e-15)
    assert {kind: nodes.tolist() for kind, nodes in mesh.cells.items()} == {
        "quad": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "line": [[8, 9]],
    }
    assert {name: (named.entity, named.ids.tolist()) for name, named in mesh.sets.items()} == {
        "Plate-1.Own": ("cell", [0]),
        "Plate-2.Own": ("cell", [1]),
        "Beam": ("cell", [2]),
        "Plate-1.Edge": ("node", [0, 1]),
        "Plate-2.Edge": ("node", [4, 5]),
        "Tip": ("node", [9]),
        "_PickedSet7": ("node", [10]),
        "Corners": ("node", [5, 6, 8]),
        "Mixed": ("node", [2, 5, 6, 8, 9]),
        "Top": ("facet", [[4, 5, 6, 7]]),
    }


def test_instances_that_hold_their_own_mesh_and_parts_that_are_never_placed(tmp_path):
    own = "*INSTANCE, NAME=I\n1, 0, 0\n" + TWO_QUADS + "*END INSTANCE\n"
    assert read_abaqus(deck(tmp_path, own)).pos[0].tolist() == [1, 0]
    part = "*PART, NAME=P\n" + TWO_QUADS + "*END PART\n"
    mesh = read_abaqus(deck(tmp_path, part))
    assert mesh.num_cells == 2
    assert list(mesh.sets) == ["All"]
    with pytest.raises(FailedError, match="instance 'I' is of part 'Q', which is not defined"):
        read_abaqus(deck(tmp_path, part + "*INSTANCE, NAME=I, PART=Q\n*END INSTANCE\n"))
    with pytest.raises(FailedError, match=r"turned about an axis of length 0\.0"):
        read_abaqus(deck(tmp_path, part + "*INSTANCE, NAME=I, PART=P\n0,0,0\n1,1,1,1,1,1,90\n"))
    with pytest.raises(FailedError, match=r"'a, b, ' under \*INSTANCE, NAME=I are no numbers"):
        read_abaqus(deck(tmp_path, part + "*INSTANCE, NAME=I, PART=P\na, b\n"))
    with pytest.raises(FailedError, match="two of its instances have one name"):
        read_abaqus(deck(tmp_path, part + "*INSTANCE, NAME=I, PART=P\n*END INSTANCE\n*INSTANCE, NAME=i, PART=P\n"))


def test_systems_of_coordinates(tmp_path):
    text = "*SYSTEM\n1, 0, 0, 1, 1, 0\n0, 0, 0\n*NODE\n1, 0, 0\n2, 2, 0\n*SYSTEM\n*NODE, SYSTEM=C\n3, 2, 90\n"
    mesh = read_abaqus(deck(tmp_path, text + "*ELEMENT, TYPE=S3\n1, 1, 2, 3\n"))
    np.testing.assert_allclose(mesh.pos, [[1, 0], [1, 2], [0, 2]], atol=1e-15)
    with pytest.raises(FailedError, match=r"three points of \*SYSTEM lie on a line"):
        read_abaqus(deck(tmp_path, text.replace("\n0, 0, 0\n", "\n1, 5, 0\n")))


def test_included_files(tmp_path):
    (tmp_path / "mesh").mkdir()
    deck(tmp_path, PLATE + "*INCLUDE, INPUT=mesh\\cells.inp\n", "mesh/nodes.inp")
    deck(tmp_path, "*ELEMENT, TYPE=CPS4, INPUT=table.txt\n", "mesh/cells.inp")
    deck(tmp_path, "** a table\n1, 1, 2, 3, 4\n", "mesh/table.txt")
    main = deck(tmp_path, "*INCLUDE, INPUT=mesh/nodes.inp\n*NSET, NSET=A\n1\n")
    mesh = read_abaqus(main)
    assert mesh.cells["quad"].tolist() == [[0, 1, 2, 3]]
    assert list(mesh.sets) == ["A"]
    deck(tmp_path, "*INCLUDE, INPUT=deck.inp\n", "mesh/cells.inp")
    with pytest.raises(FailedError, match=r"includes itself: deck\.inp -> nodes\.inp -> cells\.inp -> deck\.inp"):
        read_abaqus(main)
    for name, said in [("gone.inp", "'gone.inp', which does not exist"), ("/etc/hostname", "by its full path")]:
        with pytest.raises(FailedError, match=said):
            read_abaqus(deck(tmp_path, TWO_QUADS + f"*INCLUDE, INPUT={name}\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# AVS\n4 1 0 0 0\n1 0 0 0\n2 1 0 0\n3 1 1 0\n4 0 1 0\n1 1 quad 1 2 3 4\n", "AVS UCD file"),
        (TWO_QUADS + "*NGEN\n1, 5\n", r"\*NGEN makes nodes"),
        (TWO_QUADS + "*ELGEN\n1, 5\n", r"\*ELGEN makes nodes"),
        (TWO_QUADS.replace("1, 1, 2, 3, 4", "1, 1, 2, 3, 44"), "element 1 names node 44, which is not defined"),
        (TWO_QUADS.replace("1, 1, 2, 3, 4", "1, 1, 2, 3"), "elements CPS4R have a label and 4 nodes"),
        (TWO_QUADS.replace("1, 1, 2, 3, 4", "1, 1, 2, 3, x"), r"'x' under \*ELEMENT, TYPE=CPS4R is no number"),
        (TWO_QUADS.replace("1, 0, 0", "1, 0, zero"), r"'zero' under \*NODE is no number"),
        (TWO_QUADS.replace("1, 0, 0", "1.5, 0, 0"), r"label under \*NODE is no integer"),
        (TWO_QUADS.replace("1, 0, 0", "1" + 20 * ", 0"), r"a line of \*NODE has 21 numbers"),
        (TWO_QUADS + "*NSET, NSET=B, GENERATE\n1\n", "set 'B' is generated from '1'; give first, last, step"),
        (TWO_QUADS + "*NSET, NSET=B, GENERATE\n1, 5, 0\n", "in steps of 0"),
        (TWO_QUADS + "*INSTANCE, LIBRARY=old, INSTANCE=I\n", "results of another job"),
        ("", "no cells found"),
    ],
)
def test_what_cannot_be_read_is_named(text, said, tmp_path):
    with pytest.raises(FailedError, match=said):
        read_abaqus(deck(tmp_path, text))


def test_nodes_given_again_and_labels_without_order(tmp_path):
    nodes = "*NODE\n9, 5, 5\n4000000000, 1, 0\n-3, 0, 1\n*NODE\n9, 0, 0\n"
    mesh = read_abaqus(deck(tmp_path, nodes + "*ELEMENT, TYPE=CPS3\n1, 9, 4000000000, -3\n"))
    assert mesh.pos[mesh.cells["triangle"][0]].tolist() == [[0, 0], [1, 0], [0, 1]]
    assert mesh.num_nodes == 3


def test_decks_that_mean_far_more_than_they_say_end_early(tmp_path):
    """Sets of sets of sets, parts placed over and over: a small file, and a huge mesh."""
    count = 20_000
    nodes = "*NODE\n" + "".join(f"{i}, 0, {i}\n" for i in range(1, count + 1))
    cell = "*ELEMENT, TYPE=T2D2\n1, 1, 2\n"
    chain = "".join(f"*NSET, NSET=N{i}\nN{i + 1}, N{i + 1}\n" for i in range(2000))
    ranges = f"*NSET, NSET=N2000, GENERATE\n1, {count}\n"
    placed = "".join(f"*INSTANCE, NAME=I{i}, PART=P\n*END INSTANCE\n" for i in range(3000))
    with pytest.raises(FailedError, match="sets name more than"):
        read_abaqus(deck(tmp_path, nodes + cell + ranges + f"1, {count}\n" * 5000))
    with pytest.raises(FailedError, match="sets name more than"):
        read_abaqus(deck(tmp_path, nodes + cell + chain + ranges))
    with pytest.raises(FailedError, match="instances have 60003000 nodes and elements out of 20001"):
        read_abaqus(deck(tmp_path, "*PART, NAME=P\n" + nodes + cell + "*END PART\n" + placed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "text", [TWO_QUADS + "*NSET, NSET=A\nB, 1\n*NSET, NSET=B\nA, 2\n*SURFACE, NAME=S\nAll, S1\n", CAE]
)
def test_damaged_decks_give_a_mesh_or_an_error(text, tmp_path):
    path = tmp_path / "deck.inp"
    for seed in range(60):
        path.write_bytes(damaged(text.encode(), seed))
        start = time.perf_counter()
        with suppress(FailedError, MeshError):
            assert isinstance(read_abaqus(path), Mesh)
        assert time.perf_counter() - start < 2, seed
