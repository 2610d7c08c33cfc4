"""What gmsh does to the process that meshes."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal")
def test_a_broken_pipe_stays_an_error():
    """And does not end the program, as it does once gmsh has started."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    code = """
import os
from flare_datasets.meshing import start_gmsh
start_gmsh()
reads, writes = os.pipe()
os.close(reads)
try:
    os.write(writes, b"frames")
except BrokenPipeError:
    print("an error", flush=True)
os._exit(0)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (found.returncode, found.stdout) == (0, "an error\n"), found.stderr
