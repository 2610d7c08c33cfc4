"""Nastran decks: the three kinds of fields, coordinate systems, elements, sets, included files, what is damaged."""

import time
from contextlib import suppress

import meshio
import numpy as np
import pytest
import torch
from mesh.damage import damaged
from mesh.meshes import grid, single

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, NamedSet
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.nastran.read import read_nastran
from flare_connect.mesh.files.nastran.write import write_nastran

CARDS = {
    "line": "CBAR", "line3": "CBEAM3", "triangle": "CTRIA3", "triangle6": "CTRIA6", "quad": "CQUAD4",
    "quad8": "CQUAD8", "tetra": "CTETRA", "tetra10": "CTETRA", "pyramid": "CPYRAM", "pyramid13": "CPYRAM",
    "wedge": "CPENTA", "wedge15": "CPENTA", "hexahedron": "CHEXA", "hexahedron20": "CHEXA",
}  # fmt: skip
# what MSC's Quick Reference Guide draws: nodes on vertical edges come before those of the top
IN_FILE = {
    "hexahedron20": [*range(12), 16, 17, 18, 19, 12, 13, 14, 15],
    "wedge15": [*range(9), 12, 13, 14, 9, 10, 11],
}


def deck(tmp_path, text, name="deck.bdf"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def card(name, values, form="small"):
    """One card in lines of eight fields (four where they are large)."""
    if form == "free":
        lines = [values[i : i + 8] for i in range(0, len(values), 8)]
        return "".join(f"{'' if i else name},{','.join(map(str, line))}\n" for i, line in enumerate(lines))
    width, count, mark = (16, 4, "*") if form == "large" else (8, 8, "+")
    lines = [values[i : i + count] for i in range(0, len(values), count)]
    names = [name + "*" * (form == "large"), *[mark] * len(lines)]
    return "".join(
        head.ljust(8) + "".join(str(value).rjust(width) for value in line).ljust(64) + mark + "\n"
        for head, line in zip(names, lines, strict=False)
    )


def cards_of(mesh, form="small", pid=1):
    ((kind, cells),) = mesh.cells.items()
    pos = np.pad(mesh.pos.numpy(), ((0, 0), (0, 3 - mesh.dim))).tolist()
    text = "".join(card("GRID", [i, "", *(f"{x:.5f}" for x in point)], form) for i, point in enumerate(pos, start=1))
    for label, cell in enumerate(cells.numpy()[:, IN_FILE.get(kind, slice(None))].tolist(), start=1):
        text += card(CARDS[kind], [label, pid, *(node + 1 for node in cell)], form)
    return "BEGIN BULK\n" + text + "ENDDATA\n"


@pytest.mark.parametrize("form", ["small", "large", "free"])
@pytest.mark.parametrize("kind", CARDS)
def test_every_kind_in_every_form(kind, form, tmp_path):
    mesh = single(kind)
    back = read_nastran(deck(tmp_path, cards_of(mesh, form)))
    assert {name: nodes.tolist() for name, nodes in back.cells.items()} == {kind: mesh.cells[kind].tolist()}
    assert back.pos.tolist() == mesh.pos[:, : back.dim].tolist()
    assert list(back.sets) == ["property_1"]


def test_numbers_as_fortran_writes_them(tmp_path):
    text = (
        "$ a comment, with a comma\nSOL 101\nCEND\nBEGIN BULK\n"
        "GRID           7       0  1.5-3 -2.5+1      .5       0\n"
        "grid    8               1.D2    1E0     -7.-1   $ the rest\n"
        + "GRID*".ljust(23)
        + "9"
        + " " * 16
        + "  1.23456789D-02"
        + "           3.5e0"
        + "\n*                    0.0\n"
        "GRID,10,,1.+1,2.,-.5-1\n"
        "CTETRA\t1\t3\t7\t8\t9\t10\n"
        "ENDDATA\nGRID,11,,x,y,z\n"
    )
    mesh = read_nastran(deck(tmp_path, text))
    assert mesh.pos.tolist() == [[0.0015, -25, 0.5], [100, 1, -0.7], [0.0123456789, 3.5, 0], [10, 2, -0.05]]
    assert mesh.cells["tetra"].tolist() == [[0, 1, 2, 3]]
    (tmp_path / "deck.bdf").write_bytes(text.replace("\n", "\r\n").encode())
    assert read_nastran(tmp_path / "deck.bdf").num_nodes == 4


def test_lines_that_go_on_in_another_form(tmp_path):
    mesh = single("tetra10")
    text = cards_of(mesh).split("CTETRA")[0].removeprefix("BEGIN BULK\n")
    first = card("CTETRA", [1, 1, 1, 2, 3, 4, 5, 6])
    assert read_nastran(deck(tmp_path, text + first + ",7,8,9,10\n")).cells["tetra10"].tolist() == [[*range(10)]]
    large = card("CTETRA", [1, 1, 1, 2, 3, 4, 5, 6], "large")
    assert read_nastran(deck(tmp_path, text + large + card("", [7, 8, 9, 10]))).num_cells == 1
    long = "CTETRA,1,1," + ",".join(str(i) for i in range(1, 11)) + "\n"
    assert list(read_nastran(deck(tmp_path, text + long)).cells) == ["tetra10"]


def test_missing_midside_nodes(tmp_path):
    text = cards_of(single("quad8", 2)).replace("ENDDATA\n", "")
    holes = card("CQUAD8", [2, 1, 1, 2, 3, 4, 5, "", 7]) + card("CQUAD8", [3, 1, 1, 2, 3, 4])
    with pytest.warns(UserWarning, match="1 elements lack some midside nodes and were read as linear ones"):
        mesh = read_nastran(deck(tmp_path, text + holes + "ENDDATA\n"))
    assert {kind: len(nodes) for kind, nodes in mesh.cells.items()} == {"quad8": 1, "quad": 2}
    assert mesh.sets["property_1"].ids.tolist() == [0, 1, 2]


SQUARE = "".join(f"GRID,{i},,{x}.,{y}.,0.\n" for i, (x, y) in enumerate([(0, 0), (1, 0), (1, 1), (0, 1)], start=1))


def test_other_cards(tmp_path):
    text = (
        SQUARE
        + "CONROD,1,1,2,5,.1\nCTRIAX6,2,4,1,3,2,4,3,1\nCBUSH,3,1,1,2\nCELAS2,4,1.,1,1\nCELAS2,5,1.,1,1\nPSHELL,9\n"
    )
    with pytest.warns(UserWarning, match="elements left out: 2 CELAS2, 1 CBUSH"):
        mesh = read_nastran(deck(tmp_path, text))
    assert {kind: nodes.tolist() for kind, nodes in mesh.cells.items()} == {
        "line": [[0, 1]],
        "triangle6": [[0, 1, 2, 2, 3, 0]],
    }
    assert mesh.sets == {}
    with pytest.raises(FailedError, match="no elements but 1 CBUSH, which are not understood"):
        read_nastran(deck(tmp_path, SQUARE + "CBUSH,3,1,1,2\n"))


def test_properties_by_name_and_constraints(tmp_path):
    comments = (
        '$HMNAME COMP                   1"skin" \n$HMNAME PROP                   2"inner part" 4\n'
        '$HMNAME COMP                   2"other"\n$ANSA_NAME_COMMENT;4;PSHELL;Roof;;NO;\n$ Femap Property 5 : Rib\n'
    )
    elements = "".join(f"CTRIA3,{i},{pid},1,2,{3 + i % 2}\n" for i, pid in enumerate([2, 1, 2, 3, 4, 5], start=1))
    constraints = (
        "SPC1,7,123,1,THRU,3\nSPC1,7,123,4,99\nSPC,8,1,123,,2,123,\n"
        + card("SPC1", [9, 123456, *range(1, 5), *range(50, 80)])
    )  # fmt: skip
    mesh = read_nastran(deck(tmp_path, comments + "BEGIN BULK\n" + SQUARE + elements + constraints + "ENDDATA\n"))
    assert {name: (named.entity, named.ids.tolist()) for name, named in mesh.sets.items()} == {
        "skin": ("cell", [1]),
        "inner part": ("cell", [0, 2]),
        "property_3": ("cell", [3]),
        "Roof": ("cell", [4]),
        "Rib": ("cell", [5]),
        "spc_7": ("node", [0, 1, 2, 3]),
        "spc_8": ("node", [0, 1]),
        "spc_9": ("node", [0, 1, 2, 3]),
    }


def test_coordinate_systems(tmp_path):
    """5: turned by 90 degrees about z at (1, 0, 0); 6: a cylinder in 5; 7: a sphere; 8: out of three nodes."""
    systems = (
        "CORD2R,5,0,1.,0.,0.,1.,0.,1.\n,1.,1.,0.\nCORD2C,6,5,0.,0.,0.,0.,0.,1.\n,1.,0.,0.\n"
        "CORD2S,7,,0.,0.,0.,0.,0.,1.\n,1.,0.,0.\nCORD1R,8,1,2,3\n"
    )
    points = [("", 0, 0, 0), ("", 0, 0, 1), (0, 1, 0, 0), (5, 2, 0, 3), (6, 2, 90, 1), (7, 2, 90, 90), (8, 1, 2, 3)]
    grids = "".join(f"GRID,{i},{s},{x}.,{y}.,{z}.\n" for i, (s, x, y, z) in enumerate(points, start=1))
    element = "CTETRA,1,1,1,2,3,4\n"
    mesh = read_nastran(deck(tmp_path, systems + grids + element))
    np.testing.assert_allclose(
        mesh.pos, [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 2, 3], [-1, 0, 1], [0, 2, 0], [1, 2, 3]], atol=1e-15
    )
    moved = read_nastran(
        deck(tmp_path, "GRDSET,,5\n" + systems.split("CORD1")[0] + grids.replace("8,1.", "0,1.") + element)
    )
    np.testing.assert_allclose(moved.pos[:2], [[1, 0, 0], [1, 0, 1]], atol=1e-15)


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ("", "coordinate system 5 is used, but not defined"),
        (
            "CORD2R,5,6,0.,0.,0.,0.,0.,1.\n,1.,0.,0.\nCORD2R,6,5,0.,0.,0.,0.,0.,1.\n,1.,0.,0.\n",
            "5 is defined by itself: 5 -> 6",
        ),
        ("CORD2R,5,0,0.,0.,0.,0.,0.,1.\n,0.,0.,2.\n", "three points of coordinate system 5 lie on a line"),
        ("CORD1R,5,1,2,77\n", "coordinate system 5 names node 77, which is not defined"),
        ("CORD1R,5,1,2,9\n", "coordinate system 5 is defined by itself"),
    ],
)
def test_coordinate_systems_that_cannot_be(systems, said, tmp_path):
    with pytest.raises(FailedError, match=said):
        read_nastran(deck(tmp_path, systems + SQUARE + "GRID,9,5,0.,0.,0.\nCTRIA3,1,1,1,2,3\n"))


