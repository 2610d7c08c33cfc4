"""Files that end too early: those that announce how much they hold are refused, of the others as little as can be."""

import meshio
import numpy as np
import pytest
import pyvista
import torch
from mesh.meshes import grid

from flare_connect.errors import MeshReadError
from flare_connect.mesh import load_mesh


def cut(path, part):
    data = path.read_bytes()
    short = path.with_name(f"short_{path.name}")
    short.write_bytes(data[: int(len(data) * part)])
    return short


@pytest.fixture
def mesh():
    found = grid("triangle", (8, 8))
    found.point_data = {"stress": found.pos[:, 0] / 3}
    return found


@pytest.mark.parametrize("part", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("file_format", ["vtk42", "vtk51"])
def test_legacy_vtk(mesh, file_format, binary, part, tmp_path):
    path = tmp_path / "x.vtk"
    mesh.to_meshio().write(path, file_format=file_format, binary=binary)
    assert load_mesh(path).num_cells == 128
    with pytest.raises(MeshReadError, match=r"x\.vtk is cut short: it (announces \d+ numbers in|ends) "):
        load_mesh(cut(path, part))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["structured", "points", "rectilinear", "strings"])
def test_other_legacy_vtk(name, binary, tmp_path):
    data = pyvista.ImageData(dimensions=(4, 3, 3))
    data = {
        "points": data, "structured": data.cast_to_structured_grid(), "rectilinear": data.cast_to_rectilinear_grid(),
        "strings": data.cast_to_unstructured_grid(),
    }[name]  # fmt: skip
    if name == "strings" and binary:  # of all lengths that the format writes in another way
        data.field_data["remarks"] = ["", "short", "x" * 100, "x" * 20000]
    data.point_data["temperature"] = np.arange(36.0)
    data.save(tmp_path / "x.vtk", binary=binary)
    sound = load_mesh(tmp_path / "x.vtk")
    assert sound.point_data["temperature"].tolist() == [*range(36)]
    text = (tmp_path / "x.vtk").read_bytes()
    start = text.index(b"temperature")
    end = text.find(b"METADATA", start)
    for place in np.linspace(start + 40, (end if end > 0 else len(text)) - 12, 5).astype(int):
        (tmp_path / "x.vtk").write_bytes(text[:place])
        with pytest.raises(MeshReadError, match=r"x\.vtk is cut short: it (announces 36 numbers in|ends within) "):
            load_mesh(tmp_path / "x.vtk")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("binary", [True, False])
def test_ply(mesh, binary, part, tmp_path):
    mesh.to_meshio().write(tmp_path / "x.ply", binary=binary)
    with pytest.raises(MeshReadError, match=r"x\.ply is cut short: it (announces|ends before)"):
        load_mesh(cut(tmp_path / "x.ply", part))


MARKERS = "NMARK= 2\nMARKER_TAG= low\nMARKER_ELEMS= 1\n3 0 1\nMARKER_TAG= high\nMARKER_ELEMS= 2\n3 2 3\n3 3 4\n"


def test_su2(tmp_path):
    text = "NDIME= 2\nNELEM= 2\n5 0 1 2 0\n5 0 2 3 1\nNPOIN= 5\n0 0 0\n1 0 1\n1 1 2\n0 1 3\n0 2 4\n"
    path = tmp_path / "y.su2"
    path.write_text(text + MARKERS)
    assert len(load_mesh(path).cells["line"]) == 3
    for ending, message in (
        (MARKERS.removesuffix("3 3 4\n"), "announces MARKER_ELEMS= 2 and holds 1"),
        (MARKERS[: MARKERS.index("MARKER_TAG= high")], "announces NMARK= 2 and holds 1"),
    ):
        path.write_text(text + ending)
        with pytest.raises(MeshReadError, match=message):
            load_mesh(path)


@pytest.mark.parametrize(("end", "warned"), [("", True), ("\n", False), ("\nENDDATA", False)])
def test_nastran_without_its_end(end, warned, tmp_path, recwarn):
    (tmp_path / "x.bdf").write_text(f"GRID,1,,0.,0.,0.\nGRID,2,,1.,0.,0.\nGRID,3,,0.,1.,0.\nCTRIA3,1,1,1,2,3{end}")
    assert load_mesh(tmp_path / "x.bdf").num_cells == 1
    assert ["has no ENDDATA" in str(warning.message) for warning in recwarn] == [True] * warned


def test_obj_with_a_face_cut_through(tmp_path):
    (tmp_path / "x.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nf 1 2 3\nf 2 4")
    with pytest.raises(MeshReadError, match=r"x\.obj is cut short: it ends with 'f 2 4'"):
        load_mesh(tmp_path / "x.obj")


def test_a_file_cut_before_its_cells(mesh, tmp_path):
    mesh.point_data = {}
    mesh.save(tmp_path / "x.inp")
    text = (tmp_path / "x.inp").read_text()
    (tmp_path / "x.inp").write_text(text[: text.upper().index("*ELEMENT")])
    with pytest.raises(MeshReadError, match="holds no cells; it is cut short, or a point cloud"):
        load_mesh(tmp_path / "x.inp")


@pytest.mark.parametrize("extension", ["vtk", "vtp"])
def test_point_clouds(extension, tmp_path):
    cloud = pyvista.PolyData(np.random.default_rng(0).normal(size=(9, 3)))
    cloud.save(tmp_path / f"x.{extension}")
    with pytest.raises(MeshReadError, match="holds cells of kind 'vertex' only; a point cloud has no mesh to work on"):
        load_mesh(tmp_path / f"x.{extension}")


def test_whole_numbers_are_not_taken_for_a_cut(tmp_path):
    mesh = grid("tetra", (1, 1, 1))
    mesh.point_data = {"flag": torch.arange(8, dtype=torch.int32)}
    meshio.write(tmp_path / "x.vtk", mesh.to_meshio(), file_format="vtk42", binary=False)
    text = (tmp_path / "x.vtk").read_text()
    (tmp_path / "x.vtk").write_text(text.rstrip())  # no end of the last line
    assert load_mesh(tmp_path / "x.vtk").point_data["flag"].tolist() == [*range(8)]
