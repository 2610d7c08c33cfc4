"""Truth and models in one row, their errors in the next, and colours that can be compared within a row."""

import matplotlib
import numpy as np
import pytest
import torch

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.viz.worst import plot_worst

MAGMA = np.round(255 * np.array(matplotlib.colormaps["magma"].colors)).astype(int)
VIRIDIS = np.round(255 * np.array(matplotlib.colormaps["viridis"].colors)).astype(int)


def texts(plotter) -> list[dict[str, str]]:
    return [
        {
            name: actor.GetInput()
            for name, actor in renderer.actors.items()
            if hasattr(actor, "GetInput") and isinstance(actor.GetInput(), str)
        }
        for renderer in plotter.renderers
    ]


def limits_of(plotter) -> list[tuple[float, float] | None]:
    return [
        tuple(renderer.actors["mesh"].mapper.lookup_table.scalar_range) if "mesh" in renderer.actors else None
        for renderer in plotter.renderers
    ]


def test_titles_name_models_and_errors(plate):
    x = plate.point_data["x"]
    plotter = plot_worst(plate, "x", {"FLARE": 0.5 * x, "ours": 0.9 * x})
    truth, flare, ours, empty, flare_error, ours_error = texts(plotter)
    assert (truth["title"], truth["line0"]) == ("truth", "min 0,  max 2")
    assert (flare["title"], flare["line0"]) == ("FLARE: rel. L2 0.5", "min 0,  max 1")
    assert ours["title"] == "ours: rel. L2 0.1"
    assert empty == {}
    assert (flare_error["title"], flare_error["line0"]) == ("error of FLARE", "max 1 mm")
    assert (ours_error["title"], ours_error["label"]) == ("error of ours", "error of x [mm]")
    plotter.close()


def test_each_row_has_one_range(plate):
    x = plate.point_data["x"]
    plotter = plot_worst(plate, "x", {"low": 0.5 * x, "high": 3.0 * x, "near": x + 0.1})
    found = limits_of(plotter)
    assert found[:4] == [(0.0, 2.0)] * 4
    assert found[4] is None
    assert found[5:] == [(0.0, pytest.approx(4.0))] * 3
    plotter.close()
    plotter = plot_worst(plate, x, {"off": 2 * x + 1})
    assert limits_of(plotter)[3] == (0.0, pytest.approx(3.0))  # from 0, though no error is that small
    assert texts(plotter)[3]["label"] == "error of field"
    plotter.close()


def test_robust_limits_are_those_of_all_models_together(plate):
    x = plate.point_data["x"]
    plotter = plot_worst(plate, "x", {"low": 0.5 * x, "high": 3.0 * x.square()}, clim="robust")
    found = limits_of(plotter)
    assert found[0] == found[1] == found[2]
    assert found[4] == found[5]
    every = np.concatenate([0.5 * x.numpy(), np.abs(3.0 * x.numpy() ** 2 - x.numpy())])
    assert found[4] == (0.0, pytest.approx(np.percentile(every, 99)))
    plotter.close()


