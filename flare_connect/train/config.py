"""What a training run is, as plain data: typed flags of the command line, keys of the YAML file."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from flare_connect.errors import ConfigError
from flare_connect.models.config import Architecture, Recompute, Response


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The prepared data set, and which of its fields are read and predicted.

    Args:
        path: prepared data set (HDF5), made by `flare-connect generate` or `flare-connect prepare`.
        outputs: point fields to predict.
        inputs: point fields that the model reads.
        conditions: per-mesh numbers that the model reads (load, material).
        directional: those of the conditions that are vectors or symmetric tensors (xx, yy, xy); each node is also
            given their projection on the normal of the boundary nearby.
        boundary: named set → "free", "fixed", "value:NAME", "flux:NAME" or "traction:NAME", NAME being one of the
            conditions; "*" is the boundary in no other set. Empty: the whole boundary is of one type.
        harmonic: inputs from Laplace's equation on each mesh: "boundary", or a condition that is the mean gradient of a
            periodic cell; empty: none.
        loads: those of the conditions and inputs that act in proportion, see `FlareConnectConfig`.
        response: what the outputs are to the loads, "linear" or "homogeneous".
        train_split: split to train on.
        val_split: split to validate on, and to choose the best weights by; not the one that is reported in the end.
        batch_size: meshes a step.
        in_memory: compute the graphs once and keep them; switch off for data larger than memory.
        cache: keep anchors and costs in the folder `<path>.cache`, 2·S·M bytes a node, so that the next run reads them.
        num_workers: processes that make graphs in the background when they are not kept in memory.
    """

    path: str
    outputs: tuple[str, ...] = ("von_mises",)
    inputs: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    directional: tuple[str, ...] = ()
    boundary: dict[str, str] = field(default_factory=dict)
    harmonic: str = ""
    loads: tuple[str, ...] = ()
    response: Response = "linear"
    train_split: str = "train"
    val_split: str = "val"
    batch_size: int = 8
    in_memory: bool = True
    cache: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work or would do nothing."""
        if not self.outputs:
            raise ConfigError("`data.outputs` is empty: name at least one point field to predict")
        if self.batch_size < 1:
            raise ConfigError(f"`data.batch_size` must be at least 1, got {self.batch_size}")
        if self.num_workers < 0 or (self.in_memory and self.num_workers):
            raise ConfigError(
                f"`data.num_workers` is {self.num_workers}, but does nothing while `data.in_memory` is on: "
                "set it to 0 or switch `in_memory` off"
            )


Precision = Literal["32", "bf16", "bf16-stream"]
PRECISIONS, RECOMPUTE = get_args(Precision), get_args(Recompute)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a one-cycle learning rate, gradient clipping and averaged weights.

    Args:
        epochs: passes over the training split.
        learning_rate: peak of the cycle.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
        clip: largest gradient norm; 0 switches clipping off.
        ema_decay: decay of the exponential average of the weights that is validated and kept; 0 switches it off. It
            is warmed up, so short runs need no other value.
        precision: "32"; "bf16" (products in bfloat16, points between blocks in float32); or "bf16-stream" (those in
            bfloat16 too, for less memory and time).
        recompute: what the backward pass computes again instead of keeping it: "nothing"; "blocks", for less memory and
            about a third more time; "layers", for the least memory.
        min_rank: train half of the steps with a number of latents between this and all of them, drawn log-evenly, so
            that the error grows gently when a lower rank is chosen afterwards; 0 always trains with all.
        compile: compile the model with `torch.compile`; pays on long runs on a GPU.

    Good values: learning rate 1e-3 for 64 channels, 5e-4 for 256.
    """

    epochs: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clip: float = 1.0
    ema_decay: float = 0.999
    precision: Precision = "32"
    recompute: Recompute = "nothing"
    min_rank: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.epochs < 1:
            raise ConfigError(f"`optimiser.epochs` must be at least 1, got {self.epochs}")
        for name, choices in (("precision", PRECISIONS), ("recompute", RECOMPUTE)):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"`optimiser.{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        if self.learning_rate <= 0:
            raise ConfigError(f"`optimiser.learning_rate` must be positive, got {self.learning_rate}")
        if not 0 < self.warmup < 1:
            raise ConfigError(f"`optimiser.warmup` must lie between 0 and 1, got {self.warmup}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"`optimiser.ema_decay` must be at least 0 and below 1, got {self.ema_decay}")
        if self.clip < 0 or self.weight_decay < 0:
            raise ConfigError(
                f"`optimiser.clip` and `optimiser.weight_decay` must not be negative, got {self.clip} and "
                f"{self.weight_decay}"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every training run has.

    Args:
        output: folder of the run: best model, last checkpoint, logs.
        model: sizes and switches of the model.
        optimiser: how it is trained.
        seed: of the weights and of the order of samples.
        accelerator: "auto", "cpu" or "gpu".
        devices: GPUs or processes that share each step.
        checkpoint_every: epochs between checkpoints to resume from.
        progress: show a progress bar.
    """

    output: str
    model: Architecture = field(default_factory=Architecture)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    checkpoint_every: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.devices < 1 or self.checkpoint_every < 1:
            raise ConfigError(
                f"`devices` and `checkpoint_every` must be at least 1, got {self.devices} and {self.checkpoint_every}"
            )
        most = self.model.num_latents if self.model.attention else 0
        if not 0 <= self.optimiser.min_rank <= most:
            raise ConfigError(
                f"`optimiser.min_rank` must lie between 0 and the model's {most} latents, got {self.optimiser.min_rank}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return dataclasses.asdict(self)

    def what_matters(self) -> dict[str, Any]:
        """The settings that decide the result; a run may be resumed with other values of the rest."""
        data = self.to_dict()
        for key in ("output", "progress", "accelerator", "checkpoint_every"):
            del data[key]
        del data["data"]["cache"]
        return data


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A whole training run of a mesh surrogate.

    Args:
        data: the data set.
        output: folder of the run: best model, last checkpoint, logs.
        model: sizes and switches of the model.
        optimiser: how it is trained.
        seed: of the weights and of the order of samples.
        accelerator: "auto", "cpu" or "gpu".
        devices: GPUs or processes that share each step.
        checkpoint_every: epochs between checkpoints to resume from.
        progress: show a progress bar.
    """

    data: DataConfig
