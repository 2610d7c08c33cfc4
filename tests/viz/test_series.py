"""Series as files: what is written is read again, and wrong ones are refused before anything is written."""

import re

import pytest
import torch
from fixtures_meshes import plate

from flare_connect.errors import InputError
from flare_connect.mesh import load_mesh
from flare_connect.viz import save_series


def test_frames_come_back(tmp_path):
    mesh = plate(4)
    series = {"u": torch.randn(mesh.num_nodes, 3), "w": torch.randn(mesh.num_nodes, 3, 2)}
    path = save_series(mesh, series, tmp_path / "run.pvd", times=[0.5, 1.0, 4.0], units={"u": "K"})
    assert re.findall(r'timestep="([^"]*)"', path.read_text()) == ["0.5", "1.0", "4.0"]
    for t in range(3):
        found = load_mesh(path, step=t)
        torch.testing.assert_close(found.point_data["u"].float(), series["u"][:, t])
        torch.testing.assert_close(found.point_data["w"].float()[:, :2], series["w"][:, t])
        assert "stress" in found.point_data  # what the mesh has besides


@pytest.mark.parametrize(
    ("name", "shapes", "times", "message"),
    [
        ("run.vtu", {"u": (2,)}, None, "name it *.pvd, got 'run.vtu'"),
        ("no/run.pvd", {"u": (2,)}, None, "does not exist"),
        ("run.pvd", {"u": (2,), "w": (3,)}, None, "with the same frames, at least one, got {'u': 2, 'w': 3}"),
        ("run.pvd", {"u": ()}, None, "at least one, got {'u': 0}"),
        ("run.pvd", {}, None, "at least one, got {}"),
        ("run.pvd", {"u": (2,)}, [0.0], "one for each of the 2 frames, got 1"),
    ],
)
def test_wrong_series_are_refused(tmp_path, name, shapes, times, message):
    mesh = plate(4)
    series = {field: torch.zeros(mesh.num_nodes, *shape) for field, shape in shapes.items()}
    with pytest.raises(InputError, match=re.escape(message)):
        save_series(mesh, series, tmp_path / name, times=times)
    assert not list(tmp_path.iterdir())
