"""Errors of rollouts on a split of series, beside those of nothing ever changing."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from flare_connect.errors import ConfigError, InputError
from flare_connect.mesh import Mesh, MeshStore
from flare_connect.models import FlareRollout


@dataclass(frozen=True, kw_only=True)
class SeriesError:
    """Errors of one field over the series of a split; infinite where a rollout is lost.

    Attributes:
        rel_l2: mean over series and predicted frames of `‖p − y‖₂ / ‖y‖₂`.
        rel_l2_of_persistence: the same for the last frame that was given, for all times.
        rel_l2_per_frame: one number a predicted frame, the mean over series.
        persistence_per_frame: likewise.
        rel_l2_per_mesh: one number a series, the mean over frames, in the split's order.
    """

    rel_l2: float
    rel_l2_of_persistence: float
    rel_l2_per_frame: tuple[float, ...]
    persistence_per_frame: tuple[float, ...]
    rel_l2_per_mesh: tuple[float, ...]


def evaluate_rollouts(
    model: FlareRollout, store: MeshStore, split: str, *, initial: int = 1, progress: bool = True
) -> dict[str, SeriesError]:
    """Roll every series of a split out from its first frames and compare in physical units.

    Args:
        model: the surrogate.
        store: a prepared data set with series of the model's fields.
        split: name of the split.
        initial: frames that are given.
        progress: show a bar.

    Returns:
        Field → its errors.

    Raises:
        ConfigError: if no frame is given.
        StoreError: if the split is missing.
        InputError: if the split is empty, there is no frame to predict, or a mesh does not fit the model.
    """
    if initial < 1:
        raise ConfigError(f"`initial` must be at least 1, got {initial}: a rollout follows on frames")
    indices = store.split(split)
    if len(indices) == 0:
        raise InputError(f"the split {split!r} is empty")
    steps = tqdm(indices, desc=f"evaluate {split}", unit="series", disable=not progress, leave=False)
    rows = [_errors(model, store[int(i)], initial) for i in steps]
    guess, idle = (torch.stack(each) for each in zip(*rows, strict=True))  # [series, F, T]
    return {
        name: SeriesError(
            rel_l2=float(guess[:, f].mean()),
            rel_l2_of_persistence=float(idle[:, f].mean()),
            rel_l2_per_frame=tuple(guess[:, f].mean(0).tolist()),
            persistence_per_frame=tuple(idle[:, f].mean(0).tolist()),
            rel_l2_per_mesh=tuple(guess[:, f].mean(1).tolist()),
        )
        for f, name in enumerate(model.config.fields)
    }


def _errors(model: FlareRollout, mesh: Mesh, initial: int) -> tuple[Float[Tensor, "F T"], Float[Tensor, "F T"]]:
    """Of one series, of the rollout and of persistence."""
    frames = model.frames_of(mesh.point_data)
    rest = frames.shape[1] - initial
    if rest < 1:
        raise InputError(f"there is no frame to predict: the series has {frames.shape[1]}, and {initial} are given")
    rolled = model.frames_of(model.rollout(mesh, model.split_fields(frames[:, :initial]), rest))
    used = mesh.component >= 0  # what stands at nodes of no cell is no answer
    truth = frames[used, initial:].double()
    idle = frames[used, initial - 1 : initial].double().expand_as(truth)
    widths = list(model.config.fields.values())
    return _relative(rolled[used].double(), truth, widths), _relative(idle, truth, widths)


def _relative(guess: Float[Tensor, "N T V"], truth: Float[Tensor, "N T V"], widths: list[int]) -> Float[Tensor, "F T"]:
    found = []
    for mine, right in zip(guess.split(widths, 2), truth.split(widths, 2), strict=True):
        error, size = (mine - right).norm(dim=(0, 2)), right.norm(dim=(0, 2))
        ratio = torch.where(error == 0, 0.0, error / size)  # of nothing, nothing is no error
        found.append(ratio.nan_to_num(torch.inf, torch.inf))
    return torch.stack(found)
