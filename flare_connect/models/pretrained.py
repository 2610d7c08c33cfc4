"""Trained models on disk: safetensors for the weights, JSON for the configuration, nothing that can run code."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from flare_connect.errors import CheckpointError
from flare_connect.files import write_atomically

from .shipped import model_folder, shipped_models

FORMAT = "flare_connect.model"
VERSION = 4  # raised whenever models of before cannot be read
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_pretrained(
    model: nn.Module, config: dict[str, Any], folder: str | Path, *, kind: str, provenance: dict[str, Any] | None
) -> Path:
    """Write weights and configuration, each through a temporary file, the configuration last.

    The configuration holds a digest of the weights, so a pair that does not belong together is noticed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": kind,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
        "config": config,
        "provenance": provenance or {},
    }
    write_atomically(folder / WEIGHTS, weights)
    # Keys keep their order: that of the outputs is the order of the decoder's columns.
    write_atomically(folder / CONFIG, json.dumps(document, indent=2).encode() + b"\n")
    return folder


def load_pretrained(folder: str | Path, *, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read configuration and weights.

    Args:
        folder: what `save_pretrained` wrote; or, where no such path exists, the name of a shipped model.
        kind: which kind of model it must be.

    Raises:
        CheckpointError: if something is missing, damaged, of another kind or of a newer version.
    """
    folder = model_folder(folder)
    document = _document(folder)
    if document.get("model") != kind:
        raise CheckpointError(f"{folder} holds a model of kind {document.get('model')!r}, not {kind!r}")
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} has {CONFIG} but no {WEIGHTS}: copy the whole folder")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != document["weights"]["sha256"]:
        raise CheckpointError(
            f"{path} does not belong to the {CONFIG} beside it (damaged, or saving was interrupted): "
            "copy the folder again, or resume the training that wrote it"
        )
    try:
        return document["config"], load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error


def kind_of(folder: str | Path) -> str:
    """Which kind of model a folder holds, such as "FlareConnect"; arguments and errors as of `load_pretrained`."""
    return str(_document(model_folder(folder)).get("model"))


def _document(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        found = "is no folder" if not folder.is_dir() else f"holds no {CONFIG}"
        raise CheckpointError(
            f"{folder} {found}: give a folder with {CONFIG} and {WEIGHTS}, as `save_pretrained` and training runs "
            f"write it, or the name of a shipped model: {', '.join(shipped_models())}"
        )
    try:
        document = json.loads(path.read_text())
        known = document["format"] == FORMAT and {"version", "weights", "config"} <= set(document)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise CheckpointError(f"{path} is not the configuration of a flare_connect model")
    if document["version"] > VERSION:
        raise CheckpointError(
            f"{path} is of format version {document['version']}, this flare_connect reads version {VERSION}: "
            "upgrade flare-connect"
        )
    if document["version"] < VERSION:
        raise CheckpointError(
            f"{path} is of format version {document['version']}, this flare_connect reads version {VERSION}: train the "
            "model again, or use the flare-connect that trained it"
        )
    return document
