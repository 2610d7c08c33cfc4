"""The site builds without a warning, its code runs, and it shows the examples whole."""

import os
import re
import subprocess
import sys

import pytest

from flare_connect.mesh import MeshStore


def blocks(repository, page, title):
    """Code blocks of one page that bear a title."""
    text = (repository / "docs" / page).read_text()
    return re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```', text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_site_builds_strictly(repository, tmp_path):
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=repository,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    tour = (tmp_path / "site/tour/index.html").read_text()
    assert "from_pretrained" in tour
    assert "--8<--" not in tour


@pytest.mark.parametrize(
    ("example", "page"),
    [
        ("01_first_surrogate.py", "tour.md"),
        ("02_your_own_mesh.py", "your-own-mesh.md"),
        ("05_pdebench_burgers.py", "pdebench.md"),
    ],
)
def test_every_marked_section_of_an_example_is_shown(repository, example, page):
    code = (repository / "examples" / example).read_text()
    starts = re.findall(r"--8<-- \[start:(\w+)\]", code)
    assert starts
    assert sorted(starts) == sorted(re.findall(r"--8<-- \[end:(\w+)\]", code))
    shown = re.findall(rf'--8<-- "examples/{re.escape(example)}:(\w+)"', (repository / "docs" / page).read_text())
    # Imports need no words.
    assert sorted({*shown, "imports"}) == sorted(starts)


def test_public_names_are_on_the_api_page(repository):
    import flare_connect as fc

    text = (repository / "docs/api/index.md").read_text() + (repository / "docs/api/errors.md").read_text()
    missing = [name for name in fc.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_overview_of_the_command_line_is_current(repository):
    from flare_connect.cli import COMMANDS, overview

    text = (repository / "docs/command-line.md").read_text()
    assert overview() in text
    assert [f"## {name}" for name in COMMANDS if f"\n## {name}\n" not in text] == []


def test_generator_of_the_page_runs(repository, tmp_path):
    (code,) = blocks(repository, "your-own-mesh.md", "own_generator.py")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    with MeshStore(tmp_path / "squares.h5") as store:
        assert len(store) == 10
        assert store[0].units["temperature"] == "K"
        assert set(store[0].sets) == {"cold"}
    assert not (tmp_path / "squares.parts").exists()


def test_shipped_model_of_the_pages_runs(repository, tmp_path):
    pytest.importorskip("gmsh")
    pytest.importorskip("skfem")
    (code,) = blocks(repository, "index.md", "shipped.py")
    assert code in (repository / "README.md").read_text()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cell.png").stat().st_size > 10_000


def test_yaml_of_the_page_is_a_training_run(repository, tmp_path):
    from jsonargparse import ArgumentParser

    from flare_connect.cli.training import TRAIN

    (text,) = blocks(repository, "command-line.md", "cells.yaml")
    file = tmp_path / "cells.yaml"
    file.write_text(text)
    parser = ArgumentParser()
    TRAIN.arguments(parser)
    settings = parser.parse_args(["--config", str(file), "--optimiser.epochs", "7"])
    assert settings.data.boundary == {"holes": "free"}
    assert settings.optimiser.epochs == 7
