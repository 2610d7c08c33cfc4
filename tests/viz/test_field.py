"""Pictures of fields hold what they must."""

import copy
import os

import matplotlib
import numpy as np
import pytest
import torch

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, load_mesh
from flare_connect.viz import plot_field, plot_mesh

SIDE, TOP, BOTTOM = 28, 85, 108  # margins of a panel at scale 1
VIRIDIS = np.round(255 * np.array(matplotlib.colormaps["viridis"].colors)).astype(int)
MAGMA = np.round(255 * np.array(matplotlib.colormaps["magma"].colors)).astype(int)


def texts(plotter) -> list[dict[str, str]]:
    """What is written in each panel."""
    return [
        {
            name: actor.GetInput()
            for name, actor in renderer.actors.items()
            if hasattr(actor, "GetInput") and isinstance(actor.GetInput(), str)
        }
        for renderer in plotter.renderers
    ]


def limits_of(plotter) -> list[tuple[float, float]]:
    return [tuple(renderer.actors["mesh"].mapper.lookup_table.scalar_range) for renderer in plotter.renderers]


def centre_line(picture: np.ndarray, panel: int, panels: int = 3) -> np.ndarray:
    """Colours from left to right through the middle of the mesh in a panel `[pixels, 3]`."""
    height, width = picture.shape[0], picture.shape[1] // panels
    row = (TOP + height - BOTTOM) // 2 + 7
    return picture[row, panel * width + SIDE + 4 : (panel + 1) * width - SIDE - 4]


def test_linear_field_runs_through_the_colormap(plate, pixels, tmp_path):
    path = plot_field(plate, "x", save=tmp_path / "x.png", show_edges=False)
    picture = pixels(path)
    assert picture.shape == (85 + 381 + 108, 600, 3)
    line = centre_line(picture, 0, 1)
    wanted = VIRIDIS[np.round(np.linspace(0.007, 0.993, len(line)) * 255).astype(int)]
    assert np.abs(line - wanted).max() <= 6


def test_three_panels_share_the_limits_of_the_truth(plate, pixels, tmp_path):
    x = plate.point_data["x"]
    picture = pixels(plot_field(plate, 0.5 * x, truth="x", save=tmp_path / "three.png", show_edges=False))
    assert picture.shape[1] == 1800
    truth, prediction, error = (centre_line(picture, i) for i in range(3))
    assert np.abs(truth[-1] - VIRIDIS[-2]).max() <= 8
    assert np.abs(prediction[-1] - VIRIDIS[127]).max() <= 8
    assert np.abs(error[0] - MAGMA[-2]).max() <= 8
    assert np.abs(error[-1] - MAGMA[1]).max() <= 8


def test_titles_limits_and_numbers(plate):
    x = plate.point_data["x"]
    plotter = plot_field(plate, 1.5 * x, truth="x", title="case 7")
    written = texts(plotter)
    assert [panel["title"] for panel in written] == ["case 7: truth", "case 7: prediction", "case 7: absolute error"]
    assert written[2]["line0"] == "relative L2 error 0.5,  max 1 mm"
    assert written[0]["label"] == "x [mm]"
    np.testing.assert_allclose(limits_of(plotter), [(0, 2), (0, 2), (0, 1)])
    assert ["above" in r.actors for r in plotter.renderers] == [False, True, False]
    assert not any("below" in r.actors for r in plotter.renderers)
    plotter.close()


def test_out_of_range_has_its_own_colour(plate, pixels, tmp_path):
    x = plate.point_data["x"]
    picture = pixels(plot_field(plate, 1.5 * x, truth="x", save=tmp_path / "a.png", show_edges=False))
    np.testing.assert_array_equal(centre_line(picture, 1)[-20], [0xE2, 0x40, 0x1F])


def test_no_error_where_prediction_is_truth(plate, pixels, tmp_path):
    plotter = plot_field(plate, "u", truth="u")
    assert texts(plotter)[2]["line0"] == "relative L2 error 0,  max 0"
    assert limits_of(plotter)[2] == (0.0, 1.0)
    plotter.close()
    picture = pixels(plot_field(plate, "u", truth="u", save=tmp_path / "zero.png", show_edges=False))
    error = centre_line(picture, 2)
    assert np.abs(error - MAGMA[-1]).max() <= 4
    np.testing.assert_array_equal(centre_line(picture, 0), centre_line(picture, 1))


def test_the_error_of_a_vector_counts_its_direction(plate):
    u = plate.point_data["u"]
    plotter = plot_field(plate, -u, truth=u, name="u")
    assert texts(plotter)[2]["line0"].startswith("relative L2 error 2,")
    assert texts(plotter)[0]["label"] == "‖u‖ [10⁻³]" or texts(plotter)[0]["label"] == "‖u‖"
    plotter.close()
    plotter = plot_field(plate, u, component=1, name="u")
    assert texts(plotter)[0]["title"] == "u_y"
    np.testing.assert_allclose(limits_of(plotter)[0], (-0.08, 0))
    plotter.close()


