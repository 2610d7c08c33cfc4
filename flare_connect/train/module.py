"""The training step, for Lightning."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch_geometric.data import Batch

from flare_connect.models import FlareConnect, FlareRollout
from flare_connect.models.features import segments_of

from .config import OptimiserConfig
from .losses import relative_l2, relative_l2_loss


class MeshModule(L.LightningModule):
    """What training of every model shares: optimiser, schedule, ranks, random numbers, errors of the validation split.

    Args:
        model: its statistics already fitted.
        fields: what is predicted, and the width of each.
        config: optimiser and schedule.
        seed: of the run; random numbers of a step follow from it, the epoch and the step.
    """

    def __init__(
        self, model: FlareConnect | FlareRollout, fields: dict[str, int], config: OptimiserConfig, seed: int
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.config, self.seed = config, seed
        self.names, self.widths = list(fields), list(fields.values())
        self._errors: list[Tensor] = []
        model.trunk.recompute = config.recompute
        model.trunk.stream = torch.bfloat16 if config.precision == "bf16-stream" else None
        if config.compile:
            # Block by block: the blocks share one compiled code, so it takes a fraction of the whole's time.
            for block in model.trunk.blocks:
                block.compile(dynamic=True)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random numbers of this step are the same whether or not the run was interrupted before it.

        Not once an epoch: in the first one after a resume the loader draws a number of its own in between.
        """
        torch.manual_seed(((self.seed * 1_000_003 + self.current_epoch) * 1_000_003 + batch_idx) % 2**63)

    def _drawn_rank(self) -> int | None:
        """All latents in half of the steps, otherwise a number drawn evenly on a logarithmic scale."""
        least, most = self.config.min_rank, self.model.reads.architecture.num_latents
        if not least:
            return None
        coin, place = torch.rand(2).tolist()
        return most if coin < 0.5 else round(least * (most / least) ** place)

    def on_validation_epoch_end(self) -> None:
        """Means over the meshes of the split."""
        errors = torch.cat(self._errors).mean(0)
        self._errors.clear()
        for name, error in zip(self.names, errors, strict=True):
            self.log(f"val/rel_l2/{name}", error, sync_dist=True)
        self.log("val/rel_l2", errors.mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and one cycle over all steps."""
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.config.warmup,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SurrogateModule(MeshModule):
    """Relative-L2 training of a mesh surrogate on standardised targets.

    Args:
        model: the surrogate, its statistics already fitted.
        config: optimiser and schedule.
        seed: of the run; random numbers of a step follow from it, the epoch and the step.
    """

    def __init__(self, model: FlareConnect, config: OptimiserConfig, seed: int) -> None:
        super().__init__(model, model.config.outputs, config, seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch of meshes."""
        prediction = self.model(batch, rank=self._drawn_rank()).float()
        target = self.model.output_statistics(batch.y)
        loss = relative_l2_loss(prediction, target, segments_of(batch), self.widths)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=batch.num_graphs, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Relative L2 of each field in physical units."""
        prediction = self.model.output_statistics.inverse(self.model(batch).float())
        self._errors.append(relative_l2(prediction, batch.y, segments_of(batch), self.widths))
