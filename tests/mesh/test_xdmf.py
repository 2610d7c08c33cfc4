import h5py
import meshio
import numpy as np
import pytest
from mesh.damage import damaged
from mesh.meshes import grid

from flare_connect.errors import MeshError, MeshReadError
from flare_connect.mesh import load_mesh
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.xdmf import read_xdmf

HEAD = '<?xml version="1.0"?><Xdmf Version="3.0" xmlns:xi="http://www.w3.org/2001/XInclude"><Domain>'
TAIL = "</Domain></Xdmf>"
TOPOLOGY = (
    '<Topology TopologyType="Triangle"><DataItem Dimensions="2 3" NumberType="Int">0 1 2 1 3 2</DataItem></Topology>'
)
GEOMETRY = '<Geometry GeometryType="XY"><DataItem Dimensions="4 2" Precision="8">0 0 1 0 0 1 1 1</DataItem></Geometry>'


def field(name, centre, values):
    text = " ".join(map(str, values))
    return (
        f'<Attribute Name="{name}" Center="{centre}"><DataItem Dimensions="{len(values)}" Precision="8">{text}'
        "</DataItem></Attribute>"
    )


def series(name, *grids):
    return f'<Grid Name="{name}" GridType="Collection" CollectionType="Temporal">{"".join(grids)}</Grid>'


def state(time, *content):
    return f'<Grid GridType="Uniform"><Time Value="{time}"/>{"".join(content)}</Grid>'


def written(path, *content):
    path.write_text(HEAD + "".join(content) + TAIL)
    return path


