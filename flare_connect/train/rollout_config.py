"""What a training run of a rollout is, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flare_connect.errors import ConfigError

from .config import RunConfig


@dataclass(frozen=True, kw_only=True)
class SeriesConfig:
    """The prepared data set of series, and which of its fields are stepped and read.

    Args:
        path: prepared data set (HDF5) whose point fields to step are series [N, T] or [N, T, width], each of as many
            frames.
        fields: point fields that are stepped.
        inputs: point fields that stay and are read.
        conditions: per-mesh numbers that the model reads (parameters of the equation, time from frame to frame).
        directional: as in `DataConfig`.
        boundary: as in `DataConfig`.
        harmonic: as in `DataConfig`.
        held: stepped field → named sets on whose nodes it does not change, see `RolloutConfig`.
        conserved: stepped fields whose mean over the mesh does not change, see `RolloutConfig`.
        train_split: split to train on.
        val_split: split to validate on by rollouts, and to choose the best weights by.
        batch_size: series a step.
        window: frames of a training sample; its first is drawn anew each step.
        initial: frames that a validation rollout is given.
        in_memory: compute the graphs once and keep them; switch off for data larger than memory.
        cache: keep anchors and costs in the folder `<path>.cache`, so that the next run reads them.
        num_workers: processes that make graphs in the background when they are not kept in memory.

    Good values: a `window` of 8 to 32 frames.
    """

    path: str
    fields: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    directional: tuple[str, ...] = ()
    boundary: dict[str, str] = field(default_factory=dict)
    harmonic: str = ""
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    conserved: tuple[str, ...] = ()
    train_split: str = "train"
    val_split: str = "val"
    batch_size: int = 8
    window: int = 8
    initial: int = 1
    in_memory: bool = True
    cache: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work or would do nothing."""
        if not self.fields:
            raise ConfigError("`data.fields` is empty: name at least one point field to step")
        for name, least in (("batch_size", 1), ("window", 2), ("initial", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"`data.{name}` must be at least {least}, got {getattr(self, name)}")
        if self.num_workers < 0 or (self.in_memory and self.num_workers):
            raise ConfigError(
                f"`data.num_workers` is {self.num_workers}, but does nothing while `data.in_memory` is on: "
                "set it to 0 or switch `in_memory` off"
            )


@dataclass(frozen=True, kw_only=True)
class UnrollConfig:
    """How a rollout learns to live with its own errors.

    A step of training predicts all frames of a window at once from the true ones. Then, up to `own_steps` times, it
    does so again from what it has just predicted: after d times each frame follows on d predictions in a row.

    Args:
        own_steps: most predictions in a row before the one that is learned; how many is drawn anew each step. 0 is
            teacher forcing.
        through: let gradients flow through all of these predictions (unrolled training) instead of only the last
            (pushforward), for as much more memory and time.
        noise: standard deviation of what is added to the frames that are read, in units of the usual change from frame
            to frame; the frame to predict stays true.
        decades: powers of ten that the noise of a frame may be smaller, drawn anew for each, all sizes being alike
            likely: small noise leaves what is fine to be learned, large noise teaches the way back from afar.

    Good values: `own_steps` 2 to 4, and noise 0.1 to 0.3. Where frames change much from one to the next, as of a flow,
    `own_steps` 0 with noise 1 of 1 decade: errors of many steps add up to that, and a model that has never read frames
    as far off may leave all bounds. Where there is time for 10,000 steps, `own_steps` 0 with noise 0.3 of 2 decades: on
    most equations of PDEBench it did better in the same time. Without noise ripples as fine as the smallest elements
    may grow in long rollouts: true frames hold none, so nothing teaches a model to smooth them.
    Source: pushforward, arXiv 2202.03376; noise, arXiv 2010.03409; of many sizes, arXiv 2308.05732.
    """

    own_steps: int = 2
    through: bool = False
    noise: float = 0.0
    decades: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work or would do nothing."""
        if self.own_steps < 0 or self.noise < 0:
            raise ConfigError(
                f"`unroll.own_steps` and `unroll.noise` must not be negative, got {self.own_steps} and {self.noise}"
            )
        if self.decades < 0 or (self.decades and not self.noise):
            raise ConfigError(
                f"`unroll.decades` must not be negative, and does nothing without `unroll.noise`, got {self.decades} "
                f"and {self.noise}"
            )
        if self.through and not self.own_steps:
            raise ConfigError("`unroll.through` does nothing with `unroll.own_steps` = 0: raise that, or leave it out")

    def levels(self, shape: Sequence[int], device: torch.device) -> Tensor | float:
        """Sizes of noise, in units of the usual change.

        Args:
            shape: of the result, a number for each frame of each series.
            device: where they are drawn.

        Returns:
            Of that shape; one number where there are no `decades`, since all are alike.
        """
        return self.noise * 10.0 ** (-self.decades * torch.rand(*shape, device=device)) if self.decades else self.noise


@dataclass(frozen=True, kw_only=True)
class RolloutTrainConfig(RunConfig):
    """A whole training run of a rollout.

    Args:
        data: the series.
        output: folder of the run: best model, last checkpoint, logs.
        history: frames that are read for the next one, see `RolloutConfig`.
        memory: latents remember all frames before, see `RolloutConfig`.
        differences: rounds a block of learned differences of the frames, see `RolloutConfig`.
        attended: the frames go through attention too, see `RolloutConfig`.
        relative: frames are read, and changes told, relative to the size of a frame, see `RolloutConfig`.
        unroll: how the model learns to live with its own errors.
        model: sizes and switches of the model.
        optimiser: how it is trained.
        seed: of the weights and of the order of samples.
        accelerator: "auto", "cpu" or "gpu".
        devices: GPUs or processes that share each step.
        checkpoint_every: epochs between checkpoints to resume from.
        progress: show a progress bar.
    """

    data: SeriesConfig
    history: int = 1
    memory: bool = True
    differences: int = 1
    attended: bool = False
    relative: bool = False
    unroll: UnrollConfig = field(default_factory=UnrollConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        super().__post_init__()
        if self.unroll.own_steps > self.data.window - 2:
            raise ConfigError(
                f"`unroll.own_steps` must be at most `data.window` − 2 = {self.data.window - 2}, got "
                f"{self.unroll.own_steps}: a window has no more frames to follow on"
            )