def test_truth_of_zero(plate):
    plotter = plot_field(plate, "x", truth=torch.zeros(plate.num_nodes))
    assert "undefined (truth is 0)" in texts(plotter)[2]["line0"]
    plotter.close()


def test_limits_given_and_robust(plate):
    peak = plate.point_data["x"].clone()
    peak[5] = 1e6
    for clim, wanted in (((-1.0, 3.0), (-1.0, 3.0)), ("robust", (0.0, 2.0)), (None, (0.0, 1e6))):
        plotter = plot_field(plate, peak, clim=clim)
        np.testing.assert_allclose(limits_of(plotter)[0], wanted)
        assert ("above" in plotter.renderers[0].actors) == (clim == (-1.0, 3.0))
        plotter.close()


def test_deformed_shape(holed, pixels, tmp_path):
    before = {name: values.clone() for name, values in [("pos", holed.pos), *holed.point_data.items()]}
    flat = pixels(plot_field(holed, "x", save=tmp_path / "flat.png", size=(500, 500)))
    bent = pixels(plot_field(holed, "x", displacement="u", save=tmp_path / "bent.png", size=(500, 500)))
    assert (np.abs(flat - bent).max(2) > 30).mean() > 0.02
    assert torch.equal(before["pos"], holed.pos)
    assert set(holed.point_data) == {"x", "u"}
    assert not holed.cell_data
    for name in ("x", "u"):
        assert torch.equal(before[name], holed.point_data[name])
    plotter = plot_field(holed, "x", displacement=holed.point_data["u"])
    actors = plotter.renderers[0].actors
    assert "undeformed" in actors
    factor = float(texts(plotter)[0]["line1"].removeprefix("deformation × "))
    shown = factor * float(holed.point_data["u"].norm(dim=1).max())
    assert 0.05 <= shown / holed.length_scale <= 0.08
    plotter.close()
    plotter = plot_field(holed, "x", displacement="u", warp=2)
    assert texts(plotter)[0]["line1"] == "deformation × 2"
    assert plotter.renderers[0].actors["mesh"].mapper.dataset.bounds[1] == pytest.approx(2 + 2 * 0.02)
    plotter.close()


