import time

import meshio
import numpy as np
import pytest
import pyvista
import torch
from mesh.meshes import grid, single

from flare_connect.errors import MeshError, MeshReadError
from flare_connect.mesh import CELL_KINDS, Mesh, NamedSet, load_mesh


def same(a, b):
    assert torch.equal(a.pos, b.pos)
    assert {k: v.tolist() for k, v in a.cells.items()} == {k: v.tolist() for k, v in b.cells.items()}
    for container in ("point_data", "global_data"):
        left, right = getattr(a, container), getattr(b, container)
        assert {k: v.tolist() for k, v in left.items()} == {k: v.tolist() for k, v in right.items()}
    assert {n: {k: v.tolist() for k, v in b.items()} for n, b in a.cell_data.items()} == {
        n: {k: v.tolist() for k, v in b.items()} for n, b in b.cell_data.items()
    }
    assert list(a.sets) == list(b.sets)
    for name in a.sets:
        assert a.set_nodes(name).tolist() == b.set_nodes(name).tolist()


@pytest.mark.parametrize("extension", ["vtu", "vtk", "vtp"])
def test_vtk_round_trip_keeps_all(rich_mesh, tmp_path, extension):
    if extension == "vtp":  # VTK stores all polygons in one list: kinds come back in the order of first appearance
        rich_mesh.cells = dict(reversed(rich_mesh.cells.items()))
        rich_mesh.cell_data = {"stress": dict(reversed(rich_mesh.cell_data["stress"].items()))}
    rich_mesh.sets = rich_mesh.sets | {"cells": NamedSet("cell", torch.tensor([2]))}
    rich_mesh.save(tmp_path / f"x.{extension}")
    back = load_mesh(tmp_path / f"x.{extension}")
    same(rich_mesh, back)
    assert back.dim == 2
    assert back.sets["cells"].entity == "cell"
    assert back.units == rich_mesh.units
    assert torch.equal(back.periodic_pairs, rich_mesh.periodic_pairs)
    assert back.point_data["temperature"].dtype == torch.float32
    assert not back.point_data["type"].is_floating_point()
    assert [file.name for file in tmp_path.iterdir()] == [f"x.{extension}"]


def test_a_series_with_components_is_written_frame_after_frame(tmp_path):
    mesh = grid("triangle", (2, 2))
    series = torch.arange(mesh.num_nodes * 6.0).reshape(mesh.num_nodes, 3, 2)
    mesh.point_data = {"velocity": series}
    mesh.save(tmp_path / "x.vtu")
    assert torch.equal(load_mesh(tmp_path / "x.vtu").point_data["velocity"], series.flatten(1))


@pytest.mark.parametrize("extension", ["msh", "xdmf", "med"])
def test_what_a_format_cannot_hold_is_named(rich_mesh, tmp_path, extension):
    lost = "units, global 'load', global 'material'"
    if extension != "msh":
        lost = lost.replace("units", "units, periodic_pairs")
    with pytest.warns(UserWarning, match=f"cannot hold {lost}; a .vtu file can"):
        rich_mesh.save(tmp_path / f"x.{extension}")
    back = load_mesh(tmp_path / f"x.{extension}")
    # gmsh has no fields of two components
    width = 3 if extension == "msh" else 2
    assert back.point_data["displacement"].shape == (6, width)
    np.testing.assert_allclose(back.point_data["displacement"][:, :2], rich_mesh.point_data["displacement"])
    for kind, nodes in rich_mesh.cells.items():
        assert back.cells[kind].tolist() == nodes.tolist()
        assert back.cell_data["stress"][kind].tolist() == rich_mesh.cell_data["stress"][kind].tolist()
    assert back.set_nodes("left").tolist() == [0, 3]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("x.stl", "quad", "a stl file holds triangle, not quad"),
        ("x.off", "tetra", "a off file holds triangle, not tetra"),
        ("x.mesh", "pyramid", "a medit file holds .*, not pyramid"),
    ],
)
def test_cells_that_a_format_would_leave_out_silently(name, kind, message, tmp_path):
    with pytest.raises(MeshError, match=message):
        single(kind).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_gmsh_takes_other_widths_apart(tmp_path):
    mesh = grid("triangle", (1, 1))
    mesh.point_data = {"u": torch.arange(16.0).reshape(4, 4)}
    mesh.cell_data = {"s": {"triangle": torch.arange(8.0).reshape(2, 4)}}
    mesh.save(tmp_path / "x.msh")
    back = load_mesh(tmp_path / "x.msh")
    assert torch.equal(back.point_data["u_2"], mesh.point_data["u"][:, 2].double())
    assert back.cell_data["s_3"]["triangle"].tolist() == [3, 7]


def test_format_without_fields_says_so(tmp_path):
    mesh = grid("triangle", (1, 1))
    mesh.point_data = {"u": torch.zeros(4)}
    with pytest.warns(UserWarning, match=r"'x.off' cannot hold field 'u'"):
        mesh.save(tmp_path / "x.off")
    assert load_mesh(tmp_path / "x.off").cells["triangle"].shape == (2, 3)


