"""Gmsh files: what Gmsh writes is read right, what is written here Gmsh can open, damage is an error."""

import contextlib
import itertools
import struct
import time

import numpy as np
import pytest
import torch
from mesh.damage import damaged
from mesh.meshes import MIDS, grid, points_of, single

from flare_connect.errors import MeshError
from flare_connect.mesh import CELL_KINDS, Mesh, NamedSet
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.gmsh.read import read_gmsh
from flare_connect.mesh.files.gmsh.types import GMSH_TYPES
from flare_connect.mesh.files.gmsh.write import write_gmsh

FORMATS = [(2.2, 0), (2.2, 1), (4.0, 0), (4.1, 0), (4.1, 1)]
formats = pytest.mark.parametrize(("version", "binary"), FORMATS)

TRIANGLES = """$MeshFormat
2.2 0 8
$EndMeshFormat
$Nodes
5
10 0 0 0
30 1 0 0
20 1 1 0
7 0 1 0
99 5 5 0
$EndNodes
$Elements
3
1 1 2 0 1 10 30
2 2 2 0 1 10 30 20
3 2 2 0 1 10 20 7
$EndElements
"""


def written(gmsh, path, version, binary):
    gmsh.option.setNumber("Mesh.MshFileVersion", version)
    gmsh.option.setNumber("Mesh.Binary", binary)
    gmsh.write(str(path))
    return path


