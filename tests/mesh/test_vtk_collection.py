import pytest
import pyvista
import torch
from mesh.meshes import grid

from flare_connect.errors import MeshReadError
from flare_connect.mesh import load_mesh


def blocks():
    """Two named blocks, one of them nested, with a field in common and one that is not."""
    near, far = grid("tetra", (1, 1, 1)), grid("hexahedron", (1, 1, 1))
    far.pos = far.pos + torch.tensor([2.0, 0, 0])
    for mesh, value in ((near, 1.0), (far, 2.0)):
        mesh.point_data = {"u": torch.full((8,), value)}
    far.point_data["only here"] = torch.zeros(8)
    inner = pyvista.MultiBlock({"far": far.to_pyvista()})
    return pyvista.MultiBlock({"near": near.to_pyvista(), "group": inner})


def test_blocks_become_sets(tmp_path):
    blocks().save(tmp_path / "x.vtm")
    with pytest.warns(UserWarning, match="'only here'.* left out: not all blocks"):
        mesh = load_mesh(tmp_path / "x.vtm")
    assert {kind: len(nodes) for kind, nodes in mesh.cells.items()} == {"tetra": 6, "hexahedron": 1}
    assert mesh.point_data["u"].tolist() == [1.0] * 8 + [2.0] * 8
    assert mesh.sets["near"].ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert mesh.sets["far"].ids.tolist() == [6]


def test_series_of_files(tmp_path):
    lines = []
    for i, time in enumerate((0.0, 1.5)):
        mesh = grid("triangle", (1, 1))
        mesh.point_data = {"u": torch.full((4,), time)}
        mesh.save(tmp_path / f"x{i}.vtu")
        lines.append(f'<DataSet timestep="{time}" part="0" file="x{i}.vtu"/>')
    text = '<VTKFile type="Collection"><Collection>{}</Collection></VTKFile>'
    path = tmp_path / "x.pvd"
    path.write_text(text.format("".join(lines)))
    assert load_mesh(path).time_steps == [0.0, 1.5]
    assert load_mesh(path).point_data["u"].tolist() == [1.5] * 4
    assert load_mesh(path, step=0).point_data["u"].tolist() == [0.0] * 4
    with pytest.raises(MeshReadError, match="there is no step -3; the file has 2"):
        load_mesh(path, step=-3)
    path.write_text(text.format(lines[0] + lines[0].replace("x0", "x1")))
    assert load_mesh(path).num_nodes == 8
    path.write_text(text.format('<DataSet timestep="0" file="../gone.vtu"/>'))
    with pytest.raises(MeshReadError, match=r"names '../gone.vtu', which is not there"):
        load_mesh(path)
    path.write_text(text.format('<DataSet timestep="0" file="x.pvd"/>'))
    with pytest.raises(MeshReadError, match=r"names 'x.pvd'; blocks are .vtu"):
        load_mesh(path)


def test_step_of_a_file_that_is_no_series(tmp_path):
    grid("triangle", (1, 1)).save(tmp_path / "x.vtu")
    with pytest.raises(MeshReadError, match=r"x.vtu is no time series: there is no step 3; leave `step` out"):
        load_mesh(tmp_path / "x.vtu", step=3)
