"""Frames of pixels as a film: GIF through Pillow, MP4 through ffmpeg where there is one."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from flare_connect.errors import InputError
from flare_connect.files import replacing

from .render import RenderError


def film_path(save: str | Path) -> Path:
    """Checks a film's file name, and that it can be written here, before anything is computed.

    Raises:
        InputError: the extension is not one that can be written, or the folder does not exist.
        RenderError: there is no ffmpeg for an MP4.
    """
    path = Path(save)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"cannot write a film to {str(path)!r}: the extension must be .gif or .mp4")
    if not path.parent.is_dir():
        raise InputError(f"cannot write a film to {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    if path.suffix.lower() == ".mp4":
        _ffmpeg()
    return path


def write_film(path: Path, frames: Iterable[np.ndarray], ramps: Sequence[np.ndarray], *, rate: float) -> Path:
    """Writes frames as they come, replacing the file in one step.

    Args:
        path: what `film_path` let pass.
        frames: `[height, width, 3]` each, bytes, all of one size.
        ramps: colours `[n, 3]` that the frames are made of, 256 in all at most; a GIF has no others, so that no colour
            flickers.
        rate: frames a second.

    Raises:
        RenderError: ffmpeg failed.
    """
    with replacing(path) as temporary:
        if path.suffix.lower() == ".gif":
            _write_gif(temporary, frames, np.concatenate(ramps), rate)
        else:
            _write_mp4(temporary, iter(frames), rate)
    return path


def _write_gif(path: Path, frames: Iterable[np.ndarray], colours: np.ndarray, rate: float) -> None:
    from PIL import Image
    from scipy.spatial import cKDTree

    table = np.pad(colours, ((0, 256 - len(colours)), (0, 0)), mode="edge").round().astype(np.uint8)
    nearest = cKDTree(table.astype(float))

    def reduced(frame: np.ndarray) -> "Image.Image":
        # Pillow's own search is a rough one, and takes white for a light grey.
        packed, place = np.unique(frame.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
        _, chosen = nearest.query(np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(float))
        image = Image.fromarray(chosen.astype(np.uint8)[place].reshape(frame.shape[:2]))
        image.putpalette(table.tobytes())
        return image

    every = map(reduced, frames)
    duration = max(10 * round(100 / rate), 20)  # hundredths of a second; players slow shorter ones down
    next(every).save(path, format="GIF", save_all=True, append_images=every, duration=duration, loop=0, optimize=False)


def _write_mp4(path: Path, frames: Iterator[np.ndarray], rate: float) -> None:
    first = next(frames)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2  # the encoder takes even sizes only
    options = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{rate:g}", "-i", "-"]
    coding = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-f", "mp4", str(path)]
    command = [_ffmpeg(), "-y", "-loglevel", "error", *options, *coding]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        assert encoder.stderr is not None
        try:
            for frame in chain([first], frames):
                encoder.stdin.write(np.ascontiguousarray(frame[:height, :width]).tobytes())
            encoder.stdin.close()
        except BrokenPipeError:
            pass  # it has said why on its way out
        said = encoder.stderr.read().decode(errors="replace").strip()
    if encoder.returncode:
        raise RenderError(
            f"ffmpeg could not write {path.name} ({said.splitlines()[-1] if said else 'no reason given'})"
        )


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        raise RenderError(
            "cannot write .mp4 here, since there is no ffmpeg: name the film *.gif, or pip install imageio-ffmpeg"
        ) from None
    return get_ffmpeg_exe()
