"""Charts of rollouts: the numbers that are drawn, where marks stand, and one sentence for each mistake."""

import numpy as np
import pytest
import torch

from flare_connect.errors import InputError
from flare_connect.metrics import PDEBenchErrors, SpectraMetrics
from flare_connect.metrics.pdebench import METRICS
from flare_connect.viz import plot_curves, plot_spectra

GIVEN, STEPS = 3, 6


def errors(scale=1.0, channels=2, steps=STEPS):
    values = scale * (1.0 + torch.arange(channels * steps, dtype=torch.float64).reshape(channels, steps))
    return PDEBenchErrors(values={name: (1 + i) * values for i, name in enumerate(METRICS)})


def spectra(channels=2, frames=(1, 2)):
    metrics = SpectraMetrics(frames)
    truth = torch.randn(3, 32, 3, channels)
    metrics.update(truth + 0.1, truth)
    return metrics.compute()


def test_curves_show_the_errors():
    found = {"model": errors(), "persistence": errors(10.0)}
    figure = plot_curves(found, channels=["u", "v"], initial_step=GIVEN, window=5, title="a run")
    assert [axis.get_title() for axis in figure.axes] == ["nRMSE", "RMSE"]
    for axis, metric in zip(figure.axes, ("nrmse", "rmse"), strict=True):
        assert axis.get_yscale() == "log"
        *lines, mark = axis.lines
        for line, (name, v) in zip(lines, [(n, v) for n in found for v in range(2)], strict=True):
            np.testing.assert_array_equal(line.get_xdata(), GIVEN + np.arange(STEPS))
            np.testing.assert_array_equal(line.get_ydata(), found[name].values[metric][v])
        # The same colour for a channel, the same stroke for a model; another for each other.
        assert lines[0].get_color() == lines[2].get_color() != lines[1].get_color()
        assert lines[0].get_linestyle() == lines[1].get_linestyle() != lines[2].get_linestyle()
        assert set(mark.get_xdata()) == {4.5}  # between the last frame of the window and the next
        (shade,) = axis.patches
        assert shade.get_extents().transformed(axis.transData.inverted()).x1 == pytest.approx(GIVEN - 0.5)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["u", "v", "model", "persistence", "given frames", "window of training, 5 frames"]
    assert figure.get_suptitle() == "a run"


@pytest.mark.parametrize("metrics", [("nrmse",), ("nrmse", "rmse")])
def test_titles_and_legends_stay_on_the_picture(metrics):
    figure = plot_curves(
        {"model": errors(), "persistence": errors(2.0)}, channels=["velocity", "temperature"], initial_step=2,
        window=4, metrics=metrics, title="a/folder/" + "within/a/folder/" * 12 + "run on split 'val' of series.h5",
    )  # fmt: skip
    figure.canvas.draw()
    for each in (figure._suptitle, *figure.legends):
        box = each.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_errors_without_a_place_on_the_scale_leave_a_gap():
    found = errors(channels=1)
    found.values["rmse"][0, 1:4] = torch.tensor([0.0, torch.inf, torch.nan])
    figure = plot_curves({"model": found}, channels=["u"], initial_step=0, metrics=["rmse"])
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, True, True, True, False, False])


def test_a_single_frame_is_a_point():
    figure = plot_curves({"model": errors(steps=1)}, channels=["u", "v"], initial_step=0)
    assert all(line.get_marker() == "o" for axis in figure.axes for line in axis.lines)
    # Powers of ten to read off, however close the errors are.
    low, high = figure.axes[1].get_ylim()
    assert np.log10([low, high]) == pytest.approx([0.0, 1.0])


def test_spectra_show_the_energies():
    found = spectra()
    figure = plot_spectra(found, channels=["u", "v"])
    axes = np.array(figure.axes).reshape(2, 2)
    for v in range(2):
        for f in range(2):
            for line, kind in zip(axes[v, f].lines, ("truth", "prediction", "error"), strict=False):
                np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 17))
                values = getattr(found, kind)[v, f, 1:].numpy()
                np.testing.assert_array_equal(line.get_ydata()[values > 0], values[values > 0])
            assert axes[v, f].get_title() == f"{'uv'[v]}, frame {found.frames[f]}"
            assert (axes[v, f].get_xscale(), axes[v, f].get_yscale()) == ("log", "log")
            assert [line.get_xdata()[0] for line in axes[v, f].lines[3:]] == [4, 12]  # bands of the benchmark


def test_pictures_are_written(tmp_path, pixels):
    """A line is where its numbers are: the pixels of its colour rise from left to right."""
    path = plot_curves({"model": errors(channels=1)}, channels=["u"], initial_step=1, save=tmp_path / "c.png")
    found = pixels(path)
    assert found.shape == (600, 1560, 3)
    blue = np.abs(found - [0x00, 0x72, 0xB2]).sum(-1) < 30
    left = blue[:500, :780]
    columns = np.flatnonzero(left.any(0))
    heights = [np.flatnonzero(left[:, column]).mean() for column in columns]
    assert len(columns) > 300
    assert (np.diff(heights) <= 1.0).all()  # pixels count downward
    assert heights[0] - heights[-1] > 100
    for name in ("s.jpg", "s.tif", "s.webp", "s.pdf"):
        assert plot_spectra(spectra(1, [1]), channels=["u"], save=tmp_path / name).stat().st_size > 5_000
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "`errors` must be of 1 to 4 models, got 0"),
        ({"model": errors()}, {"metrics": ["mse"]}, "`metrics` must be some of rmse, nrmse"),
        ({"model": errors()}, {"metrics": []}, "`metrics` must be some of"),
        ({"model": errors(channels=3)}, {}, r"errors must be \[V, T\] of the 2 channels \['u', 'v'\]"),
        ({"a": errors(), "b": errors(steps=2)}, {}, r"got {'a': \[2, 6\], 'b': \[2, 2\]}"),
        ({"model": errors(0.0)}, {}, "there is nothing to draw of 'nrmse'"),
        ({"model": errors()}, {"save": "c.gif"}, "the extension must be one of .png"),
        ({"model": errors()}, {"save": "no/c.png"}, "the folder 'no' does not exist"),
    ],
)
def test_wrong_curves_are_refused(models, options, message):
    with pytest.raises(InputError, match=message):
        plot_curves(models, channels=["u", "v"], initial_step=GIVEN, **options)


def test_wrong_spectra_are_refused():
    with pytest.raises(InputError, match=r"the spectra have 2 channels, but 1 names: \['u'\]"):
        plot_spectra(spectra(), channels=["u"])
    metrics = SpectraMetrics([0])
    metrics.update(torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    with pytest.raises(InputError, match="has no spectrum to draw: take a finer one"):
        plot_spectra(metrics.compute(), channels=["u"])