@pytest.mark.parametrize("data_format", ["XML", "HDF", "Binary"])
def test_what_meshio_writes(data_format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # meshio names binary files beside where it is called
    m = meshio.Mesh(
        np.random.default_rng(0).normal(size=(5, 3)),
        [("tetra", [[0, 1, 2, 3]]), ("triangle", [[0, 1, 4], [2, 3, 4]])],
        point_data={"u": np.arange(10.0).reshape(5, 2)},
        cell_data={"s": [[1.0], [2.0, 3.0]]},
    )
    m.write(tmp_path / "x.xdmf", data_format=data_format)
    back = load_mesh(tmp_path / "x.xdmf")
    np.testing.assert_allclose(back.pos, m.points, rtol=1e-15)
    assert {k: v.tolist() for k, v in back.cells.items()} == {k: v.tolist() for k, v in m.cells_dict.items()}
    assert back.point_data["u"].tolist() == m.point_data["u"].tolist()
    assert {k: v.tolist() for k, v in back.cell_data["s"].items()} == {"tetra": [1], "triangle": [2, 3]}


def test_series_of_meshio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mesh = grid("triangle", (2, 2))
    with meshio.xdmf.TimeSeriesWriter("x.xdmf") as writer:
        writer.write_points_cells(mesh.pos.numpy(), [("triangle", mesh.cells["triangle"].numpy())])
        for time in (0.0, 0.25, 0.5):
            writer.write_data(time, point_data={"u": np.full(9, time)})
    assert load_mesh("x.xdmf").time_steps == [0.0, 0.25, 0.5]
    assert [float(load_mesh("x.xdmf", step=i).point_data["u"][0]) for i in range(3)] == [0.0, 0.25, 0.5]
    with pytest.raises(MeshReadError, match="there is no step 7; the file has 3"):
        load_mesh("x.xdmf", step=7)


def test_fields_in_collections_of_their_own(tmp_path):
    """As dolfinx writes: the mesh once, then one collection for each function."""
    path = written(
        tmp_path / "x.xdmf",
        f'<Grid Name="mesh">{TOPOLOGY}{GEOMETRY}</Grid>',
        series("u", state(0, field("u", "Node", [0, 0, 0, 0])), state(1, field("u", "Node", [1, 2, 3, 4]))),
        series("p", state(0, field("p", "Cell", [5, 6])), state(1, field("p", "Cell", [7, 8]))),
    )
    mesh = load_mesh(path)
    assert (mesh.time_steps, mesh.dim) == ([0.0, 1.0], 2)
    assert mesh.point_data["u"].tolist() == [1, 2, 3, 4]
    assert mesh.cell_data["p"]["triangle"].tolist() == [7, 8]


def test_moving_mesh_references_sets_and_listed_times(tmp_path):
    second = GEOMETRY.replace("1 1<", "2 2<")
    path = written(
        tmp_path / "x.xmf",
        '<Grid GridType="Collection" CollectionType="Temporal"><Time TimeType="List"><DataItem Dimensions="2">3 4'
        "</DataItem></Time>",
        f'<Grid Name="a">{TOPOLOGY}{GEOMETRY}</Grid>',
        '<Grid Name="b"><Topology TopologyType="Triangle"><DataItem Reference="XML">/Xdmf/Domain/Grid/Grid[1]/Topology'
        f"/DataItem</DataItem></Topology>{second}"
        '<Set Name="tip" SetType="Node"><DataItem Dimensions="1" NumberType="Int">3</DataItem></Set>'
        '<Set Name="part" SetType="Cell"><DataItem Dimensions="1" NumberType="Int">1</DataItem></Set></Grid></Grid>',
    )
    mesh = load_mesh(path, step=1)
    assert mesh.time_steps == [3.0, 4.0]
    assert mesh.pos[3].tolist() == [2, 2]
    assert mesh.set_nodes("tip").tolist() == [3]
    assert mesh.sets["part"].ids.tolist() == [1]
    assert load_mesh(path, step=0).pos[3].tolist() == [1, 1]


def test_mixed_cells_of_all_sorts(tmp_path):
    stream = "4 0 1 2 2 2 1 3 5 0 1 3 2 1 1 0"
    mixed = f'<Topology TopologyType="Mixed"><DataItem Dimensions="16" NumberType="Int">{stream}</DataItem></Topology>'
    mesh = load_mesh(written(tmp_path / "x.xdmf", f"<Grid>{mixed}{GEOMETRY}{field('i', 'Cell', [0, 1, 2, 3])}</Grid>"))
    assert {k: v.tolist() for k, v in mesh.cells.items()} == {
        "triangle": [[0, 1, 2]],
        "line": [[1, 3]],
        "quad": [[0, 1, 3, 2]],
        "vertex": [[0]],
    }
    assert {k: v.tolist() for k, v in mesh.cell_data["i"].items()} == {
        "triangle": [0],
        "line": [1],
        "quad": [2],
        "vertex": [3],
    }


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (f"<Grid>{TOPOLOGY.replace('2 3', '99999999 3')}{GEOMETRY}</Grid>", "an array claims 299999997 numbers in 11"),
        (f"<Grid>{TOPOLOGY.replace('Triangle', 'Blob')}{GEOMETRY}</Grid>", "cells 'blob' are not known"),
        (f"<Grid>{GEOMETRY}</Grid>", "holds no cells"),
        (f"<Grid>{TOPOLOGY}</Grid>", "no geometry found"),
        (f"<Grid>{TOPOLOGY.replace('0 1 2 1 3 2', '0 1 2 1 3 9')}{GEOMETRY}</Grid>", "refers to node 9"),
        (
            f'<Grid>{TOPOLOGY}<Geometry><DataItem Dimensions="4 3" Format="HDF">no.h5:/x</DataItem></Geometry></Grid>',
            "refers to no.h5, which is not beside it",
        ),
        (
            '<Grid><Topology TopologyType="Triangle"><DataItem Reference="XML">/Xdmf/Domain/Grid/Topology/DataItem'
            f"</DataItem></Topology>{GEOMETRY}</Grid>",
            "refer to each other in a circle",
        ),
    ],
)
def test_wrong_content(grids, message, tmp_path):
    with pytest.raises(MeshReadError, match=message):
        load_mesh(written(tmp_path / "x.xdmf", grids))


def test_hdf5_that_claims_more_than_it_stores(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (10**9, 3), dtype="f8")
    item = '<Geometry><DataItem Dimensions="1000000000 3" Format="HDF">x.h5:/x</DataItem></Geometry>'
    with pytest.raises(MeshReadError, match="'/x' claims 24000000000 bytes and stores 0"):
        load_mesh(written(tmp_path / "x.xdmf", f"<Grid>{TOPOLOGY}{item}</Grid>"))


def test_damage_is_found(tmp_path):
    data = written(tmp_path / "a.xdmf", f"<Grid>{TOPOLOGY}{GEOMETRY}{field('i', 'Cell', [0, 1])}</Grid>").read_bytes()
    refused = 0
    for seed in range(60):
        (tmp_path / "x.xdmf").write_bytes(damaged(data, seed))
        try:
            read_xdmf(tmp_path / "x.xdmf").validate()
        except (FailedError, MeshError, OSError, LookupError, ValueError, TypeError, SyntaxError):
            refused += 1
    assert refused > 30
