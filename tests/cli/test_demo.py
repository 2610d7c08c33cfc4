"""The demo at its smallest: both models are judged on the same unseen cells, and the last line says how well."""

import re

import pytest

from flare_connect.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec.*")]


def test_demo_draws_both_models_and_ends_with_the_error(tmp_path, capsys):
    pytest.importorskip("gmsh")
    pytest.importorskip("skfem")
    sizes = ["--train_cells", "4", "--test_cells", "2", "--nodes", "300", "--test_nodes", "400", "--epochs", "1"]
    assert main(["demo", "--out", str(tmp_path / "demo"), *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    number = r"(\d+\.\d{3})"
    first = rf"relative L2 error of von Mises stress over 2 unseen cells: {number}"
    assert re.fullmatch(rf"{first} \(predicting the training mean: {number}\)", lines[-1])
    shipped = re.fullmatch(rf"the shipped model 'unit-cells' on the same cells: {number}", lines[-2])
    assert float(shipped[1]) < 1
    assert (tmp_path / "demo/stress.png").stat().st_size > 10_000
