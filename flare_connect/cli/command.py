"""What a command is, and arguments that several take."""

import dataclasses
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flare_connect.errors import CheckpointError, FlareConnectError, InputError

from .failures import file_error, in_flags

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flare_connect.mesh import Mesh
    from flare_connect.models.mesh_model import MeshModel

_Model = TypeVar("_Model", bound="MeshModel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One command: what `--help` says, its arguments, its work."""

    summary: str
    details: str
    arguments: Callable[["ArgumentParser"], None]
    work: Callable[["Namespace"], None]

    def run(self, name: str, arguments: Sequence[str]) -> int:
        """Parse and work.

        Raises:
            FlareConnectError: wrong input, or a file that the system refuses; told in words of the command line.
        """
        from jsonargparse import DefaultHelpFormatter

        from .parser import Parser, options_of

        class Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
            """Line breaks of the description stay where they are."""

        description = f"{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.details}"
        parser = Parser(prog=f"flare-connect {name}", description=description, formatter_class=Formatter)
        args = None
        try:
            self.arguments(parser)
            args = parser.parse_args(list(arguments))
            self.work(parser.instantiate(args))
        except FlareConnectError as error:
            refused = file_error(error.__cause__, args) if str(error).startswith("cannot write") else None
            if refused is not None:
                raise refused from error
            error.args = (in_flags(str(error), set(options_of(parser))), *error.args[1:])
            raise
        except (OSError, RuntimeError) as error:
            refused = file_error(error, args)
            if refused is None:
                raise
            raise refused from error
        return 0


def step_argument(parser: "ArgumentParser") -> None:
    """Adds `--step`."""
    told = "which time of a series, counted from 0, or from the end if negative; the last by default"
    parser.add_argument("--step", type=int, default=None, help=told)


def nonfinite_argument(parser: "ArgumentParser") -> None:
    """Adds `--allow_nonfinite`."""
    told = "read a mesh file with NaN or infinite values; what is computed or drawn must not hold them"
    parser.add_argument("--allow_nonfinite", action="store_true", help=told)


def is_data_set(file: str) -> bool:
    """Whether a file is a prepared data set, by its name."""
    return Path(file).suffix in (".h5", ".hdf5")


def mesh_of(file: str, sample: int, step: int | None, *, allow_nonfinite: bool = False) -> "Mesh":
    """Of a mesh file, or a sample of a data set with all its frames."""
    from flare_connect.mesh import MeshStore, load_mesh

    if is_data_set(file):
        with MeshStore(file) as store:
            return store[sample]
    return load_mesh(file, step=-1 if step is None else step, allow_nonfinite=allow_nonfinite)


def check_folder(path: str | None) -> None:
    """Refuses a file to write whose folder is missing, before the work.

    Raises:
        InputError: names the folder.
    """
    if path is not None and not Path(path).parent.is_dir():
        raise InputError(f"cannot write {path!r}: the folder {str(Path(path).parent)!r} does not exist; make it first")


def model_argument(parser: "ArgumentParser", *, required: bool, use: str = "") -> None:
    """Adds `--model`."""
    from flare_connect.models import shipped_models

    known = ", ".join(shipped_models())
    told = f"{use}folder of a trained model, or the name of one that comes with the package: {known}"
    parser.add_argument("--model", type=str, required=required, help=told)


def load_model(kind: "type[_Model]", name: str, device: str = "cpu") -> "_Model":
    """A trained model.

    Raises:
        InputError: there is no such device.
        CheckpointError: there is no such model; if it is of the other kind, the message says what takes it.
    """
    from flare_connect.models.pretrained import kind_of

    place = device_named(device)
    try:
        return kind.from_pretrained(name, device=place)
    except CheckpointError as error:
        found = kind_of(name)
        if found == kind.kind or found not in _TAKES:
            raise
        raise CheckpointError(f"{error}; {_TAKES[found]}") from error


_TAKES = {
    "FlareRollout": "this is a model of time series: `flare-connect rollout` steps it, "
    "`flare-connect evaluate` scores it",
    "FlareConnect": "this is a model of single fields: `flare-connect predict` computes them, "
    "`flare-connect evaluate --data` scores it",
}


def device_named(name: str) -> Any:
    """Where to compute.

    Raises:
        InputError: if there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"there is no device {name!r}; `--device` takes 'auto', 'cpu', 'cuda', or 'cuda:1' and so on")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise InputError(f"device {name!r} was asked for, but there is no CUDA device here; use --device cpu")
        if (device.index or 0) >= count:
            raise InputError(f"there is no device {name!r}; CUDA devices here are cuda:0 to cuda:{count - 1}")
    return device