def two_squares(gmsh, order=1):
    """Two unit squares side by side, the right one in two groups, left and right sides periodic."""
    occ = gmsh.model.occ
    occ.addRectangle(0, 0, 0, 1, 1)
    occ.addRectangle(1, 0, 0, 1, 1)
    occ.fragment([(2, 1)], [(2, 2)])
    occ.synchronize()
    gmsh.option.setNumber("Mesh.MeshSizeMax", 0.5)
    gmsh.option.setNumber("Mesh.ElementOrder", order)
    at = {tag: occ.getCenterOfMass(1, tag)[0] for _, tag in gmsh.model.getEntities(1)}
    left, right = ([tag for tag, x in at.items() if abs(x - wanted) < 1e-9] for wanted in (0, 2))
    gmsh.model.addPhysicalGroup(2, [1, 2], 7, "body")
    gmsh.model.addPhysicalGroup(2, [2], 8, "right half")
    gmsh.model.addPhysicalGroup(1, left, 7, "inlet")
    gmsh.model.addPhysicalGroup(1, left + right, 9)
    gmsh.model.addPhysicalGroup(1, right, 12, "body")
    gmsh.model.addPhysicalGroup(0, [1], 1, "corner")
    shift = [1, 0, 0, 2, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    gmsh.model.mesh.setPeriodic(1, right, left, shift)
    gmsh.model.mesh.generate(2)


def centres(mesh, name):
    nodes = [cell for block in mesh.cells.values() for cell in block]
    return np.array([mesh.pos[nodes[i]].mean(0).numpy() for i in mesh.sets[name].ids.tolist()])


@formats
@pytest.mark.parametrize("order", [1, 2])
def test_groups_and_periodic_nodes_of_gmsh(gmsh, tmp_path, version, binary, order):
    two_squares(gmsh, order)
    count = len(gmsh.model.mesh.getNodes()[0])
    mesh = read_gmsh(written(gmsh, tmp_path / "x.msh", version, binary))
    assert (mesh.num_nodes, mesh.dim, len(mesh.orphan_nodes)) == (count, 2, 0)
    assert set(mesh.cells) == {"vertex", "line", "triangle"} if order == 1 else {"vertex", "line3", "triangle6"}
    assert mesh.total_measure == pytest.approx(2)
    assert set(mesh.sets) == {"body", "body:1", "right half", "inlet", "physical_1_9", "corner"}
    assert all(named.entity == "cell" for named in mesh.sets.values())
    triangles = mesh.cells["triangle" if order == 1 else "triangle6"]
    assert len(mesh.sets["body"].ids) == len(triangles)
    assert len(mesh.sets["right half"].ids) == sum(mesh.pos[triangles[:, :3]].mean(1)[:, 0] > 1)
    assert (centres(mesh, "right half")[:, 0] > 1).all()
    assert (centres(mesh, "inlet")[:, 0] == 0).all()
    assert (centres(mesh, "body:1")[:, 0] == 2).all()
    assert len(mesh.sets["physical_1_9"].ids) == 2 * len(mesh.sets["inlet"].ids)
    assert mesh.pos[mesh.set_nodes("corner")].tolist() == [[0, 0]]
    assert "gmsh:geometrical" not in mesh.cell_data
    slave, master = mesh.periodic_pairs
    assert len(slave) == len(mesh.sets["inlet"].ids) + 1  # Gmsh names no midside nodes here
    torch.testing.assert_close(mesh.pos[slave], mesh.pos[master] + torch.tensor([2.0, 0.0]), rtol=0, atol=1e-12)


@formats
def test_without_groups_the_entities_are_a_field(gmsh, tmp_path, version, binary):
    two_squares(gmsh)
    gmsh.model.removePhysicalGroups()
    mesh = read_gmsh(written(gmsh, tmp_path / "x.msh", version, binary))
    entity = mesh.cell_data["gmsh:geometrical"]["triangle"]
    assert torch.equal(entity == 2, mesh.pos[mesh.cells["triangle"]].mean(1)[:, 0] > 1)
    assert not any(len(named.ids) for named in mesh.sets.values())  # Gmsh keeps the names


@formats
def test_nodes_of_every_kind_are_in_order(gmsh, tmp_path, version, binary, kind):
    """Gmsh's own reference cell, written by Gmsh: each midside node lies between its corners."""
    number = next(number for number, name in GMSH_TYPES.items() if name == kind)
    _, dim, _, count, local, _ = gmsh.model.mesh.getElementProperties(number)
    points = np.zeros((count, 3))
    points[:, :dim] = np.reshape(local, (count, -1))[:, :dim]
    gmsh.model.addDiscreteEntity(dim, 1)
    gmsh.model.mesh.addNodes(dim, 1, range(1, count + 1), points.reshape(-1))
    gmsh.model.mesh.addElementsByType(1, number, [1], range(1, count + 1))
    mesh = read_gmsh(written(gmsh, tmp_path / "x.msh", version, binary))
    nodes = mesh.pos[mesh.cells[kind][0]].numpy()
    corners = nodes[: CELL_KINDS[kind].num_corners]
    np.testing.assert_allclose(
        nodes[len(corners) :], [corners[list(mid)].mean(0) for mid in MIDS.get(kind, [])] or nodes[:0]
    )
    np.testing.assert_allclose(corners, points[: len(corners), : mesh.dim])
    assert mesh.num_inverted_cells == 0


def test_every_kind_opens_in_gmsh(gmsh, tmp_path, kind):
    mesh = single(kind)
    assert write_gmsh(mesh, tmp_path / "x.msh") == []
    back = read_gmsh(tmp_path / "x.msh")
    assert back.cells[kind].tolist() == mesh.cells[kind].tolist()
    gmsh.open(str(tmp_path / "x.msh"))
    (number,), _, (nodes,) = gmsh.model.mesh.getElements()
    _, dim, _, count, local, _ = gmsh.model.mesh.getElementProperties(number)
    assert GMSH_TYPES[number] == kind
    # the reference cells are affine images of each other, so the nodes fit in Gmsh's order
    reference = np.column_stack([np.ones(count), np.reshape(local, (count, -1))[:, :dim]])
    found = points_of(kind)[nodes.astype(int) - 1]
    assert np.linalg.lstsq(reference, found, rcond=None)[1].sum() + 1 == pytest.approx(1) or kind.startswith("pyramid")
    if kind.startswith("pyramid"):
        assert found[4].tolist() == [0.5, 0.5, 1]


def test_round_trip(rich_mesh, tmp_path):
    mesh = rich_mesh
    mesh.cells |= {"line": torch.tensor([[3, 0], [1, 2]]), "vertex": torch.tensor([[4]])}
    mesh.point_data["tensor"] = torch.rand(6, 9, dtype=torch.float64)
    mesh.cell_data["only"] = {"triangle": torch.rand(2, 3, dtype=torch.float64)}
    mesh.sets = {
        "part": NamedSet("cell", torch.tensor([0, 2])),
        'in "more" parts, é': NamedSet("cell", torch.tensor([2, 0, 3, 5])),
        "none": NamedSet("cell", torch.tensor([], dtype=torch.long)),
        "left": NamedSet("node", torch.tensor([0, 3])),
        "side": NamedSet("facet", torch.tensor([[1, 2]])),
    }
    assert write_gmsh(mesh, tmp_path / "x.msh") == ["units", "global 'load'", "global 'material'"]
    back = read_gmsh(tmp_path / "x.msh")
    assert torch.equal(back.pos, mesh.pos)
    assert {k: v.tolist() for k, v in back.cells.items()} == {k: v.tolist() for k, v in mesh.cells.items()}
    assert list(back.cells) == list(mesh.cells)
    assert torch.equal(back.periodic_pairs, mesh.periodic_pairs)
    assert back.time_steps == []
    assert list(back.sets) == list(mesh.sets)
    for name, named in mesh.sets.items():
        assert back.sets[name].entity == ("cell" if named.entity == "cell" else "node")
        assert torch.equal(back.set_nodes(name), mesh.set_nodes(name))
        if named.entity == "cell":
            assert back.sets[name].ids.tolist() == sorted(named.ids.tolist())
    assert set(back.point_data) == set(mesh.point_data)
    for name, values in mesh.point_data.items():
        wanted = torch.nn.functional.pad(values.double(), (0, 1)) if name == "displacement" else values.double()
        assert torch.equal(back.point_data[name], wanted)
    assert {n: {k: v.tolist() for k, v in b.items()} for n, b in back.cell_data.items()} == {
        n: {k: v.tolist() for k, v in b.items()} for n, b in mesh.cell_data.items()
    }


def test_written_file_opens_in_gmsh(gmsh, rich_mesh, tmp_path):
    rich_mesh.cells["line"] = torch.tensor([[3, 0]])
    rich_mesh.sets |= {
        "a": NamedSet("cell", torch.tensor([0, 3])),
        "b": NamedSet("cell", torch.tensor([0, 1])),
    }
    write_gmsh(rich_mesh, tmp_path / "x.msh")
    gmsh.logger.start()
    gmsh.open(str(tmp_path / "x.msh"))
    assert all(line.startswith("Info") for line in gmsh.logger.get())
    gmsh.logger.stop()
    assert len(gmsh.model.mesh.getNodes()[0]) == 6
    assert sum(len(tags) for tags in gmsh.model.mesh.getElements()[1]) == 4
    groups = {(dim, gmsh.model.getPhysicalName(dim, tag)) for dim, tag in gmsh.model.getPhysicalGroups()}
    assert groups == {(1, "a"), (2, "a"), (2, "b")}
    views = [gmsh.option.getString(f"View[{gmsh.view.getIndex(tag)}].Name") for tag in gmsh.view.getTags()]
    assert views == ["temperature", "displacement", "type", "set:left", "stress"]
    assert np.ravel(gmsh.view.getModelData(gmsh.view.getTags()[0], 0)[2]).tolist() == [0, 1, 2, 3, 4, 5]
    back = read_gmsh(written(gmsh, tmp_path / "y.msh", 4.1, 1))
    assert len(back.periodic_pairs[0]) == 2


def test_other_widths_are_taken_apart(tmp_path):
    mesh = grid("triangle", (1, 1))
    mesh.point_data = {"u": torch.arange(16.0).reshape(4, 4), "u_2": torch.ones(4), "empty": torch.zeros(4, 0)}
    assert write_gmsh(mesh, tmp_path / "x.msh") == ["field 'empty'"]
    back = read_gmsh(tmp_path / "x.msh")
    assert list(back.point_data) == ["u_0", "u_1", "u_2", "u_3", "u_2_"]
    assert torch.equal(back.point_data["u_2"], mesh.point_data["u"][:, 2].double())


def test_what_gmsh_cannot_hold(tmp_path):
    mesh = grid("triangle", (1, 1))
    mesh.sets = {"two\nlines": NamedSet("cell", torch.tensor([0])), "x" * 300: NamedSet("node", torch.tensor([0]))}
    assert write_gmsh(mesh, tmp_path / "x.msh") == ["set 'two\\nlines'", f"set '{'x' * 300}'"]
    assert not read_gmsh(tmp_path / "x.msh").sets
    other = Mesh.from_arrays(np.eye(4)[:, :3], {"line4": [[0, 1, 2, 3]]})
    with pytest.raises(MeshError, match=r"cannot hold cells of kind line4; write a \.vtu file"):
        write_gmsh(other, tmp_path / "y.msh")


@formats
def test_views_of_gmsh(gmsh, tmp_path, version, binary):
    """Gmsh repeats the mesh with each view that it appends; a field at corners becomes its mean."""
    two_squares(gmsh, 2)
    gmsh.option.setNumber("Mesh.SaveAll", 1)
    path = written(gmsh, tmp_path / "x.msh", version, binary)
    name = gmsh.model.getCurrent()
    tags, points, _ = gmsh.model.mesh.getNodes()
    at = dict(zip(tags.tolist(), points.reshape(-1, 3).tolist(), strict=True))
    _, (elements,), (nodes,) = gmsh.model.mesh.getElements(2)
    corners = nodes.reshape(-1, 6)
    moving, constant, ends = (gmsh.view.add(title) for title in ("u", "number", "corner"))
    for step in range(3):
        gmsh.view.addModelData(
            moving, step, name, "NodeData", tags, [[(step + 1) * x for x in at[t]] for t in at], step / 2
        )
    gmsh.view.addModelData(constant, 0, name, "ElementData", elements, [[float(t)] for t in elements])
    values = [[x for node in row for x in at[node]] for row in corners.tolist()]
    gmsh.view.addModelData(ends, 0, name, "ElementNodeData", elements, values, 0, 3)
    for view in (moving, constant, ends):
        gmsh.view.write(view, str(path), append=True)
    for step, factor in ((-1, 3), (0, 1), (1, 2)):
        with pytest.warns(UserWarning, match="'corner' has values at the corners of each element; their mean"):
            mesh = read_gmsh(path, step)
        assert mesh.time_steps == [0, 0.5, 1]
        position = torch.nn.functional.pad(mesh.pos, (0, 1))
        torch.testing.assert_close(mesh.point_data["u"], factor * position, rtol=0, atol=1e-12)
        torch.testing.assert_close(mesh.point_data["corner"], position, rtol=0, atol=1e-12)
        assert list(mesh.cell_data["number"]) == ["triangle6"]
        assert mesh.total_measure == pytest.approx(2)
    with pytest.raises(FailedError, match="there is no step 3; the file has 3"):
        read_gmsh(path, 3)


@formats
def test_partitions_and_parameters(gmsh, tmp_path, version, binary):
    gmsh.model.occ.addSphere(0, 0, 0, 1)
    gmsh.model.occ.synchronize()
    gmsh.option.setNumber("Mesh.MeshSizeMax", 0.8)
    gmsh.model.addPhysicalGroup(3, [1], 5, "ball")
    gmsh.model.addPhysicalGroup(2, [1], 5, "skin")
    gmsh.model.mesh.generate(3)
    gmsh.option.setNumber("Mesh.SaveParametric", int(version > 3))
    whole = read_gmsh(written(gmsh, tmp_path / "x.msh", version, binary))
    gmsh.option.setNumber("Mesh.PartitionCreateGhostCells", 1)
    gmsh.model.mesh.partition(3)
    parts = read_gmsh(written(gmsh, tmp_path / "y.msh", version, binary))
    for mesh in (whole, parts):
        assert mesh.total_measure == pytest.approx(whole.total_measure)
        assert len(mesh.sets["ball"].ids) == len(mesh.cells["tetra"])
        assert len(mesh.sets["skin"].ids) == len(mesh.cells["triangle"])
        skin = mesh.pos[mesh.set_nodes("skin")].norm(dim=1)
        torch.testing.assert_close(skin, torch.ones_like(skin))


def test_numbers_in_any_order(tmp_path):
    """Nodes stay in the order of the file, sparse numbers and orphans too; cells are in that of their numbers."""
    text = TRIANGLES.replace("1 1 2 0 1 10 30\n", "12 1 2 0 1 10 30\n").replace("2 2 2 0 1 10", "1000000000 2 2 0 1 10")
    for far in ("99", "2000000000"):
        (tmp_path / "x.msh").write_text(text.replace("99 5 5", f"{far} 5 5"))
        mesh = read_gmsh(tmp_path / "x.msh")
        assert mesh.pos.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1], [5, 5]]
        assert {k: v.tolist() for k, v in mesh.cells.items()} == {"triangle": [[0, 2, 3], [0, 1, 2]], "line": [[0, 1]]}
        assert mesh.orphan_nodes.tolist() == [4]
    (tmp_path / "x.msh").write_text(text.replace("\n", "\r\n"))
    assert read_gmsh(tmp_path / "x.msh").num_cells == 3


