"""Mistakes are named in one sentence, before anything is drawn; files are whole or untouched."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from flare_connect.errors import InputError, MeshError
from flare_connect.mesh import load_mesh
from flare_connect.viz import plot_field, save_fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "pressure"}, "the mesh has no field 'pressure'; its fields: 'x', 'u'"),
        ({"prediction": "x", "truth": "y"}, "the mesh has no field 'y'"),
        ({"prediction": np.zeros(7)}, r"field has shape \[7\] but must have one row for each of the 315 nodes or 560"),
        ({"prediction": "x", "component": 1}, "component 1 is out of range: 'x' has one component, 0"),
        ({"prediction": "u", "component": 2}, "component 2 is out of range: 'u' has components 0 to 1"),
        ({"prediction": "u", "truth": "x"}, r"truth has shape \[315, 1\] at points but the prediction \[315, 2\]"),
        ({"prediction": "x", "warp": 3.0}, "warp=3.0 does nothing without a displacement"),
        ({"prediction": "x", "displacement": "x"}, r"displacement has shape \[315, 1\] but must be \[315, 2\]"),
        (
            {"prediction": "x", "displacement": "u", "warp": "big"},
            "warp must be \"auto\" or a finite number, got 'big'",
        ),
        ({"prediction": "x", "clim": "wide"}, "clim must be .* got 'wide'"),
        ({"prediction": "x", "clim": (1, 1)}, "clim must be two finite numbers with lo < hi"),
        ({"prediction": "x", "view": "front"}, "view must be one of iso, xy, xz, yz or a direction"),
        ({"prediction": "x", "clip": "w"}, 'clip must be "x", "y", "z"'),
        ({"prediction": "x", "clip": ((1, 0, 0), (-5, 0, 0))}, "the clip plane leaves nothing"),
        ({"prediction": "x", "size": (0, 5)}, "size must be two positive integers"),
        ({"prediction": "x", "truth": "x", "size": (300, 300)}, "is too small for 1 × 3 panels"),
        ({"prediction": "x", "colormap": "nope"}, "colour map 'nope' is not known"),
        ({"prediction": "x", "save": "x.gif"}, r"must be one of \.png, \.jpg"),
        ({"prediction": "x", "save": "no/such/x.png"}, "the folder 'no/such' does not exist"),
        ({"prediction": {"quad": [1.0]}}, "names cells of kind 'quad'; the mesh has 'triangle'"),
        ({"prediction": np.zeros(315, dtype=complex)}, "must hold real numbers, got dtype complex128"),
    ],
)
def test_messages(plate, options, message):
    with pytest.raises(InputError, match=message):
        plot_field(plate, **options)


def test_nan_is_counted_and_placed(plate):
    values = plate.point_data["x"].clone()
    values[[3, 9]] = torch.nan
    with pytest.raises(InputError, match="prediction is NaN or infinite at 2 of 315 nodes, first at node 3"):
        plot_field(plate, values, truth="x")
    with pytest.raises(InputError, match="field 'q' is NaN or infinite at 2 of 315 nodes, first at node 3"):
        save_fields(plate, {"q": values}, "never.vtu")


def test_a_failure_keeps_the_old_picture(plate, tmp_path, monkeypatch):
    import pyvista

    path = plot_field(plate, "x", save=tmp_path / "x.png", size=(300, 300))
    old = path.read_bytes()

    def fail(*args, **kwargs):
        raise RuntimeError("no more memory")

    monkeypatch.setattr(pyvista.Plotter, "screenshot", fail)
    with pytest.raises(RuntimeError, match="no more memory"):
        plot_field(plate, "u", save=path, size=(300, 300))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["x.png"]


def test_save_fields_for_paraview(plate, tmp_path):
    fields = {"p": torch.rand(315, dtype=torch.bfloat16), "x": 2 * plate.point_data["x"], "v": np.ones((315, 3))}
    path = save_fields(plate, fields, tmp_path / "out.vtu", units={"p": "Pa"})
    assert path == tmp_path / "out.vtu"
    assert set(plate.point_data) == {"x", "u"}
    assert "p" not in plate.units
    back = load_mesh(path)
    assert set(back.point_data) == {"x", "u", "p", "v"}
    torch.testing.assert_close(back.point_data["x"], 2 * plate.point_data["x"])
    assert back.units["p"] == "Pa"
    with pytest.raises(InputError, match=r"field 'p' has shape \[4\] but must be \[N\] or \[N, c\] with N = 315"):
        save_fields(plate, {"p": torch.zeros(4)}, path)
    with pytest.raises(InputError, match="units are given for 'q', which is not among the fields: 'p'"):
        save_fields(plate, {"p": torch.zeros(315)}, path, units={"q": "m"})
    with pytest.raises(InputError, match="does not exist"):
        save_fields(plate, {}, tmp_path / "no" / "out.vtu")
    with pytest.raises(MeshError, match="extension"):
        save_fields(plate, {}, tmp_path / "out.nothing")


def _run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="EGL is how Linux draws without a display")
def test_no_renderer_and_no_early_import():
    """One process for both, since each costs seconds."""
    done = _run(
        "import sys\n"
        "import flare_connect.viz as viz\n"
        "assert not {'pyvista', 'vtk', 'vtkmodules', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "from flare_connect.mesh import Mesh\n"
        "mesh = Mesh.from_arrays([[0, 0], [1, 0], [0, 1]], {'triangle': [[0, 1, 2]]}, point_data={'v': [0., 1., 2.]})\n"
        "try:\n"
        "    viz.plot_field(mesh, 'v', save='never.png')\n"
        "except viz.RenderError as error:\n"
        "    print(error)\n",
        __EGL_VENDOR_LIBRARY_FILENAMES="/dev/null",
        DISPLAY="",
    )
    assert done.returncode == 0, done.stderr
    assert "libegl1" in done.stdout
    assert "libgl1-mesa-dri" in done.stdout
    assert done.stderr == ""


def test_nothing_is_printed(plate, tmp_path, capfd):
    plot_field(plate, "x", save=tmp_path / "x.png", size=(300, 300))
    assert capfd.readouterr() == ("", "")
