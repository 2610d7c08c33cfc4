import time
import warnings
from contextlib import suppress

import h5py
import numpy as np
import pytest
import pyvista
import torch
from mesh.damage import damaged
from mesh.meshes import grid, single
from mesh.test_polyhedra import HEXAGON, HEXAGON_AREA, prism

from flare_connect.errors import MeshError
from flare_connect.mesh import CELL_KINDS, Mesh, NamedSet
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.vtk.hdf import read_vtkhdf, write_vtkhdf


def same(a, b):
    assert torch.equal(a.pos, b.pos)
    assert {k: v.tolist() for k, v in a.cells.items()} == {k: v.tolist() for k, v in b.cells.items()}
    for container in ("point_data", "global_data"):
        left, right = getattr(a, container), getattr(b, container)
        assert {k: (v.dtype, v.tolist()) for k, v in left.items()} == {
            k: (v.dtype, v.tolist()) for k, v in right.items()
        }
    assert {n: {k: v.tolist() for k, v in b.items()} for n, b in a.cell_data.items()} == {
        n: {k: v.tolist() for k, v in b.items()} for n, b in b.cell_data.items()
    }
    assert {n: s.entity for n, s in a.sets.items()} == {n: s.entity for n, s in b.sets.items()}
    for name in a.sets:
        assert a.set_nodes(name).tolist() == b.set_nodes(name).tolist()
    assert a.units == b.units


def full(rich_mesh):
    rich_mesh.sets = rich_mesh.sets | {
        "cells": NamedSet("cell", torch.tensor([2])),
        "inlet/a": NamedSet("facet", torch.tensor([[0, 3], [1, 0]])),
    }
    rich_mesh.point_data = rich_mesh.point_data | {"u/v 50%25": torch.arange(6.0)}
    return rich_mesh


@pytest.mark.parametrize("compression", [0, 4])
def test_round_trip_keeps_all(rich_mesh, tmp_path, compression):
    mesh = full(rich_mesh)
    write_vtkhdf(mesh, tmp_path / "x.vtkhdf", compression=compression)
    back = read_vtkhdf(tmp_path / "x.vtkhdf")
    same(mesh, back)
    assert torch.equal(back.periodic_pairs, mesh.periodic_pairs)
    assert back.sets["inlet/a"].ids.tolist() == [[0, 3], [1, 0]]
    assert back.time_steps == []


def test_every_kind_round_trips(kind, tmp_path):
    mesh = single(kind, dim=3 if CELL_KINDS[kind].dim == 3 else 2)
    write_vtkhdf(mesh, tmp_path / "x.vtkhdf")
    same(mesh, read_vtkhdf(tmp_path / "x.vtkhdf"))


def test_compression_makes_it_smaller(tmp_path):
    mesh = grid("hexahedron", (12, 12, 12))
    for level in (0, 4):
        write_vtkhdf(mesh, tmp_path / f"{level}.vtkhdf", compression=level)
        same(mesh, read_vtkhdf(tmp_path / f"{level}.vtkhdf"))
    assert (tmp_path / "4.vtkhdf").stat().st_size < (tmp_path / "0.vtkhdf").stat().st_size / 4


def test_vtk_reads_what_is_written(rich_mesh, tmp_path):
    del rich_mesh.point_data["type"]
    write_vtkhdf(rich_mesh, tmp_path / "x.vtkhdf", compression=1)
    theirs = pyvista.get_reader(tmp_path / "x.vtkhdf").read()
    assert isinstance(theirs, pyvista.UnstructuredGrid)
    assert set(theirs.point_data) == {"temperature", "displacement", "set:left"}
    same(rich_mesh, Mesh.from_pyvista(theirs))


def write_vtk(data, path):
    from vtkmodules.vtkIOHDF import vtkHDFWriter

    writer = vtkHDFWriter()
    writer.SetInputData(data)
    writer.SetFileName(str(path))
    writer.Write()
    return path


def sample(shape=(3, 2, 1)):
    data = grid("hexahedron", shape).to_pyvista()
    data.point_data["u"] = np.random.default_rng(0).normal(size=(data.n_points, 3))
    data.cell_data["p"] = np.arange(data.n_cells)
    return data


def surface():
    data = pyvista.PolyData(
        np.random.default_rng(1).normal(size=(9, 3)),
        verts=[1, 3, 2, 4, 5],
        lines=[2, 0, 1, 3, 1, 2, 3],
        faces=[3, 0, 1, 2, 4, 3, 4, 5, 6],
        strips=[5, 2, 3, 4, 5, 6],
    )
    data.cell_data["id"] = np.arange(data.n_cells)
    return data