def test_the_same_value_has_the_same_colour_in_every_panel(plate, pixels, tmp_path):
    x = plate.point_data["x"]
    fields = {"a": torch.full_like(x, 1.0), "b": torch.full_like(x, 0.5)}
    picture = pixels(plot_worst(plate, "x", fields, save=tmp_path / "worst.png", show_edges=False))
    height, width = (size // n for size, n in zip(picture.shape, (2, 3), strict=False))
    middle = (85 + height - 108) // 2 + 7

    def at(row, column, share):
        return picture[row * height + middle, column * width + 28 + round(share * (width - 56))]

    for share in (0.1, 0.5, 0.9):
        assert np.abs(at(0, 1, share) - VIRIDIS[128]).max() <= 8
        assert np.abs(at(0, 2, share) - VIRIDIS[64]).max() <= 8
        assert (at(1, 0, share) == 255).all()  # nothing is beneath the truth
    assert np.abs(at(0, 0, 0.5) - VIRIDIS[128]).max() <= 8
    # errors |x − 1| and |x − 1/2|, of 3/2 at most
    assert np.abs(at(1, 1, 0.5) - MAGMA[-1]).max() <= 12
    assert np.abs(at(1, 1, 0.95) - MAGMA[255 - round(0.9 / 1.5 * 255)]).max() <= 12
    assert np.abs(at(1, 2, 0.95) - MAGMA[255 - round(1.4 / 1.5 * 255)]).max() <= 12


def test_vectors_components_and_cells(plate):
    u = plate.point_data["u"]
    turned = u.flip(1)
    plotter = plot_worst(plate, "u", {"turned": turned})
    size, difference = float(u.norm()), float((turned - u).norm())
    assert texts(plotter)[1]["title"] == f"turned: rel. L2 {difference / size:.3g}"
    assert texts(plotter)[3]["label"].startswith("error of ‖u‖")
    assert texts(plotter)[3]["line0"] == f"max {float((turned - u).norm(dim=1).max()):.3g}"
    plotter.close()
    plotter = plot_worst(plate, "u", {"turned": turned}, component=0)
    assert texts(plotter)[1]["title"].startswith("turned: rel. L2 ")
    assert texts(plotter)[1]["title"] != f"turned: rel. L2 {difference / size:.3g}"
    plotter.close()
    cells = torch.arange(plate.num_cells).double()
    plotter = plot_worst(plate, cells, {"half": cells / 2}, name="density", units="kg")
    assert texts(plotter)[1]["title"] == "half: rel. L2 0.5"
    assert "density" in texts(plotter)[0]["label"]
    assert "kg" in texts(plotter)[3]["label"]
    plotter.close()


def test_one_row_without_the_errors(plate, pixels, tmp_path):
    x = plate.point_data["x"]
    plotter = plot_worst(plate, "x", {"low": 0.5 * x, "high": 3.0 * x}, errors=False, truth_title="finite elements")
    assert [panel["title"] for panel in texts(plotter)] == ["finite elements", "low: rel. L2 0.5", "high: rel. L2 2"]
    assert limits_of(plotter) == [(0.0, 2.0)] * 3
    plotter.close()
    path = plot_worst(plate, x, {"low": 0.5 * x}, errors=False, size=(900, 400), save=tmp_path / "row.png")
    assert pixels(path).shape == (400, 900, 3)
    wide = Mesh.from_arrays(plate.pos * torch.tensor([6.0, 1.0]), plate.cells)
    path = plot_worst(wide, x, {"low": 0.5 * x}, errors=False, size=(400, 700), save=tmp_path / "column.png")
    assert pixels(path).shape == (700, 400, 3)


def test_wide_meshes_have_their_rows_side_by_side(plate, pixels, tmp_path):
    wide = Mesh.from_arrays(plate.pos * torch.tensor([6.0, 1.0]), plate.cells)
    x = plate.point_data["x"]
    plotter = plot_worst(wide, x, {"one": 2 * x})
    truth, empty, one, error = texts(plotter)
    assert (truth["title"], empty, one["title"], error["title"]) == (
        "truth",
        {},
        "one: rel. L2 1",
        "error of one",
    )
    plotter.close()
    assert pixels(plot_worst(wide, x, {"one": x}, save=tmp_path / "wide.png", size=(900, 700))).shape == (700, 900, 3)


def test_solids_zero_truths_and_zero_errors_are_drawn(solid, plate, tmp_path):
    z = solid.point_data["z"]
    assert plot_worst(solid, "z", {"same": z, "off": z + 1}, save=tmp_path / "solid.png", clip="x").is_file()
    zero = torch.zeros(plate.num_nodes)
    plotter = plot_worst(plate, zero, {"none": zero, "some": zero + 1})
    assert texts(plotter)[1]["title"] == "none: rel. L2 0"
    assert texts(plotter)[2]["title"] == "some: rel. L2 undefined (truth is 0)"
    plotter.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": {}}, "there is no prediction to draw"),
        ({"predictions": {"m": torch.ones(3)}}, r"m has shape \[3\] but must have one row"),
        ({"predictions": {"m": "x", "u": "u"}}, "but the prediction of 'u'"),
        ({"truth": "nothing"}, "the mesh has no field 'nothing'"),
        ({"colormap": "nothing"}, "colour map 'nothing' is not known"),
        ({"error_colormap": "nothing"}, "colour map 'nothing' is not known"),
        ({"size": (300, 200)}, r"leave 2 × 2 panels at least 160 × 200 pixels each, got \(300, 200\)"),
        ({"size": "large"}, "got 'large'"),
        ({"save": "worst.txt"}, "the extension must be one of"),
    ],
)
def test_wrong_arguments_are_named(plate, arguments, message):
    given = {"truth": "x", "predictions": {"m": "x"}, **arguments}
    with pytest.raises(InputError, match=message):
        plot_worst(plate, **given)
