"""The training step of rollouts, for Lightning."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Batch

from flare_connect.models import FlareRollout, RolloutState
from flare_connect.models.features import segments_of
from flare_connect.models.unrolled import Unrolled
from flare_kernels import spread

from .config import OptimiserConfig
from .losses import relative_l2, relative_l2_loss
from .module import MeshModule
from .rollout_config import SeriesConfig, UnrollConfig


class RolloutModule(MeshModule):
    """Training on windows of series, from true frames and from the model's own; validation by rollouts.

    Args:
        model: its statistics already fitted.
        config: optimiser and schedule.
        seed: of the run; random numbers of a step follow from it, the epoch and the step.
        data: the window, and frames that a validation rollout is given.
        unroll: how the model learns to live with its own errors.
    """

    def __init__(
        self, model: FlareRollout, config: OptimiserConfig, seed: int, data: SeriesConfig, unroll: UnrollConfig
    ) -> None:
        super().__init__(model, model.config.fields, config, seed)
        self.window, self.initial, self.unroll = data.window, data.initial, unroll

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one window of a batch of series."""
        first = int(torch.randint(batch.frames.shape[1] - self.window + 1, ()))
        depth = int(torch.randint(self.unroll.own_steps + 1, ()))
        known = min(first, self.model.config.history - 1)
        window = batch.frames[:, first - known : first + self.window]
        loss = window_loss(self.model, batch, window, self.unroll, depth, self._drawn_rank(), known=known)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=batch.num_graphs, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Relative L2 of each field in physical units, over all frames of a rollout."""
        errors = rollout_errors(rolled_out(self.model, batch, self.initial), batch, self.widths)
        self._errors.append(errors.mean(0))


def rolled_out(model: FlareRollout, batch: Batch, initial: int) -> Float[Tensor, "N T V"]:
    """All frames of a batch after the first `initial`, each from those before as the model tells them."""
    known, state = model(batch, batch.frames[:, :initial])
    found = [known[:, -1:]]
    unrolled = Unrolled.of(batch, 1, model.reads.architecture)
    while len(found) < batch.frames.shape[1] - initial:
        frame, state = model(batch, found[-1], state=state, unrolled=unrolled)
        found.append(frame)
    return torch.cat(found, dim=1)


def rollout_errors(found: Float[Tensor, "N T V"], batch: Batch, widths: Sequence[int]) -> Float[Tensor, "T B F"]:
    """Relative L2 of each frame, mesh and field of what `rolled_out` gives."""
    truth, segments = batch.frames[:, batch.frames.shape[1] - found.shape[1] :], segments_of(batch)
    return torch.stack([
        relative_l2(guess.float(), right, segments, widths)
        for guess, right in zip(found.unbind(1), truth.unbind(1), strict=True)
    ])  # fmt: skip


def window_loss(
    model: FlareRollout,
    batch: Batch,
    window: Float[Tensor, "N W V"],
    unroll: UnrollConfig,
    depth: int,
    rank: int | None = None,
    unrolled: Unrolled | None = None,
    known: int = 0,
) -> Float[Tensor, ""]:
    """Mean relative error of standardised frames, each after so many of the model's own.

    With a `history` the model reads changes, and before the first frame of a rollout there is none: it reads zero. If
    every window began so, most of what it learned would be to do without, and its rollouts know better.

    Args:
        model: in training.
        batch: graphs.
        window: true frames.
        unroll: noise, and whether gradients flow through all predictions.
        depth: predictions in a row that a frame follows on.
        rank: latents to use; None for all.
        unrolled: `Unrolled.of(batch, W − 1 − known, …)` where the same graphs come again.
        known: frames of the window that were before it: changes are taken from them, and nothing else.
    """
    given, truth = window[:, :-1], window[:, 1 + known :]
    if unrolled is None:
        unrolled = Unrolled.of(batch, given.shape[1] - known, model.reads.architecture)
    if unroll.noise:
        noise = _levels(unroll, given, unrolled) * model.usual_change(given, batch, unrolled.meshes)
        noise = noise * torch.randn_like(given)
        if "twin_index" in batch:  # one material point
            noise = noise.index_select(0, batch.twin_index)
        # What is held is never wrong, and would stay wrong.
        given = given + (noise.masked_fill(batch.held[:, None], 0.0) if model.config.held else noise)
    state = _state_after(model, given[:, :known])
    given = read = given[:, known:]
    for _ in range(depth):
        with torch.set_grad_enabled(unroll.through and torch.is_grad_enabled()):
            guess, _ = model(batch, read, state=state, rank=rank, unrolled=unrolled)
        read = torch.cat([given[:, :1], guess[:, :-1]], dim=1)
    guess, _ = model(batch, read, state=state, rank=rank, unrolled=unrolled)
    # The first frames follow on fewer predictions than the rest.
    standard, late = model.frame_statistics, slice(depth, None)
    prediction, target = (standard(frames[:, late].float()).flatten(1) for frames in (guess, truth))
    widths = list(model.config.fields.values()) * (given.shape[1] - depth)
    return relative_l2_loss(prediction, target, unrolled.meshes, widths)


def _levels(unroll: UnrollConfig, frames: Float[Tensor, "N W V"], unrolled: Unrolled) -> Tensor | float:
    """The size of the noise of each frame of each mesh."""
    levels = unroll.levels((unrolled.meshes.num_segments, frames.shape[1], 1), frames.device)
    return spread(levels, unrolled.meshes) if isinstance(levels, Tensor) else levels


def _state_after(model: FlareRollout, frames: Float[Tensor, "N K V"]) -> RolloutState | None:
    """What a rollout that began with these frames knows after them, but for what latents remember; None without any."""
    back = model.config.history - 1
    if not back or not frames.shape[1]:
        return None
    return RolloutState(torch.cat([frames[:, :1].expand(-1, back, -1), frames], dim=1)[:, -back:], ())
