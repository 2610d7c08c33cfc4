"""Films: how many frames, what is drawn in each, one scale for all, and what ffmpeg is told."""

import stat
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from flare_connect.errors import InputError
from flare_connect.viz import RenderError, film, save_movie


def read(path):
    """All frames [T, height, width, 3]."""
    with Image.open(path) as picture:
        return np.stack([_frame(picture, t) for t in range(picture.n_frames)]).astype(int), picture.info["duration"]


def _frame(picture, t):
    picture.seek(t)
    return np.asarray(picture.convert("RGB"))


def near(pixels, colour, most=12):
    return np.abs(pixels - np.array(colour)).sum(-1) <= most


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A film of a square of ones that is right in the first frame, and missing in the second."""
    truth = np.zeros((6, 4, 2, 1))
    truth[:3, :2] = 1.0  # low x, low y: the lower left
    guess = truth.copy()
    guess[..., 1, :] = 0.0
    folder = tmp_path_factory.mktemp("film")
    path = save_movie(truth, guess, folder / "squares.gif", channels=["h"], given=1, rate=5, times=[0.0, 0.5])
    assert [entry.name for entry in folder.iterdir()] == ["squares.gif"]
    return path


def test_images_are_where_the_field_is(squares):
    frames, duration = read(squares)
    assert len(frames) == 2
    assert duration == 200
    assert frames.shape[2] == 960
    viridis = [np.array(matplotlib.colormaps["viridis"](end)[:3]) * 255 for end in (0.0, 1.0)]
    high = near(frames[0], viridis[1])
    rows, columns = np.nonzero(high[:, :330])  # the panel of the truth
    whole = np.nonzero(near(frames[0][:, :330], viridis[0]) | high[:, :330])
    assert rows.min() > np.mean([whole[0].min(), whole[0].max()]) - 2  # pixels count downward
    assert columns.max() < np.mean([whole[1].min(), whole[1].max()]) + 2
    share = len(rows) / len(whole[0])
    assert share == pytest.approx(0.25, abs=0.02)
    # The truth stays, the prediction loses its square, and the error has it, at the lowest end of the scale.
    assert (frames[0][60:, :330] == frames[1][60:, :330]).all()
    assert near(frames[0][:, 330:560], viridis[1]).sum() > 0.9 * len(rows)
    assert not near(frames[1][:, 330:560], viridis[1]).any()
    blue = np.array(matplotlib.colormaps["RdBu_r"](0.0)[:3]) * 255
    assert near(frames[1][:, 640:890], blue).sum() > 0.9 * len(rows)
    assert not near(frames[0][:, 640:890], blue).any()


def test_scales_stay(squares):
    """Bars and their numbers are the same in all frames; the line above tells the frames apart."""
    frames, _ = read(squares)
    bars = frames[:, 40:, 890:]
    assert (bars[0] == bars[1]).all()
    assert len(np.unique(bars[0].reshape(-1, 3), axis=0)) > 90  # a bar of many colours
    assert (frames[0][:30] != frames[1][:30]).any()
    assert (frames[:, -1, 0] == 255).all()  # white is white


def test_lines_follow_the_field(tmp_path):
    """A step that moves: the line's height on either side of it, in the panel of the prediction."""
    x = (np.arange(50) + 0.5) / 50
    truth = (x[:, None, None] < np.array([0.25, 0.5, 0.75])[:, None]).astype(float)
    guess = np.roll(truth, 1, axis=1)
    path = save_movie(truth, guess, tmp_path / "step.gif", channels=["u"], coordinates=[x], title="a step")
    frames, _ = read(path)
    assert len(frames) == 3
    blue = [near(frame, [0x00, 0x72, 0xB2], 40) for frame in frames]
    columns = np.flatnonzero(blue[0].any(0))
    left, width = columns.min(), np.ptp(columns)
    for t, place in enumerate((0.75, 0.25, 0.5)):  # of the prediction
        top = np.flatnonzero(blue[t].any(1)).min()
        upper = np.flatnonzero(blue[t][top : top + 3].any(0))
        assert (upper.max() - left) / width == pytest.approx(place, abs=0.03)
    orange = [near(frame[40:], [0xD5, 0x5E, 0x00], 40) for frame in frames]
    assert all(each.any() for each in orange)