def test_included_files(tmp_path):
    deck(tmp_path, SQUARE, "nodes.bdf")
    main = deck(tmp_path, "BEGIN BULK\nINCLUDE 'nodes.bdf'\nCQUAD4,1,1,1,2,3,4\nENDDATA\n")
    assert read_nastran(main).num_nodes == 4
    deck(tmp_path, "include 'deck.bdf'\n", "nodes.bdf")
    with pytest.raises(FailedError, match=r"includes itself: deck\.bdf -> nodes\.bdf -> deck\.bdf"):
        read_nastran(main)
    with pytest.raises(FailedError, match=r"includes 'gone\.bdf', which does not exist; put it beside deck\.bdf"):
        read_nastran(deck(tmp_path, "INCLUDE gone.bdf\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("BEGIN BULK\nENDDATA\n", "there are no GRID cards; is it a Nastran deck?"),
        (SQUARE, "no cells found"),
        (SQUARE + "CTRIA3,7,1,1,2,33\n", "element 7 names node 33, which is not defined"),
        (SQUARE + "CTRIA3,7,1,1,2,x\n", "'x' is not an integer"),
        (SQUARE + "CTRIA3,7,1,1,2\n", "element 7 names node 0, which is not defined"),
        (SQUARE + "GRID,8,,zero,0.,0.\n", "'zero' is not a number"),
        (SQUARE + "CTRIA3,7,1,1,2,3\nSPC1,1,1,all\n", "'all' on an SPC card is no node"),
    ],
)
def test_what_cannot_be_read_is_named(text, said, tmp_path):
    with pytest.raises(FailedError, match=said):
        read_nastran(deck(tmp_path, text))


