"""What a command is, and arguments that several take."""

import dataclasses
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_connect.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flare_connect.mesh import Mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One command: what `--help` says, its arguments, its work."""

    summary: str
    details: str
    arguments: Callable[["ArgumentParser"], None]
    work: Callable[["Namespace"], None]

    def run(self, name: str, arguments: Sequence[str]) -> int:
        """Parse and work."""
        from jsonargparse import ArgumentParser, DefaultHelpFormatter

        class Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
            """Line breaks of the description stay where they are."""

        description = f"{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.details}"
        parser = ArgumentParser(prog=f"flare-connect {name}", description=description, formatter_class=Formatter)
        self.arguments(parser)
        self.work(parser.instantiate(parser.parse_args(list(arguments))))
        return 0


STEP = "which time of a series, counted from 0, or from the end if negative; the last by default"


def mesh_of(file: str, sample: int, step: int) -> "Mesh":
    """Of a mesh file, or a sample of a data set."""
    from flare_connect.mesh import MeshStore, load_mesh

    if Path(file).suffix in (".h5", ".hdf5"):
        with MeshStore(file) as store:
            return store[sample]
    return load_mesh(file, step=step)


def model_argument(parser: "ArgumentParser", *, required: bool, use: str = "") -> None:
    """Adds `--model`."""
    from flare_connect.models import shipped_models

    known = ", ".join(shipped_models())
    told = f"{use}folder of a trained model, or the name of one that comes with the package: {known}"
    parser.add_argument("--model", type=str, required=required, help=told)


def device_named(name: str) -> Any:
    """Where to compute.

    Raises:
        InputError: if there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but there is no CUDA device here; use --device cpu")
    return torch.device(name)
