"""Trained models that come with the package: a folder each beside this file, as `save_pretrained` writes it.

Each holds a `README.md` too: what the model reads and predicts, what it was trained on, its licence.
"""

from pathlib import Path

_HERE = Path(__file__).parent


def shipped_models() -> list[str]:
    """Names of the trained models that come with the package, sorted.

    `FlareConnect.from_pretrained` takes them in place of a folder, as does `--model` of the command line. Nothing is
    downloaded.
    """
    return sorted(config.parent.name for config in _HERE.glob("*/config.json"))


def model_folder(model: str | Path) -> Path:
    """Where a model lies: the path itself if something is there, else the shipped model of that name, else the path.

    Args:
        model: a folder, or one of `shipped_models()`.
    """
    path = Path(model)
    if not path.exists() and str(model) in shipped_models():
        return _HERE / path
    return path
