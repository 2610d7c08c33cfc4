"""Windows that never open, and files that are either complete or not there."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from flare_connect.errors import FlareConnectError, InputError

PICTURE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".pdf": "PDF",
}


_MAX_WINDOW = 8192  # pixels; what every OpenGL can do


class RenderError(FlareConnectError, RuntimeError):
    """This machine cannot draw: the libraries that draw without a display are missing."""


def picture_path(save: str | Path) -> Path:
    """Checks a picture's file name before anything is drawn.

    Raises:
        InputError: the extension is not one that can be written, or the folder does not exist.
    """
    path = Path(save)
    if path.suffix.lower() not in PICTURE_FORMATS:
        known = ", ".join(PICTURE_FORMATS)
        raise InputError(f"cannot write a picture to {str(path)!r}: the extension must be one of {known}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write a picture to {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps VTK from writing to stderr, e.g. that there is no X server, which is how these pictures are made."""
    from vtkmodules.vtkCommonCore import vtkLogger, vtkObject

    verbosity, warnings = vtkLogger.GetCurrentVerbosityCutoff(), vtkObject.GetGlobalWarningDisplay()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    vtkObject.SetGlobalWarningDisplay(0)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(verbosity)
        vtkObject.SetGlobalWarningDisplay(warnings)


@cache
def require_renderer() -> None:
    """Checks that VTK finds a way to draw; without one it would end the process.

    Raises:
        RenderError: there is neither a display, nor EGL, nor OSMesa.
    """
    if not sys.platform.startswith("linux"):
        return
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401  registers the kinds of windows
    from vtkmodules.vtkRenderingCore import vtkRenderWindow

    with quiet():
        kind = vtkRenderWindow().GetClassName()
    # VTK tries X, then EGL; OSMesa is what it names when both fail, whether or not the library is there.
    if kind == "vtkOSOpenGLRenderWindow" and not _osmesa():
        raise RenderError(
            "cannot draw: no display, no EGL and no OSMesa on this machine; "
            "on Debian and Ubuntu install libegl1 and libgl1-mesa-dri"
        )


def oversampling(size: tuple[int, int]) -> int:
    """How much finer than asked for a file is drawn, then averaged: software renderers smooth no edges themselves."""
    return 2 if 2 * max(size) <= _MAX_WINDOW else 1


def new_plotter(shape: tuple[int, int], size: tuple[int, int], *, off_screen: bool) -> Any:
    """Returns an empty white `pyvista.Plotter` of `size` pixels (width, height); off screen where no display is.

    Raises:
        RenderError: this machine cannot draw.
    """
    require_renderer()
    import pyvista as pv

    displayless = sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    with quiet():
        plotter = pv.Plotter(
            shape=shape,
            window_size=list(size),
            border=False,
            off_screen=True if off_screen or displayless else None,
            theme=pv.themes.DocumentTheme(),
        )
        if not off_screen:
            plotter.enable_anti_aliasing("msaa", multi_samples=8)
    return plotter


def finished(plotter: Any, path: Path | None, *, reduce: int) -> Any:
    """What a drawing function returns: the path, once it is written; without one the plotter, its views linked.

    Args:
        plotter: what to draw.
        path: file to write, or None.
        reduce: see `write_picture`.
    """
    if path is not None:
        return write_picture(plotter, path, reduce=reduce)
    plotter.link_views()
    return plotter


def write_picture(plotter: Any, path: Path, *, reduce: int) -> Path:
    """Draws and writes a picture, replacing the file in one step; the plotter is closed whatever happens.

    `.pdf` holds the picture as pixels. An existing file is kept where drawing or writing fails.

    Args:
        plotter: what to draw.
        path: file to write.
        reduce: pixels of the window for one of the picture, each way.
    """
    from PIL import Image

    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with quiet():
            pixels = plotter.screenshot(return_img=True)
        options = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
        Image.fromarray(pixels[..., :3]).reduce(reduce).save(
            part, format=PICTURE_FORMATS[path.suffix.lower()], **options
        )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        with quiet():
            plotter.close()
    return path


def _osmesa() -> bool:
    for name in ("libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