def field(section, name, rows, step=0, at=0.0):
    width = len(rows[0].split()) - 1
    return (
        f'${section}\n1\n"{name}"\n1\n{at}\n3\n{step}\n{width}\n{len(rows)}\n' + "\n".join(rows) + f"\n$End{section}\n"
    )


def test_fields_on_part_of_the_mesh(tmp_path):
    (tmp_path / "x.msh").write_text(
        TRIANGLES
        + field("NodeData", "no orphan", ["30 2", "20 3", "7 4", "10 1", "12345 9"])
        + field("NodeData", "part", ["30 2", "20 3", "99 4"])
        + field("NodeData", "set:chosen", ["20 1", "30 0"])
        + field("ElementData", "on lines", ["1 5 6 7"])
        + field("ElementData", "part of cells", ["1 5", "3 6"])
        + field("ElementData", "set:cell", ["2 1"])
    )
    with pytest.warns(UserWarning, match="left out") as caught:
        mesh = read_gmsh(tmp_path / "x.msh")
    assert [str(warning.message) for warning in caught] == [
        "cell field 'part of cells' left out on 'triangle': 1 of 2 have no value",
        "field 'part' left out: 2 nodes have no value; allow_nonfinite=True fills in NaN",
    ]
    assert {n: v.tolist() for n, v in mesh.point_data.items()} == {"no orphan": [1, 2, 3, 4, 0]}
    assert mesh.set_nodes("chosen").tolist() == [2]
    assert mesh.sets["cell"].ids.tolist() == [1]
    assert {n: list(b) for n, b in mesh.cell_data.items()} == {"on lines": ["line"], "part of cells": ["line"]}
    assert mesh.time_steps == []
    filled = read_gmsh(tmp_path / "x.msh", allow_nonfinite=True)
    np.testing.assert_array_equal(filled.point_data["part"], [np.nan, 2, 3, np.nan, 4])
    np.testing.assert_array_equal(filled.cell_data["part of cells"]["triangle"], [np.nan, 6])