def image(*dimensions):
    data = pyvista.ImageData(dimensions=dimensions, spacing=(1, 2, 3), origin=(5, 6, 7))
    data.point_data["u"] = np.arange(3.0 * data.n_points).reshape(-1, 3)
    data.cell_data["p"] = np.arange(data.n_cells)
    return data


@pytest.mark.parametrize(
    "data",
    [
        sample(),
        surface(),
        image(4, 3, 2),
        image(4, 3, 1),
        image(1, 3, 4),
        pyvista.MultiBlock(
            {"box": sample(), "skin": surface(), "inner": pyvista.MultiBlock({"deep": sample((1, 1, 2))})}
        ),
    ],
    ids=["grid", "poly", "image", "planar", "sheet", "blocks"],
)
def test_agrees_with_the_other_readers(tmp_path, data):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* left out: not all blocks of the file have them")
        same(Mesh.from_pyvista(data), read_vtkhdf(write_vtk(data, tmp_path / "x.vtkhdf")))


def test_polyhedra(tmp_path):
    points, cells = prism(HEXAGON, layers=2)
    stream = [[len(faces), *(v for face in faces for v in (len(face), *face))] for faces in cells]
    tetra = [4, 0, 1, 2, 6]
    flat = np.concatenate([[len(stream[0]), *stream[0]], tetra, [len(stream[1]), *stream[1]]])
    data = pyvista.UnstructuredGrid(flat, [42, 10, 42], points)
    data.cell_data["id"] = [7, 8, 9]
    data.point_data["z"] = points[:, 2]
    with pytest.warns(UserWarning, match="2 polyhedra"):
        expected = Mesh.from_pyvista(data)
    with pytest.warns(UserWarning, match="2 polyhedra"):
        mesh = read_vtkhdf(write_vtk(data, tmp_path / "x.vtkhdf"))
    same(expected, mesh)
    assert mesh.cell_measure["pyramid"].sum() + mesh.cell_measure["tetra"].sum() > 2 * HEXAGON_AREA


def test_parts_of_a_collection(tmp_path):
    from vtkmodules.vtkCommonDataModel import vtkPartitionedDataSetCollection

    both = vtkPartitionedDataSetCollection()
    both.SetPartition(0, 0, sample((1, 1, 2)))
    both.SetPartition(0, 1, sample((2, 1, 1)))
    both.SetPartition(1, 0, sample((1, 1, 1)))
    mesh = read_vtkhdf(write_vtk(both, tmp_path / "x.vtkhdf"))
    assert (mesh.num_nodes, mesh.num_cells, mesh.num_components) == (32, 5, 3)
    assert mesh.total_measure == 5
    assert mesh.cell_data["p"]["hexahedron"].tolist() == [0, 1, 0, 1, 0]
    assert {name: named.ids.tolist() for name, named in mesh.sets.items()} == {"Block0": [0, 1, 2, 3], "Block1": [4]}


def test_time_steps(tmp_path):
    from vtkmodules.vtkFiltersGeneral import vtkTimeSourceExample
    from vtkmodules.vtkIOHDF import vtkHDFReader, vtkHDFWriter

    source = vtkTimeSourceExample()
    source.SetGrowing(True)
    source.SetXAmplitude(2.0)
    writer = vtkHDFWriter()
    writer.SetInputConnection(source.GetOutputPort())
    writer.SetWriteAllTimeSteps(True)
    writer.SetFileName(str(tmp_path / "x.vtkhdf"))
    writer.Write()
    reader = vtkHDFReader()
    reader.SetFileName(str(tmp_path / "x.vtkhdf"))
    times = read_vtkhdf(tmp_path / "x.vtkhdf").time_steps
    assert times == pytest.approx(np.linspace(0, 1, 10), abs=1e-6)
    for step in (0, 3, -1):
        reader.UpdateTimeStep(times[step])
        mesh, theirs = read_vtkhdf(tmp_path / "x.vtkhdf", step), Mesh.from_pyvista(pyvista.wrap(reader.GetOutput()))
        theirs.global_data = {}  # VTK puts the time there
        same(mesh, theirs)
    with pytest.raises(FailedError, match="there is no step 10; the file has 10"):
        read_vtkhdf(tmp_path / "x.vtkhdf", 10)


