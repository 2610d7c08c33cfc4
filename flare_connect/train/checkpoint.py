"""Checkpoints to resume from: one safetensors file, the rest of the state as JSON in its header.

Nothing is pickled, so a checkpoint from anywhere is data and never code. The file is written beside its place and
renamed, so that a kill at any moment leaves either the old one or the new one.
"""

import json
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flare_connect.errors import CheckpointError
from flare_connect.files import write_atomically

FORMAT, VERSION = "flare_connect.checkpoint", 1


class SafeCheckpointIO(CheckpointIO):
    """Saves and loads the trainer's state without pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write atomically.

        Raises:
            TypeError: if the state holds something that is neither JSON nor a tensor.
        """
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_encode(checkpoint, tensors, "state"))
        metadata = {"format": FORMAT, "version": str(VERSION), "tree": tree}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, metadata=metadata))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises:
            CheckpointError: if the file is missing, damaged, of another kind or of a newer version.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): delete it to start over") from error
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is not a flare_connect checkpoint")
        if int(metadata["version"]) > VERSION:
            raise CheckpointError(
                f"{path} is of version {metadata['version']}, this flare_connect reads up to {VERSION}: "
                "upgrade flare-connect"
            )
        return _decode(json.loads(metadata["tree"]), tensors)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


class LastCheckpoint(ModelCheckpoint):
    """The state at the end of every n-th epoch, in one file that is replaced each time.

    Args:
        folder: where `last.safetensors` goes.
        every: epochs between two checkpoints; the last epoch is always kept.
    """

    FILE_EXTENSION = ".safetensors"

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            save_top_k=1,
            monitor=None,
            every_n_epochs=every,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )


def _encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if isinstance(value, Tensor):
        # Cloned, because safetensors refuses tensors that share memory, as views of one parameter would.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        pairs = [[_encode(k, tensors, ""), _encode(v, tensors, f"{name}/{k}")] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, tensors, f"{name}/{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, Path):
        return {"value": str(value)}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} at {name!r}; keep numbers, text and tensors")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
    if kind == "list":
        return [_decode(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    return content