def test_the_hole_stays_white(holed, pixels, tmp_path):
    picture = pixels(plot_field(holed, "x", save=tmp_path / "hole.png", show_edges=False))
    line = centre_line(picture, 0, 1)
    assert (line[len(line) // 2 - 20 : len(line) // 2 + 20] == 255).all()
    assert (line[10] < 255).any()


def test_cell_fields_of_two_kinds(pixels, tmp_path):
    pos = [[0, 0], [1, 0], [1, 1], [0, 1], [2, 0], [2, 1]]
    cells = {"line": [[0, 1]], "quad": [[0, 1, 2, 3]], "triangle": [[1, 4, 5], [1, 5, 2]]}
    mesh = Mesh.from_arrays(pos, cells, cell_data={"s": {"quad": [0.0], "triangle": [10.0, 10.0]}})
    by_name = pixels(plot_field(mesh, "s", save=tmp_path / "a.png"))
    by_value = pixels(plot_field(mesh, torch.tensor([np.nan, 0.0, 10.0, 10.0]), name="s", save=tmp_path / "b.png"))
    np.testing.assert_array_equal(by_name, by_value)
    line = centre_line(by_name, 0, 1)
    assert np.abs(line[20] - VIRIDIS[0]).max() <= 2
    assert np.abs(line[-20] - VIRIDIS[-1]).max() <= 2
    with pytest.raises(InputError, match=r"truth has shape \[6, 1\] at points"):
        plot_field(mesh, "s", truth=torch.zeros(6))


@pytest.mark.parametrize("options", [{}, {"clip": "x"}, {"view": "xz"}, {"view": (1, 2, 3)}, {"show_edges": True}])
def test_solids(solid, pixels, tmp_path, options):
    picture = pixels(plot_field(solid, "z", save=tmp_path / "solid.png", size=(400, 450), **options))
    body = picture[90:340]
    assert (body.min(2) < 250).mean() > 0.2
    if not options:
        assert body[:120].mean(axis=(0, 1))[0] > body[120:].mean(axis=(0, 1))[0]  # yellow above, purple below


def test_curved_quadratic_cells_are_drawn_curved(pixels, tmp_path):
    pos = [[0, 0], [2, 0], [0, 2], [1, -0.8], [1, 1], [0, 1]]
    mesh = Mesh.from_arrays(pos, {"triangle6": [[0, 1, 2, 3, 4, 5]]}, point_data={"v": np.arange(6.0)})
    plotter = plot_field(mesh, "v", displacement=np.zeros((6, 2)))
    assert plotter.renderers[0].actors["mesh"].mapper.dataset.n_cells == 64
    plotter.close()
    clipped = plot_field(mesh, "v", clip=((1, 0, 0), (1, 0, 0)))
    assert clipped.renderers[0].actors["mesh"].mapper.dataset.bounds[1] == pytest.approx(1)
    clipped.close()


def test_wide_meshes_stack_their_panels(pixels, tmp_path):
    pos = [[0, 0], [8, 0], [8, 1], [0, 1]]
    mesh = Mesh.from_arrays(pos, {"quad": [[0, 1, 2, 3]]}, point_data={"v": [0.0, 1.0, 1.0, 0.0]})
    picture = pixels(plot_field(mesh, "v", truth="v", save=tmp_path / "wide.jpg"))
    assert picture.shape[1] == 1000


def test_points_and_lines(pixels, tmp_path):
    pos = [[0, 0], [1, 0], [1, 1]]
    for cells in ({"vertex": [[0], [1], [2]]}, {"line": [[0, 1], [1, 2]]}):
        mesh = Mesh.from_arrays(pos, cells, point_data={"v": [0.0, 1.0, 2.0]})
        picture = pixels(plot_field(mesh, "v", save=tmp_path / "v.png"))
        assert (picture[TOP - 8 : -BOTTOM + 8].min(2) < 200).any()


def test_plot_mesh(holed, solid, pixels, tmp_path):
    picture = pixels(plot_mesh(holed, tmp_path / "mesh.png"))
    red = (picture[..., 0] > 150) & (picture[..., 1] < 120) & (picture[..., 2] < 90)
    assert red.sum() > 500
    assert (pixels(plot_mesh(solid, tmp_path / "solid.png")) < 250).any()
    pos, cells = holed.pos.numpy(), holed.cells["triangle"].numpy()
    two = Mesh.from_arrays(
        np.concatenate([pos, pos + np.array([3, 0])]), {"triangle": np.concatenate([cells, cells + len(pos)])}
    )
    plotter = plot_mesh(two, title="two plates")
    assert texts(plotter)[0]["title"] == "two plates"
    assert texts(plotter)[0]["line0"].endswith("2 parts")
    assert len(np.unique(plotter.renderers[0].actors["mesh"].mapper.dataset["rgb"], axis=0)) == 2
    plotter.close()


def test_published_bracket(shared_data, pixels, tmp_path):
    mesh = load_mesh(shared_data / "bracket_fea.vtu")
    before = copy.copy(mesh.cell_data)
    name = next(iter(mesh.cell_data))
    picture = pixels(plot_field(mesh, name, save=tmp_path / "bracket.png"))
    assert (picture[90:500].min(2) < 200).mean() > 0.3
    assert mesh.cell_data.keys() == before.keys()


@pytest.mark.parametrize("extension", ["png", "jpg", "pdf", "tif", "webp"])
def test_formats(plate, tmp_path, extension):
    path = plot_field(plate, "x", save=tmp_path / f"x.{extension}", size=(300, 300))
    assert path.stat().st_size > 1000
    assert os.listdir(tmp_path) == [path.name]


def test_nodes_without_cells_are_not_seen(plate):
    far = np.concatenate([plate.pos.numpy(), [[90.0, 40.0]]])
    field = np.append(plate.point_data["x"].numpy(), 1e6)
    mesh = Mesh.from_arrays(far, {"triangle": plate.cells["triangle"]}, point_data={"x": field})
    plotter, whole = plot_field(mesh, "x", truth="x"), plot_field(plate, "x", truth="x")
    assert texts(plotter)[0]["line0"] == texts(whole)[0]["line0"] == "min 0,  max 2"
    np.testing.assert_allclose(limits_of(plotter), limits_of(whole))
    assert plotter.window_size == whole.window_size
    np.testing.assert_allclose(plotter.camera.focal_point[:2], whole.camera.focal_point[:2])
    assert plotter.camera.parallel_scale == pytest.approx(whole.camera.parallel_scale)
    plotter.close()
    whole.close()


def test_only_cells_that_are_drawn_are_counted(plate):
    cells = {"vertex": [[0]], "line": [[0, 1], [1, 2]], "triangle": plate.cells["triangle"]}
    plotter = plot_mesh(Mesh.from_arrays(plate.pos, cells))
    assert f"{len(plate.cells['triangle'])} cells" in texts(plotter)[0]["line0"]
    plotter.close()