@pytest.mark.parametrize("part_offsets", [[0, 0, 0], [0, 1, 2]], ids=["one_part", "part_per_step"])
def test_still_mesh_with_moving_fields(tmp_path, part_offsets):
    mesh = grid("tetra", (1, 1, 1))
    write_vtkhdf(mesh, tmp_path / "x.vtkhdf")
    with h5py.File(tmp_path / "x.vtkhdf", "a") as file:
        root = file["VTKHDF"]
        root["PointData/T"] = np.arange(24.0)
        steps = root.create_group("Steps")
        steps.attrs["NSteps"] = 3
        steps["Values"] = [0.0, 0.5, 1.0]
        steps["PartOffsets"] = part_offsets
        steps["NumberOfParts"] = [1, 1, 1]
        for name in ("PointOffsets", "CellOffsets", "ConnectivityIdOffsets"):
            steps[name] = [0, 0, 0]
        steps["PointDataOffsets/T"] = [0, 8, 16]
        if part_offsets[1]:
            for name in ("NumberOfPoints", "NumberOfCells", "NumberOfConnectivityIds"):
                count = int(root[name][0])
                del root[name]
                root[name] = [count] * 3
    back = read_vtkhdf(tmp_path / "x.vtkhdf", 1)
    assert back.cells["tetra"].tolist() == mesh.cells["tetra"].tolist()
    assert back.point_data["T"].tolist() == list(range(8, 16))
    assert back.time_steps == [0, 0.5, 1]


def test_temporal_image(tmp_path):
    write_vtk(pyvista.ImageData(dimensions=(4, 3, 2)), tmp_path / "x.vtkhdf")
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    with h5py.File(tmp_path / "x.vtkhdf", "a") as file:
        file["VTKHDF/PointData/T"] = values
        file["VTKHDF/CellData/V"] = np.zeros((2, 1, 2, 3, 3))
        file["VTKHDF/Steps/Values"] = [3.0, 4.0]
    mesh = read_vtkhdf(tmp_path / "x.vtkhdf", 1)
    assert mesh.point_data["T"].tolist() == values[1].reshape(-1).tolist()
    assert mesh.cell_data["V"]["hexahedron"].shape == (6, 3)


def test_what_is_refused(tmp_path):
    path = tmp_path / "x.vtkhdf"
    path.write_bytes(b"junk")
    with pytest.raises(FailedError, match="cannot be read as HDF5"):
        read_vtkhdf(path)
    with h5py.File(path, "w") as file:
        file["x"] = [1]
    with pytest.raises(FailedError, match="has no group VTKHDF"):
        read_vtkhdf(path)
    with h5py.File(path, "w") as file:
        file.create_group("VTKHDF").attrs["Type"] = "HyperTreeGrid"
    with pytest.raises(FailedError, match="data set of type 'HyperTreeGrid'"):
        read_vtkhdf(path)
    write_vtkhdf(grid("tetra", (1, 1, 1)), path)
    with h5py.File(path, "a") as file:
        file["VTKHDF/Connectivity"][3] = 99
    with pytest.raises(MeshError, match="refers to node 99, but the nodes are 0 to 7"):
        read_vtkhdf(path)
    with h5py.File(path, "a") as file:
        del file["VTKHDF/Points"], file["VTKHDF/NumberOfPoints"]
        file["VTKHDF/NumberOfPoints"] = [10**12]
        file["VTKHDF"].create_dataset("Points", (10**12, 3), "f8", chunks=(1000, 3))
    with pytest.raises(FailedError, match="Points is said to have 24000000000000 bytes"):
        read_vtkhdf(path)
    with h5py.File(path, "a") as file:
        del file["VTKHDF/Points"]
        file["VTKHDF/Points"] = h5py.ExternalLink("other.h5", "/Points")
    with pytest.raises(FailedError):
        read_vtkhdf(path)
    write_vtk(pyvista.ImageData(dimensions=(2, 2, 2)), path)
    with h5py.File(path, "a") as file:
        file["VTKHDF"].attrs["WholeExtent"] = np.array([0, 10**9] * 3)
    with pytest.raises(FailedError, match=r"holds an image of .* points without values on them"):
        read_vtkhdf(path)


@pytest.mark.parametrize("kind", ["grid", "packed", "blocks"])
def test_damaged_files(rich_mesh, tmp_path, capfd, kind):
    path = tmp_path / "x.vtkhdf"
    if kind == "blocks":
        write_vtk(pyvista.MultiBlock({"box": sample(), "skin": surface()}), path)
    else:
        write_vtkhdf(full(rich_mesh), path, compression=4 * (kind == "packed"))
    good = path.read_bytes()
    for seed in range(60):
        path.write_bytes(damaged(good, seed))
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(FailedError, MeshError):
                assert read_vtkhdf(path).num_cells
        assert time.perf_counter() - start < 2
    assert capfd.readouterr() == ("", "")