def test_steps_without_times_and_fields_that_begin_later(tmp_path):
    ones = [f"{tag} 1" for tag in (10, 30, 20, 7, 99)]
    late = field("NodeData", "late", ones, step=1)
    (tmp_path / "x.msh").write_text(
        TRIANGLES + late + "".join(field("NodeData", "u", [row[:-1] + str(s) for row in ones], s) for s in (2, 0, 1))
    )
    for step in range(3):
        mesh = read_gmsh(tmp_path / "x.msh", step)
        assert mesh.point_data["u"].tolist() == [step] * 5
        assert ("late" in mesh.point_data) == (step >= 1)
        assert mesh.time_steps == [0, 0, 0]
    (tmp_path / "x.msh").write_text(TRIANGLES + field("NodeData", "u", ones, 7, 2.5))
    assert read_gmsh(tmp_path / "x.msh").time_steps == [2.5]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("size", ["i", "q"])
def test_either_order_of_bytes(tmp_path, order, size):
    def pack(what, *values):
        return struct.pack(order + what.replace("z", size), *values)

    points = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    head = f"8\n$EndMeshFormat\n{'$'}Comments\nany $Nodes\n$EndComments\n".encode()
    new = (
        b"$MeshFormat\n4.1 1 %d\n" % struct.calcsize("=" + size) + pack("i", 1) + b"\n" + head[2:]
        + b'$PhysicalNames\n1\n3 4 "all"\n$EndPhysicalNames\n$Entities\n'
        + pack("zzzz", 0, 0, 0, 1) + pack("i6dziz", 1, 0, 0, 0, 1, 1, 1, 1, 4, 0)
        + b"\n$EndEntities\n$Nodes\n"
        + pack("4ziiiz", 1, 4, 1, 4, 3, 1, 0, 4) + pack("4z12d", 1, 2, 3, 4, *np.ravel(points))
        + b"\n$EndNodes\n$Elements\n"
        + pack("4ziiiz", 1, 1, 1, 1, 3, 1, 4, 1) + pack("5z", 1, 1, 2, 3, 4)
        + b"\n$EndElements\n"
    )  # fmt: skip
    old = (
        b"$MeshFormat\n2.2 1 " + head[:1] + b"\n" + pack("i", 1) + b"\n" + head[2:]
        + b'$PhysicalNames\n1\n3 4 "all"\n$EndPhysicalNames\n$Nodes\n4\n'
        + b"".join(pack("i3d", i, *point) for i, point in enumerate(points, start=1))
        + b"\n$EndNodes\n$Elements\n2\n"
        + pack("3i", 4, 2, 2) + pack("7i", 1, 4, 1, 1, 2, 3, 4) + pack("7i", 1, 4, 1, 1, 2, 3, 4)
        + b"\n$EndElements\n"
    )  # fmt: skip
    for data in (new, old):
        (tmp_path / "x.msh").write_bytes(data)
        mesh = read_gmsh(tmp_path / "x.msh")
        assert mesh.pos.tolist() == points
        assert mesh.cells["tetra"].tolist() == [[0, 1, 2, 3]]
        assert mesh.sets["all"].ids.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("$MeshFormat\n2.2 0 8\n$EndMeshFormat\n", "(0 fluent"), "is no Gmsh file: it does not begin with a section"),
        (("$MeshFormat\n2.2 0 8\n$EndMeshFormat\n", ""), r"is no Gmsh file: \$Nodes comes before \$MeshFormat"),
        (("2.2 0", "1.0 0"), "is of msh version 1.0; known are 2.0 to 2.2, 4.0 and 4.1"),
        (("10 20 7", "10 20 8"), "has elements on node 8, which it does not define"),
        (("7 0 1 0", "10 0 1 0"), "defines node 10 at two places"),
        (("1 1 2 0 1", "1 13 2 0 1"), r"elements of Gmsh's type 13 \(wedge18\) are not known"),
        (("1 1 2 0 1", "1 77 2 0 1"), "elements of Gmsh's type 77 are not known"),
        (("$Elements\n3", "$Elements\n2"), r"\$Elements holds more than it announces"),
        (("$Elements\n3", "$Elements\n999999999999"), r"cut short: \$Elements announces"),
        (("$Nodes\n5", "$Nodes\n-5"), r"cut short: \$Nodes announces"),
        (("$Nodes\n5", "$Nodes\nmany"), r"\$Nodes has 'many' where a number must be"),
        (("30 1 0 0", "30 1 O 0"), r"\$Nodes holds something else than numbers"),
        (("30 1 0 0", "30.5 1 0 0"), r"\$Nodes has 30.5 where a whole number must be"),
        (("$EndElements", ""), r"cut short: \$Elements has no \$EndElements"),
        (("1 1 2 0 1 10 30\n", "1 1 -2 0 1 10 30\n"), "elements of -2 tags"),
    ],
)
def test_errors_say_what_is_wrong(tmp_path, change, message):
    assert change[0] in TRIANGLES
    (tmp_path / "x.msh").write_text(TRIANGLES.replace(*change))
    with pytest.raises(FailedError, match=message):
        read_gmsh(tmp_path / "x.msh")


def test_no_cells(tmp_path):
    (tmp_path / "x.msh").write_text(TRIANGLES[: TRIANGLES.index("$Elements")])
    with pytest.raises(FailedError, match="no cells found"):
        read_gmsh(tmp_path / "x.msh")


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.filterwarnings("ignore:.*their mean at each node")
def test_damage_is_an_error_and_soon(gmsh, tmp_path, rich_mesh):
    write_gmsh(rich_mesh, tmp_path / "own.msh")
    two_squares(gmsh)
    files = [tmp_path / "own.msh"]
    for version, binary in FORMATS[1:2] + FORMATS[3:]:
        files.append(written(gmsh, tmp_path / f"{version}_{binary}.msh", version, binary))
    for file, seed in itertools.product(files, range(100)):
        (tmp_path / "x.msh").write_bytes(damaged(file.read_bytes(), seed))
        start = time.perf_counter()
        with contextlib.suppress(FailedError, MeshError):
            read_gmsh(tmp_path / "x.msh")
        assert time.perf_counter() - start < 2, (file.name, seed)
