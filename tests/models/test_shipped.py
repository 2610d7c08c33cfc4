"""Trained models that come with the package: found by name, small, and as good as their card says."""

import json
import re

import pytest
import torch
from fixtures_meshes import periodic_cell

import flare_connect as fc
from flare_connect.errors import CheckpointError
from flare_connect.metrics import relative_l2, von_mises
from flare_connect.models.shipped import model_folder


@pytest.fixture(scope="module")
def unit_cells() -> fc.FlareConnect:
    return fc.FlareConnect.from_pretrained("unit-cells")


def test_names_are_sorted_and_public():
    assert fc.shipped_models() == sorted(fc.shipped_models())
    assert "unit-cells" in fc.shipped_models()


@pytest.mark.parametrize("name", fc.shipped_models())
def test_folders_hold_what_users_need_and_stay_small(name):
    folder = model_folder(name)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size <= 3_000_000
    card = (folder / "README.md").read_text()
    assert f'from_pretrained("{name}")' in card
    config = json.loads((folder / "config.json").read_text())["config"]
    for field in (*config["conditions"], *config["inputs"], *config["outputs"], *config["boundary"]):
        assert f"`{field}`" in card


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = fc.FlareConnect(fc.FlareConnectConfig(dim=3, outputs={"heat": 1}))
    shipped = fc.FlareConnect.from_pretrained("unit-cells")
    own.save_pretrained("unit-cells")
    assert fc.FlareConnect.from_pretrained("unit-cells").config == own.config != shipped.config
    assert model_folder("unit-cells") == model_folder(tmp_path / "unit-cells").relative_to(tmp_path)


@pytest.mark.parametrize("name", ["unit_cells", "./unit-cells", "models/unit-cells", "unit-cells/", ""])
def test_what_is_no_name_is_a_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as error:
        fc.FlareConnect.from_pretrained(name)
    message = str(error.value)
    assert "a folder with config.json and model.safetensors" in message
    assert message.endswith("the name of a shipped model: " + ", ".join(fc.shipped_models()))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'unit-cells'} is no folder")):
        fc.FlareConnect.from_pretrained(tmp_path / "unit-cells")


def test_stress_is_linear_in_the_strain(unit_cells):
    strain = (0.01, -0.004, 0.003)
    mesh = periodic_cell(strain=strain)
    once = unit_cells.predict(mesh)["stress"]
    assert once.shape == (mesh.num_nodes, 3)
    assert once.isfinite().all()
    assert once.norm() > 0
    turned = unit_cells.predict(periodic_cell(strain=tuple(-2 * e for e in strain)))["stress"]
    torch.testing.assert_close(turned, -2 * once, rtol=1e-4, atol=1e-5 * float(once.abs().max()))


def test_generated_cells_are_predicted(unit_cells):
    """Seed 0 made what it was trained on; these are others. Predicting no stress at all has an error of 1."""
    pytest.importorskip("gmsh")
    pytest.importorskip("skfem")
    from flare_datasets.unit_cells import UnitCellConfig, generate_sample

    config = UnitCellConfig(num_nodes=5_000, seed=1)
    errors = []
    for index in range(3):
        mesh = generate_sample(config, index)
        stress = von_mises(unit_cells.predict(mesh)["stress"], poisson_ratio=config.poisson_ratio)
        errors.append(relative_l2(stress, mesh.point_data["von_mises"]))
    assert sum(errors) / len(errors) < 0.3