def test_every_kind_round_trips(kind, tmp_path):
    mesh = single(kind, dim=3 if CELL_KINDS[kind].dim == 3 else 2)
    mesh.save(tmp_path / "x.vtu")
    if kind == "vertex":
        with pytest.raises(MeshReadError, match="holds cells of kind 'vertex' only; a point cloud has no mesh"):
            load_mesh(tmp_path / "x.vtu")
    else:
        same(mesh, load_mesh(tmp_path / "x.vtu"))
    if kind in ("wedge15", "pyramid13"):
        with pytest.raises(MeshError, match=f"meshio cannot hold cells of kind {kind}"):
            mesh.to_meshio()
    else:
        same(mesh, Mesh.from_meshio(mesh.to_meshio()))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 1, 3, 5, 4]], ids=["inward", "outward"])
def test_wedges_are_upright_in_either_order(order):
    """VTK's manual and VTK's volume filter disagree on a wedge's first triangle; files come in both."""
    mesh = grid("wedge", (1, 1, 1))
    nodes = mesh.cells["wedge"].numpy()
    vtk = pyvista.UnstructuredGrid({pyvista.CellType.WEDGE: nodes[:, order]}, mesh.pos.numpy())
    assert Mesh.from_pyvista(vtk).cells["wedge"].tolist() == nodes.tolist()
    assert mesh.to_pyvista().cells_dict[13].tolist() == nodes[:, [0, 2, 1, 3, 5, 4]].tolist()  # as the manual has it


def test_partial_cell_field(rich_mesh, tmp_path):
    rich_mesh.cell_data = {"s": {"triangle": torch.tensor([1.0, 2.0])}}
    rich_mesh.save(tmp_path / "x.vtu")
    back = load_mesh(tmp_path / "x.vtu").cell_data["s"]
    assert {k: v.tolist() for k, v in back.items()} == {"triangle": [1.0, 2.0]}


def test_blocks_are_merged_and_names_decoded():
    m = meshio.Mesh(
        np.random.default_rng(0).normal(size=(5, 3)),
        [("triangle", [[0, 1, 2]]), ("line", [[0, 1]]), ("triangle", [[2, 3, 4]])],
        point_data={"Nodal%20Stress": np.arange(5.0)},
        cell_data={"p": [[1.0], [2.0], [3.0]]},
        point_sets={"fixed": [4, 1]},
        cell_sets={"part": [[], [0], [0]]},
    )
    mesh = Mesh.from_meshio(m)
    assert mesh.cells["triangle"].tolist() == [[0, 1, 2], [2, 3, 4]]
    assert mesh.cell_data["p"]["triangle"].tolist() == [1, 3]
    assert list(mesh.point_data) == ["Nodal Stress"]
    assert mesh.set_nodes("fixed").tolist() == [1, 4]
    assert mesh.sets["part"].ids.tolist() == [1, 2]
    assert mesh.set_nodes("part").tolist() == [0, 1, 2, 3, 4]


def test_gmsh_physical_groups(tmp_path):
    m = meshio.Mesh(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0.0]],
        [("triangle", [[0, 1, 2]]), ("line", [[0, 1], [1, 2]])],
        cell_data={"gmsh:physical": [[7], [5, 6]], "gmsh:geometrical": [[1], [1, 2]]},
        field_data={"inlet": [5, 1], "body": [7, 2]},
    )
    m.write(tmp_path / "x.msh", file_format="gmsh22", binary=False)
    mesh = load_mesh(tmp_path / "x.msh")
    assert mesh.set_nodes("inlet").tolist() == [0, 1]
    assert mesh.set_nodes("body").tolist() == [0, 1, 2]


