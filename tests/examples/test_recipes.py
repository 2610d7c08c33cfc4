"""Recipes: the commands in their heads are commands, and the settings build a model on the data that these make."""

import dataclasses
import re
import shlex

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from flare_connect.cli import COMMANDS, main
from flare_connect.cli.pdebench import _FAMILIES
from flare_connect.mesh import MeshStore
from flare_connect.models.features import collate
from flare_connect.train.config import TrainConfig
from flare_connect.train.data import rollout_of, surrogate_of
from flare_connect.train.rollout_config import RolloutTrainConfig
from flare_connect.train.rollout_module import window_loss
from flare_datasets.pdebench import FAMILIES

# Sizes that leave the recipe's strides enough.
SMALL = {
    "advection": ["--num_points=64", "--num_frames=80"],
    "burgers": ["--num_points=64", "--num_frames=80", "--end_time=0.1"],
    "reaction_diffusion": ["--num_points=64", "--num_frames=17", "--end_time=0.1"],
    "diffusion_sorption": ["--num_points=16", "--num_frames=17", "--end_time=5"],
    "compressible_1d": ["--num_points=64", "--num_frames=80", "--end_time=0.1"],
    "darcy": ["--resolution=16"],
    "diffusion_reaction": ["--resolution=8", "--num_frames=13", "--end_time=0.1"],
    "shallow_water": ["--resolution=8", "--num_frames=13", "--end_time=0.1"],
    "incompressible": ["--resolution=16", "--num_frames=13", "--end_time=0.1", "--num_waves=3"],
}


@pytest.fixture
def recipe(repository, family):
    return repository / f"examples/recipes/pdebench/{family}.yaml"


def commands(recipe):
    """The commands in the head of a recipe, by name."""
    head = re.sub(r"\\\n#\s*", "", recipe.read_text())
    found = [shlex.split(line) for line in re.findall(r"^#\s+flare-connect (.*)$", head, flags=re.MULTILINE)]
    return {words[0]: words[1:] for words in found}


def parsed(name, words):
    """What a command would work with."""
    parser = ArgumentParser()
    COMMANDS[name].arguments(parser)
    return parser.instantiate(parser.parse_args(words))


def test_there_is_one_for_each_family(repository):
    found = {path.stem for path in (repository / "examples/recipes/pdebench").iterdir()}
    assert found == set(_FAMILIES) == set(SMALL)


@pytest.mark.parametrize("family", SMALL)
def test_commands_and_settings_belong_together(recipe, family, repository, monkeypatch):
    """Files go from hand to hand, strides are the usual ones, and as many frames are given as in the benchmark."""
    monkeypatch.chdir(repository)
    told = commands(recipe)
    train = "train" if family == "darcy" else "train-rollout"
    assert list(told) == ["generate-pdebench", "prepare-pdebench", train, "evaluate"]
    made = parsed("generate-pdebench", told["generate-pdebench"])
    assert made.family == family
    packed, config, scored = (parsed(name, told[name]) for name in ("prepare-pdebench", train, "evaluate"))
    assert made[family].out == packed.file == scored.pdebench
    assert packed.out == config.data.path
    assert scored.model == config.output
    strides = [(args.reduced_resolution, args.reduced_resolution_t) for args in (packed, scored)]
    usual = (2, 1) if family == "incompressible" else FAMILIES[family].usual
    assert strides == [usual, usual]
    settings = yaml.safe_load(recipe.read_text())["data"]
    assert settings.get("fields", settings.get("outputs")) == list(FAMILIES[family].channels)
    assert settings.get("inputs", []) == list(FAMILIES[family].static_channels)
    if family != "darcy":
        assert settings["initial"] == FAMILIES[family].initial_step


@pytest.mark.parametrize("family", SMALL)
def test_a_model_is_built(recipe, family, tmp_path, monkeypatch):
    """From the commands of the head, of smaller sizes: a file, a data set, a model of these settings, a finite loss."""
    told = commands(recipe)
    monkeypatch.chdir(tmp_path)
    small = ["--samples=12", "--quiet", "--device=cpu", *SMALL[family]]  # the last value of an option counts
    assert main(["generate-pdebench", *told["generate-pdebench"], *small]) == 0
    assert main(["prepare-pdebench", *told["prepare-pdebench"]]) == 0
    kind, train = (TrainConfig, "train") if family == "darcy" else (RolloutTrainConfig, "train-rollout")
    args = parsed(train, ["--config", str(recipe)])
    config = kind(**{field.name: args[field.name] for field in dataclasses.fields(kind)})
    assert config.data.cache == (family in ("darcy", "incompressible") or not config.data.in_memory)
    with MeshStore(config.data.path) as store:
        if family == "darcy":
            model = surrogate_of(store, 0, config.data, config.model)
            assert model.predict(store[0])["u"].shape[0] == 64
            return
        model = rollout_of(store, 0, config)
        batch = collate([model.build_graph(store[0], with_targets=True)])
    model.fit_statistics([batch])
    loss = window_loss(model, batch, batch.frames[:, : config.data.window], config.unroll, depth=1)
    assert 0 < float(loss.detach()) < torch.inf
    # Shallow water tells where it goes by its change alone; elsewhere the last frame is all of the state.
    assert model.config.history == (2 if family == "shallow_water" else 1)
