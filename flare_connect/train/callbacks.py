"""What happens around the epochs: averaged weights, the best model, the log."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar, WeightAveraging
from torch import Tensor

from flare_connect.files import write_atomically

from .module import MeshModule


class WarmAveraging(WeightAveraging):
    """Exponential average of the weights, with a decay that warms up: `min(decay, (1 + n) / (10 + n))`.

    Without the warm-up the average of a short run would still be full of its random start.

    Args:
        decay: of the average in the long run.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    def _average(self, averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        # The averaged model's own counter is on the host; the argument is a copy on the device.
        assert self._average_model is not None
        if not averaged[0].is_floating_point():  # lists come sorted by type: indices have no mean
            torch._foreach_copy_(averaged, current)
            return
        n = float(self._average_model.n_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(self.decay, (1 + n) / (10 + n)))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep the average where the training runs: the model itself is moved there only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # On the device, asking whether this is the first step would wait for the step before.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    # Lightning swaps back at the epoch's end, before the module has logged its errors; waiting for the end of the
    # validation lets `BestModel` export the very weights whose error it saw.
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the averaged weights in place a little longer."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the weights in training back."""
        super().on_validation_epoch_end(trainer, pl_module)


class Progress(TQDMProgressBar):
    """A bar an epoch, with the losses and nothing else; redrawn ten times a second at most.

    Each redraw reads the losses off the device, which makes the host wait for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0

    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if current != total and now - self._drawn < 0.1:
            return False
        self._drawn = now
        return super()._should_update(current, total)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Without the logger's version number, which is no number here."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown


class BestModel(L.Callback):
    """Exports the model whenever its validation error is the lowest so far, so that a killed run leaves it too.

    Args:
        folder: where `model.safetensors` and `config.json` go.
        provenance: JSON data kept beside the configuration.
    """

    def __init__(self, folder: Path, provenance: dict[str, Any]) -> None:
        self.folder, self.provenance, self.best = folder, provenance, float("inf")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare, and export."""
        assert isinstance(pl_module, MeshModule)
        error = float(trainer.callback_metrics["val/rel_l2"])
        if trainer.sanity_checking or not error < self.best:
            return
        self.best = error
        if trainer.is_global_zero:
            found = {"epoch": trainer.current_epoch + 1, "val_rel_l2": error}
            pl_module.model.save_pretrained(self.folder, provenance=self.provenance | found)

    def state_dict(self) -> dict[str, Any]:
        """The error to beat after a resume."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the error to beat from a checkpoint."""
        self.best = state_dict["best"]


class History(L.Callback):
    """One row an epoch in `metrics.csv`. The rows are part of the checkpoint, so a resumed run continues its table.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self._start = path, [], 0.0  # type: Path, list[dict[str, float]], float

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row."""
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["seconds"] = round(time.perf_counter() - self._start, 4)
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        if torch.cuda.is_available():
            row["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        self.rows.append(row)
        if trainer.is_global_zero:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in self.rows for key in row)))
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(self.path, text.getvalue().encode())

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from a checkpoint."""
        self.rows = state_dict["rows"]
