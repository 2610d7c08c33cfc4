"""Data sets of the study: series on grids, made by our solvers or read from published files."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from flare_connect.errors import InputError
from flare_datasets.pdebench.solvers.advection import AdvectionConfig
from flare_datasets.pdebench.solvers.burgers import BurgersConfig
from flare_datasets.pdebench.solvers.diffusion_reaction import DiffusionReactionConfig
from flare_datasets.pdebench.solvers.shallow_water import ShallowWaterConfig


@dataclass(frozen=True, kw_only=True)
class GridSet:
    """Series on one grid.

    Attributes:
        name: of its rows.
        title: in tables.
        make: from the number of samples, points along an axis and frames to what the solver is told; None for what is
            read from files.
        dim: axes of the grid.
        periodic: whether it repeats.
        conserved: whether the mean of each field stays what it is.
        fades: whether what is left in the end is smaller by orders of magnitude than what there was.
        extent: where it begins and ends along each axis.
        size: points along each axis.
        frames: T of a series; models are trained on the first (T + 1) // 2 of them.
        initial: frames that are given.
        state: the last frames that tell what comes: two where a field has a velocity that is not among the fields.
        rounds: of differences in each of the two blocks of ours: with them it reaches as far as what moves comes in
            a frame, and each takes time.
        attended: whether frames go through the attention of ours too, as what spreads should; it takes time as well.
        counts: samples for training, validation and test.
        stride: of points, in what is solved.
        at_once: samples solved at once.
        files: (training, test) of what is read from files.
        tiny: whether only to see it run, with models to match.
    """

    name: str
    title: str
    make: Callable[..., Any] | None = None
    dim: int = 1
    periodic: bool = True
    conserved: bool = True
    fades: bool = False
    extent: tuple[float, float] = (0.0, 1.0)
    size: int = 256
    frames: int = 81
    initial: int = 10
    state: int = 1
    rounds: int = 6
    attended: bool = True
    counts: tuple[int, int, int] = (1_000, 64, 128)
    stride: int = 1
    at_once: int = 1_192
    files: tuple[str, str] = ("", "")
    tiny: bool = False

    @property
    def horizon(self) -> int:
        """Frames that models are trained on."""
        return (self.frames + 1) // 2

    def quick(self) -> "GridSet":
        """The same, tiny."""
        size = 32 if self.dim == 1 else 16
        if self.files[0]:
            return replace(self, counts=(24, 4, 8), tiny=True)
        return replace(self, size=size, frames=13, initial=3, counts=(24, 4, 8), tiny=True)


def _waves(kind: type, samples: int, size: int, frames: int, *, max_number: int = 8, **numbers: float) -> Any:
    most = min(max_number, size // 4)
    return kind(num_samples=samples, num_points=size, num_frames=frames, max_number=most, **numbers)


def _plane(kind: type, samples: int, size: int, frames: int) -> Any:
    return kind(num_samples=samples, resolution=size, num_frames=frames)


_PLANE: dict[str, Any] = {
    "dim": 2, "periodic": False, "conserved": False, "size": 64, "frames": 41, "counts": (400, 32, 64), "at_once": 124,
    "rounds": 3, "attended": False,
}  # fmt: skip
_ALL = (
    GridSet(name="advection", title="Advection, β = 1", make=partial(_waves, AdvectionConfig, beta=1.0)),
    GridSet(
        name="burgers_0.001", title="Burgers, ν = 0.001", make=partial(_waves, BurgersConfig, nu=0.001), stride=2,
    ),
    # Of shorter waves and at later times nothing would be left, whose error relative to it would be any number.
    GridSet(
        name="burgers_0.1", title="Burgers, ν = 0.1",
        make=partial(_waves, BurgersConfig, nu=0.1, max_number=2, end_time=1.0), stride=2, fades=True,
    ),
    # Points of a finer grid: their own mean is not conserved.
    GridSet(
        name="burgers_published", title="Burgers, published rollouts of 16 points", size=16, frames=17, initial=2,
        counts=(736, 64, 400), files=("burgers_train_16.pt", "burgers_test_16.pt"), conserved=False,
        attended=False,
    ),
    GridSet(
        name="diffusion_reaction", title="Diffusion and reaction in the plane",
        make=partial(_plane, DiffusionReactionConfig), extent=(-1.0, 1.0), **_PLANE,
    ),
    GridSet(
        name="shallow_water", title="Shallow water, a round dam that breaks", make=partial(_plane, ShallowWaterConfig),
        extent=(-2.5, 2.5), state=2, **_PLANE,
    ),
)  # fmt: skip
SETS = {each.name: each for each in _ALL}


def prepare(study: GridSet, folder: Path, device: torch.device, published: Path | None = None) -> Path | None:
    """The file of a set, made if it is not there as it would be now.

    Args:
        study: the set.
        folder: of the files.
        device: where to solve.
        published: folder of the published files.

    Returns:
        The file; None for a published set whose files are not given.

    Raises:
        InputError: if a published file is missing or is not what it should be.
    """
    path = folder / f"{study.name}_{study.size}x{study.frames}x{sum(study.counts)}.safetensors"
    if study.make is None:
        if published is None:
            return None
        told: dict[str, Any] = {"files": study.files, "counts": study.counts}
    else:
        config = study.make(sum(study.counts), study.size * study.stride, study.frames)
        told = asdict(config) | {"version": config.version, "stride": study.stride, "counts": study.counts}
    told = json.loads(json.dumps(told))
    if path.is_file() and _told(path) == told:
        return path
    frames = _solved(study, device) if published is None or study.make is not None else _published(study, published)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({"frames": frames}, temporary, metadata={"made_with": json.dumps(told)})
    os.replace(temporary, path)  # not flushed to the disk: what is lost with the machine is made again
    return path


def load(study: GridSet, path: Path, device: torch.device) -> dict[str, Tensor]:
    """Split → series `[B, T, *X, V]`, float32."""
    with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
        parts = file.get_tensor("frames").split(list(study.counts))
    return dict(zip(("train", "val", "test"), parts, strict=True))


@torch.no_grad()
def _solved(study: GridSet, device: torch.device) -> Tensor:
    assert study.make is not None
    total = sum(study.counts)
    config = study.make(total, study.size * study.stride, study.frames)
    keep = slice(study.stride // 2, None, study.stride)
    found = []
    for first in range(0, total, study.at_once):
        solved = config.solve(range(first, min(first + study.at_once, total)), device)
        values = (solved[0] if isinstance(solved, tuple) else solved).movedim(-2, 1)  # [B, T, *X, V]
        found.append(values[(slice(None), slice(None), *(keep,) * study.dim)].float().cpu())
    return torch.cat(found).contiguous()


def _published(study: GridSet, folder: Path) -> Tensor:
    """Training and validation from the first file, the test from the second."""
    num_train, num_val, num_test = study.counts
    found = []
    for name, count in zip(study.files, (num_train + num_val, num_test), strict=True):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is not there: give --published the folder that holds {' and '.join(study.files)}")
        series = torch.load(path, weights_only=True, map_location="cpu").get("y")
        wanted = (study.frames, *(study.size,) * study.dim)
        if series is None or series.shape[1:] != wanted or len(series) < count:
            raise InputError(f"{path} must hold `y` [at least {count}, {', '.join(map(str, wanted))}]")
        found.append(series[:count, ..., None].float())
    return torch.cat(found).contiguous()


def _told(path: Path) -> Any:
    """What a file was made with; None if it cannot be read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["made_with"])
    except (safetensors.SafetensorError, KeyError, TypeError):
        return None
