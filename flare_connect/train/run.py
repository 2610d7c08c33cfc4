"""A training run from configuration to trained model: start, resume, finish."""

import json
import logging
import platform
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from flare_connect.errors import ConfigError
from flare_connect.files import remove_leftovers, write_atomically
from flare_connect.mesh import MeshStore
from flare_connect.models import FlareConnect, FlareRollout

from .callbacks import BestModel, History, Progress, WarmAveraging
from .checkpoint import LastCheckpoint, SafeCheckpointIO
from .config import RunConfig, TrainConfig
from .data import StoreDataModule, rollout_of, surrogate_of
from .module import MeshModule, SurrogateModule
from .rollout_config import RolloutTrainConfig
from .rollout_module import RolloutModule

SETTINGS, METRICS, CHECKPOINTS = "train.json", "metrics.csv", "checkpoints"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        folder: holds `config.json` and `model.safetensors` of the best weights, `metrics.csv`, `checkpoints/`.
        best_error: lowest validation error, mean over fields of the mean relative L2.
        epochs_run: epochs trained by this call; 0 if the run was already finished.
    """

    folder: Path
    best_error: float
    epochs_run: int


def fit(config: TrainConfig | RolloutTrainConfig, *, resume: bool = True) -> TrainResult:
    """Train a surrogate or a rollout, or go on with a run that was interrupted.

    A run that was killed at any moment is resumed from its last finished checkpoint by calling this again; on the
    CPU the final weights are those of an unbroken run.

    Args:
        config: the run; its class says what is trained.
        resume: go on in a folder that holds a run with the same settings; otherwise such a folder is an error.

    Raises:
        ConfigError: if the output folder holds another run.
        StoreError: if the data set cannot be read.
        InputError: if it lacks a field.
        CheckpointError: if the checkpoint to resume from is damaged.
    """
    folder = Path(config.output)
    with MeshStore(config.data.path) as store:
        what_matters = config.what_matters() | {"data set digest": store.digest}
    _check_free(folder, what_matters, resume)
    L.seed_everything(config.seed, verbose=False)
    data, module = _prepared(config)
    # Not before the data have been read: settings that they refuse must not stand in the way of those that are right.
    _claim(folder, what_matters)
    for written in (folder, folder / CHECKPOINTS):
        remove_leftovers(written)
    provenance = {"train": config.to_dict(), "data": data.store.attrs, "parameters": data.model.num_parameters}
    best = BestModel(folder, provenance | {"machine": _machine(config)})
    trainer = _trainer(config, folder, best)
    last = folder / CHECKPOINTS / "last.safetensors"
    with warnings.catch_warnings():
        # Lightning's advice on worker counts does not fit graphs that are already in memory.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
        warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
        before = _epochs_done(folder)
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    return TrainResult(folder=folder, best_error=best.best, epochs_run=max(trainer.current_epoch - before, 0))


def _prepared(config: TrainConfig | RolloutTrainConfig) -> tuple[StoreDataModule, MeshModule]:
    """Data, and the training steps of the model that fits them."""
    module: MeshModule
    if isinstance(config, RolloutTrainConfig):
        make = partial(rollout_of, config=config)
        data = StoreDataModule(config.data, make, seed=config.seed, progress=config.progress)
        assert isinstance(data.model, FlareRollout)
        module = RolloutModule(data.model, config.optimiser, config.seed, config.data, config.unroll)
    else:
        resolve = partial(surrogate_of, data=config.data, architecture=config.model)
        data = StoreDataModule(config.data, resolve, seed=config.seed, progress=config.progress)
        assert isinstance(data.model, FlareConnect)
        module = SurrogateModule(data.model, config.optimiser, config.seed)
    return data, module


def _trainer(config: RunConfig, folder: Path, best: BestModel) -> L.Trainer:
    # The best model is exported while the averaged weights are swapped in, hence before the averaging swaps back.
    callbacks: list[L.Callback] = [best]
    if config.optimiser.ema_decay:
        callbacks.append(WarmAveraging(config.optimiser.ema_decay))
    callbacks += [History(folder / METRICS), LastCheckpoint(folder / CHECKPOINTS, config.checkpoint_every)]
    if config.progress:
        callbacks.append(Progress())
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    on_cpu = config.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu:
        # Only uninitialised memory could make a difference here, and nothing of ours reads any.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return L.Trainer(
        # On the CPU repeatable sums cost little, and a resumed run ends with the very weights of an unbroken one.
        deterministic=on_cpu,
        accelerator=config.accelerator,
        devices=config.devices,
        max_epochs=config.optimiser.epochs,
        precision="32-true" if config.optimiser.precision == "32" else "bf16-mixed",
        gradient_clip_val=config.optimiser.clip or None,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        plugins=[SafeCheckpointIO()],
        enable_progress_bar=config.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        default_root_dir=folder,
        use_distributed_sampler=config.devices > 1,
    )


def _machine(config: RunConfig) -> str:
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}"


def _check_free(folder: Path, what_matters: dict[str, Any], resume: bool) -> None:
    """Refuse a folder that is another run's, or this one's where it shall not go on."""
    settings = folder / SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose another output folder")
    if settings.is_file():
        known = json.loads(settings.read_text())
        ours = json.loads(json.dumps(what_matters))
        differing = sorted(_differences(known, ours))
        if differing:
            raise ConfigError(
                f"{folder} holds a run with other settings ({', '.join(differing)}): choose another output folder, "
                "or delete this one"
            )
        if not resume:
            raise ConfigError(f"{folder} holds a run already: choose another output folder, resume, or delete it")


def _claim(folder: Path, what_matters: dict[str, Any]) -> None:
    """Make a folder that is free this run's own."""
    settings = folder / SETTINGS
    if not settings.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(settings, json.dumps(what_matters, indent=2, sort_keys=True).encode() + b"\n")


def _differences(known: dict, ours: dict, prefix: str = "") -> list[str]:
    found = []
    for key in known.keys() | ours.keys():
        old, new = known.get(key), ours.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} there, {new!r} here")
    return found


def _epochs_done(folder: Path) -> int:
    last = folder / CHECKPOINTS / "last.safetensors"
    return int(SafeCheckpointIO().load_checkpoint(last)["epoch"]) + 1 if last.is_file() else 0
