"""The arrangement of the packages, what an import costs and loads, and what a wheel holds."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

HEAVY = ("pyvista", "vtk", "meshio", "gmsh", "lightning", "matplotlib")


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=240).stdout


def test_importing_the_package_is_light():
    """Under two seconds beyond torch, and without what a GPU box that only trains need not have."""
    code = (
        "import torch, sys, time; start = time.perf_counter(); import flare_connect; "
        f"print(time.perf_counter() - start, [m for m in {HEAVY} if m in sys.modules])"
    )
    seconds, loaded = run(code).split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 2


def test_training_from_prepared_files_needs_no_reader_and_no_renderer():
    code = (
        "import sys, flare_connect as fc; fc.FlareConnect, fc.MeshStore, fc.Mesh, fc.fit, fc.evaluate; "
        "print([m for m in ('pyvista', 'vtk', 'meshio', 'gmsh') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_every_public_name_loads():
    import flare_connect

    for name in flare_connect.__all__:
        assert getattr(flare_connect, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        flare_connect.nothing  # noqa: B018


def test_folders_hold_packages_and_are_none_themselves(repository):
    """`kernels` and `datasets` as packages would shadow the Hugging Face packages of the same names."""
    for folder, package in (("kernels", "flare_kernels"), ("datasets", "flare_datasets")):
        assert not (repository / folder / "__init__.py").exists()
        assert (repository / folder / package / "__init__.py").is_file()
    wheel = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["flare_connect", "kernels/flare_kernels", "datasets/flare_datasets"]


def test_the_three_packages_import_from_the_checkout(repository):
    for package in ("flare_connect", "flare_kernels", "flare_datasets"):
        assert run(f"import {package}; print({package}.__file__)").startswith(str(repository))


def test_a_wheel_holds_the_three_packages_and_nothing_else(repository, tmp_path):
    builder = pytest.importorskip(
        "hatchling.builders.wheel", reason="hatchling builds wheels; it is not installed here"
    )
    (path,) = builder.WheelBuilder(str(repository)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
    top = {name.split("/")[0] for name in names}
    assert top == {"flare_connect", "flare_kernels", "flare_datasets", "flare_connect-0.1.0.dist-info"}
    shipped = repository / "flare_connect/models/shipped"
    folders = [path.parent for path in shipped.glob("*/config.json")]
    assert folders
    for folder in folders:
        for file in ("README.md", "config.json", "model.safetensors"):
            assert str((folder / file).relative_to(repository)) in names


def test_versions_agree(repository):
    import flare_connect

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert flare_connect.__version__ == project["version"]
    assert f"version: {project['version']}" in (repository / "CITATION.cff").read_text()
    assert sorted(project["optional-dependencies"]) == ["baselines", "docs", "generate", "test"]
    assert not [d for d in project["dependencies"] if "scatter" in d]
