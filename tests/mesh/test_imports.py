import subprocess
import sys

HEAVY = ("pyvista", "vtk", "vtkmodules", "meshio", "gmsh", "lightning")


def run(code, repository):
    return subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=120)


def test_import_is_light_and_stores_work_without_readers(repository, tmp_path):
    """Nothing heavy is loaded, and where none of it is installed prepared files are still written and read."""
    code = f"""
import sys
import flare_connect.mesh as fm
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
sys.modules.update(dict.fromkeys({HEAVY!r}))  # importing any of these now fails
from flare_connect.errors import MeshReadError
mesh = fm.Mesh.from_arrays([[0, 0], [1, 0], [0, 1]], {{"triangle": [[0, 1, 2]]}}, point_data={{"u": [1.0, 2, 3]}})
path = {str(tmp_path / "x.h5")!r}
fm.write_store(path, [mesh], splits={{"train": [0]}}, generator="g", generator_version=1, seed=0, parameters={{}})
store = fm.MeshStore(path)
assert store.statistics()["u"]["mean"] == [2.0]
assert store[0].num_edges == 6 and store[0].boundary_normals.shape == (3, 2)
open({str(tmp_path / "x.vtu")!r}, "w").close()
try:
    fm.load_mesh({str(tmp_path / "x.vtu")!r})
except MeshReadError as error:
    assert "pyvista" in str(error), error
else:
    raise SystemExit("read without a reader")
"""
    done = run(code, repository)
    assert done.returncode == 0, done.stderr