@pytest.mark.parametrize("kind", [kind for kind in CARDS if kind not in ("line3", "wedge15", "pyramid13")])
def test_what_meshio_writes_comes_back(kind, tmp_path):
    """Twelve digits of the positions; for negative ones meshio has no room and gives up."""
    mesh = single(kind)
    points = mesh.pos.numpy() + np.random.default_rng(0).random(mesh.pos.shape) * 10.0 ** np.arange(-3, 0)
    meshio.Mesh(points, [(kind, mesh.cells[kind].numpy())]).write(tmp_path / "x.bdf", file_format="nastran")
    back = read_nastran(tmp_path / "x.bdf")
    np.testing.assert_allclose(back.pos, points, rtol=1e-11)
    assert {name: nodes.tolist() for name, nodes in back.cells.items()} == {kind: mesh.cells[kind].tolist()}


@pytest.mark.parametrize("kind", CARDS)
def test_round_trip(kind, tmp_path):
    """Eleven digits or more have room in a large field, whatever the sign and the size."""
    mesh = single(kind)
    rng = np.random.default_rng(1)
    mesh.pos = mesh.pos + torch.from_numpy(
        rng.normal(size=mesh.pos.shape) * 10.0 ** rng.integers(-8, 9, mesh.pos.shape)
    )
    assert write_nastran(mesh, tmp_path / "x.bdf") == []
    back = read_nastran(tmp_path / "x.bdf")
    np.testing.assert_allclose(back.pos, mesh.pos, rtol=5e-11)
    assert {name: nodes.tolist() for name, nodes in back.cells.items()} == {kind: mesh.cells[kind].tolist()}