def test_three_dimensions_show_the_middle_plane(tmp_path):
    truth = np.zeros((4, 4, 5, 1, 1))
    truth[:, :, 2] = np.linspace(0, 1, 16).reshape(4, 4, 1, 1)
    flat = truth[:, :, 2]
    found = [
        read(save_movie(field, 0.5 * field, tmp_path / f"{field.ndim}.gif", channels=["p"]))[0]
        for field in (truth, flat)
    ]
    np.testing.assert_array_equal(*found)


ENCODER = """#!{python}
import pathlib, sys
data = sys.stdin.buffer.read()
pathlib.Path(sys.argv[-1]).write_bytes(data)
pathlib.Path({log!r}).write_text(" ".join(sys.argv[1:]))
"""


def encoder(folder, text, monkeypatch):
    """Puts a program named ffmpeg first on the path."""
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))


def test_ffmpeg_is_given_whole_frames(tmp_path, monkeypatch):
    encoder(tmp_path, ENCODER.format(python=sys.executable, log=str(tmp_path / "log")), monkeypatch)
    truth = np.random.default_rng(0).normal(size=(16, 3, 1))
    path = save_movie(truth, truth, tmp_path / "film.mp4", channels=["u"], rate=12)
    told = (tmp_path / "log").read_text()
    width, height = (int(n) for n in told.split("-s ")[1].split()[0].split("x"))
    assert "-r 12" in told
    assert width % 2 == height % 2 == 0
    assert path.stat().st_size == 3 * height * width * 3


def test_what_ffmpeg_says_is_told(tmp_path, monkeypatch):
    encoder(tmp_path, f"#!{sys.executable}\nimport sys\nsys.exit('Unknown encoder libx264')\n", monkeypatch)
    truth = np.zeros((16, 3, 1))
    (tmp_path / "film.mp4").write_text("old")
    with pytest.raises(RenderError, match="Unknown encoder libx264"):
        save_movie(truth, truth, tmp_path / "film.mp4", channels=["u"])
    assert (tmp_path / "film.mp4").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bin", "film.mp4"]


def test_without_ffmpeg_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(RenderError, match=r"no ffmpeg: name the film \*\.gif, or pip install imageio-ffmpeg"):
        film.film_path(tmp_path / "film.mp4")


FIELD = np.zeros((8, 4, 1))


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ((FIELD, FIELD[:4]), {}, r"must both have shape .* got \[8, 4, 1\] and \[4, 4, 1\]"),
        ((FIELD[0], FIELD[0]), {}, "must both have shape"),
        ((FIELD, FIELD), {"channels": ["u", "v"]}, "`channels` must be 1 names"),
        ((FIELD, FIELD), {"coordinates": [np.arange(7)]}, r"`coordinates` must be \[8\] places along the axes"),
        ((FIELD, FIELD), {"times": [0.0]}, "`times` must be one for each of the 4 frames, got 1"),
        ((FIELD, FIELD), {"given": 5}, "`given` must be from 0 to the 4 frames"),
        ((FIELD, FIELD), {"rate": 0}, "`rate` must be above 0"),
        ((FIELD[:1], FIELD[:1]), {}, "a film needs 2 points or more along each axis"),
        ((FIELD, np.where(np.arange(4)[:, None] == 2, np.nan, FIELD)), {}, "prediction is NaN .* first in frame 2"),
        ((FIELD, FIELD), {"path": "film.avi"}, "the extension must be .gif or .mp4"),
        ((FIELD, FIELD), {"path": "no/film.gif"}, "the folder 'no' does not exist"),
    ],
)
def test_wrong_films_are_refused(fields, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        save_movie(*fields, **{"path": "film.gif", "channels": ["u"]} | options)
    assert not list(tmp_path.iterdir())