def test_other_vtk_cells():
    """Pixels, voxels, poly-lines and strips become simple cells; blocks are joined."""
    image = Mesh.from_pyvista(pyvista.ImageData(dimensions=(3, 3, 2)))
    assert image.total_measure == pytest.approx(4.0)
    assert image.num_inverted_cells == 0
    flat = Mesh.from_pyvista(pyvista.ImageData(dimensions=(3, 3, 1)))
    assert (flat.dim, flat.total_measure, flat.num_inverted_cells) == (2, 4.0, 0)
    line = pyvista.PolyData([[0.0, 0, 0], [1, 0, 1], [2, 0, 0]], lines=[3, 0, 1, 2])
    line.cell_data["id"] = [9]
    mesh = Mesh.from_pyvista(line)
    assert mesh.cells["line"].tolist() == [[0, 1], [1, 2]]
    assert mesh.cell_data["id"]["line"].tolist() == [9, 9]
    strip = pyvista.PolyData([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], strips=[4, 0, 1, 2, 3])
    mesh = Mesh.from_pyvista(strip)
    assert mesh.total_measure == pytest.approx(1.0)
    # all three points of each triangle run the same way round
    a, b, c = mesh.pos[mesh.cells["triangle"]].unbind(1)
    assert (torch.linalg.det(torch.stack([b - a, c - a], 1)) > 0).all()
    blocks = pyvista.MultiBlock([grid("tetra", (1, 1, 1)).to_pyvista(), None, grid("tetra", (1, 1, 1)).to_pyvista()])
    joined = Mesh.from_pyvista(blocks)
    assert (joined.num_nodes, joined.num_components) == (16, 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.vtu",
            b"junk",
            r"x.vtu cannot be read. Tried VTK XML reader: syntax error.*; PyVista: .*; meshio: Could",
        ),
        ("x.vtk", b"junk", r"x.vtk cannot be read. Tried PyVista: Unrecognized file type: junk.*; meshio: "),
        ("x.msh", b"junk", r"x.msh cannot be read. Tried Gmsh reader: is no Gmsh file.*; meshio: Couldn't read file"),
        ("x.inp", b"\xff\x00", r"x.inp holds no cells"),
        ("x.xyz", b"", r"the extension '.xyz' is not known; known are .vtu, .vtp, .*\.msh"),
    ],
)
def test_unreadable_files(tmp_path, capfd, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshReadError, match=message):
        load_mesh(tmp_path / name)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_missing_folder_empty(tmp_path):
    with pytest.raises(MeshReadError, match=r"no\.vtu does not exist"):
        load_mesh(tmp_path / "no.vtu")
    with pytest.raises(MeshReadError, match="is a folder"):
        load_mesh(tmp_path)
    pyvista.UnstructuredGrid().save(tmp_path / "empty.vtu")
    with pytest.raises(MeshReadError, match=r"empty\.vtu holds no cells"):
        load_mesh(tmp_path / "empty.vtu")


def test_bad_field_names_file_and_mend(tmp_path):
    mesh = Mesh.from_arrays([[0, 0], [1, 0]], {"line": [[0, 1]]}, point_data={"u": [np.nan, 1]}, allow_nonfinite=True)
    mesh.save(tmp_path / "x.vtu")
    with pytest.raises(MeshError, match=r"x\.vtu: field 'u' holds 1 NaN .*allow_nonfinite=True"):
        load_mesh(tmp_path / "x.vtu")
    assert load_mesh(tmp_path / "x.vtu", allow_nonfinite=True).num_nodes == 2


def test_empty_sets_are_named_once(tmp_path):
    mesh = grid("triangle", (1, 1))
    mesh.sets = {"steel": NamedSet("cell", torch.arange(2)), "holes": NamedSet("cell", torch.arange(0))}
    mesh.save(tmp_path / "x.vtu")
    with pytest.warns(UserWarning, match=r"x\.vtu: nothing is in the sets 'holes'; Gmsh") as found:
        assert list(load_mesh(tmp_path / "x.vtu").sets) == ["steel", "holes"]
    assert len(found) == 1


def test_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.vtp"
    path.write_text("old")
    with pytest.raises(MeshError, match=r"holds vertex, line, triangle, quad, not tetra; write a .vtu file"):
        grid("tetra", (1, 1, 1)).save(path)
    with pytest.raises(MeshError, match=r"the extension '.foo' is not one of .vtu"):
        grid("tetra", (1, 1, 1)).save(tmp_path / "x.foo")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("extension", [".vtu", ".vtp"])
@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_what_vtk_broke_off_is_an_error(extension, kept, tmp_path, monkeypatch):
    """On a full disk it says nothing."""
    mesh, path = grid("triangle", (2, 2)), tmp_path / f"mesh{extension}"
    mesh.save(path)
    before = path.read_bytes()

    def broken(self, to, *args, **options):
        to.write_bytes(before[: int(kept * len(before))])

    monkeypatch.setattr(pyvista.DataSet, "save", broken)
    with pytest.raises(MeshError, match="the writer broke off, perhaps since the disk is full"):
        mesh.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_real_bracket(shared_data):
    start = time.perf_counter()
    mesh = load_mesh(shared_data / "bracket_fea.vtu")
    assert time.perf_counter() - start < 10  # 0.4 s measured; a guard against a loop over cells
    assert (mesh.num_nodes, mesh.cells["tetra10"].shape) == (102578, (56786, 10))
    assert "Equivalent (von-Mises) Stress (psi)" in mesh.cell_data
    volume = np.abs(pyvista.read(shared_data / "bracket_fea.vtu").compute_cell_sizes()["Volume"]).sum()
    assert mesh.total_measure == pytest.approx(volume, rel=1e-3)  # VTK integrates the curved sides
    normals = mesh.boundary_normals.norm(dim=1)
    np.testing.assert_allclose(normals, 1.0)
    assert (mesh.node_volume > 0).all()
    assert (mesh.num_components, mesh.num_inverted_cells) == (1, 0)
