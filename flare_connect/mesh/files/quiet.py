"""Libraries that read and write meshes print; ours raises instead."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO


@contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Keeps VTK's and meshio's messages off the screen; yields a function that returns VTK's."""
    with ExitStack() as stack:
        messages: Callable[[], str] = str
        with suppress(ImportError):  # meshio works without VTK
            from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow

            before, window = vtkOutputWindow.GetInstance(), vtkStringOutputWindow()
            vtkOutputWindow.SetInstance(window)
            stack.callback(vtkOutputWindow.SetInstance, before)
            stack.callback(vtkLogger.SetStderrVerbosity, vtkLogger.GetCurrentVerbosityCutoff())
            vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
            messages = lambda: window.GetOutput() or ""  # noqa: E731
        # PyVista calls logging.error, which without a handler would set up logging for the whole program
        silent = logging.NullHandler()
        logging.getLogger().addHandler(silent)
        stack.callback(logging.getLogger().removeHandler, silent)
        stack.enter_context(redirect_stdout(StringIO()))
        stack.enter_context(redirect_stderr(StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield messages