def test_what_a_deck_cannot_hold_is_named(rich_mesh, tmp_path):
    rich_mesh.sets = rich_mesh.sets | {
        "first": NamedSet("cell", torch.tensor([0, 2])),
        "also first": NamedSet("cell", torch.tensor([2])),
        'say "b"': NamedSet("cell", torch.tensor([1])),
    }
    assert write_nastran(rich_mesh, tmp_path / "x.bdf") == [
        "field 'temperature'", "field 'displacement'", "field 'type'", "field 'stress'", "units", "periodic_pairs",
        "global 'load'", "global 'material'", "set 'left'", "set 'also first'", "the name of set 'say \"b\"'",
    ]  # fmt: skip
    back = read_nastran(tmp_path / "x.bdf")
    assert back.pos.tolist() == rich_mesh.pos.tolist()
    assert list(back.cells) == ["quad", "triangle"] or list(back.cells) == ["triangle", "quad"]
    names = {name: back.set_nodes(name).tolist() for name in back.sets}
    assert names == {"first": rich_mesh.set_nodes("first").tolist(), "say 'b'": rich_mesh.set_nodes('say "b"').tolist()}
    with pytest.raises(MeshError, match=r"Nastran has no elements of kind hexahedron27; write a \.vtu file"):
        write_nastran(single("hexahedron27"), tmp_path / "x.bdf")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["small", "large", "free"])
def test_damaged_decks_give_a_mesh_or_an_error(form, tmp_path):
    whole = cards_of(grid("wedge15", (2, 1, 1)), form).replace("ENDDATA", "SPC1,7,123,1,THRU,3\nENDDATA").encode()
    path = tmp_path / "deck.bdf"
    for seed in range(60):
        path.write_bytes(damaged(whole, seed))
        start = time.perf_counter()
        with suppress(FailedError, MeshError):
            assert isinstance(read_nastran(path), Mesh)
        assert time.perf_counter() - start < 2, seed
