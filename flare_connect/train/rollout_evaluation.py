"""Errors on series of regular grids, beside those of knowing nothing."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from flare_connect.errors import ConfigError, InputError
from flare_connect.mesh import Mesh
from flare_connect.metrics.pdebench import PDEBenchErrors, PDEBenchMetrics
from flare_connect.models import FlareConnect, FlareRollout

ToGrid = Callable[[Tensor], Tensor]


def evaluate_on_grid(
    model: FlareRollout | FlareConnect,
    meshes: Iterable[Mesh],
    to_grid: ToGrid,
    *,
    initial_step: int,
    mode: str = "exact",
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> dict[str, PDEBenchErrors]:
    """Roll every series out from its first frames, or predict what is steady, and compare with the truth.

    Args:
        model: whose fields are series [N, T] or [N, T, width] of the meshes.
        meshes: of one grid, one after another; one is kept at a time.
        to_grid: from values at nodes [N, …] to those on the grid [X[, Y[, Z]], …].
        initial_step: frames that are given; 0 for a `FlareConnect`, whose fields are series of one frame.
        mode: "exact", or "pdebench" as in the published tables, see `PDEBenchMetrics`.
        watch: is called with prediction and truth of each series [1, X[, Y[, Z]], T, V], the given frames included.

    Returns:
        "model": its errors; "persistence": those of the last frame given, for all times. Of a `FlareConnect` "mean":
        those of the training mean everywhere.

    Raises:
        ConfigError: if a rollout is given no frame, or a `FlareConnect` any.
        InputError: if a mesh lacks a field, or there is no frame to predict.
    """
    _check_initial_step(model, initial_step)
    nothing = "persistence" if isinstance(model, FlareRollout) else "mean"
    metrics = {name: PDEBenchMetrics(initial_step=initial_step, mode=mode) for name in ("model", nothing)}
    for mesh in meshes:
        prediction, truth = (
            values[None] for values in predict_on_grid(model, mesh, to_grid, initial_step=initial_step)
        )
        if isinstance(model, FlareRollout):
            given = truth[..., :initial_step, :]
            rest = truth.shape[-2] - initial_step
            known = torch.cat([given, given[..., -1:, :].expand(*given.shape[:-2], rest, -1)], -2)
        else:
            known = model.output_statistics.mean.cpu().to(truth.dtype).expand_as(truth)
        metrics["model"].update(prediction, truth)
        metrics[nothing].update(known, truth)
        if watch is not None:
            watch(prediction, truth)
    return {name: each.compute() for name, each in metrics.items()}


def predict_on_grid(
    model: FlareRollout | FlareConnect, mesh: Mesh, to_grid: ToGrid, *, initial_step: int
) -> tuple[Tensor, Tensor]:
    """Prediction and truth of one series [X[, Y[, Z]], T, V], the given frames included; see `evaluate_on_grid`.

    Raises:
        ConfigError: if a rollout is given no frame, or a `FlareConnect` any.
        InputError: if the mesh lacks a field, or there is no frame to predict.
    """
    _check_initial_step(model, initial_step)
    if isinstance(model, FlareConnect):
        truth = _steady(mesh, model)
        found = model.predict(mesh)
        return to_grid(torch.cat([found[name].reshape(len(truth), 1, -1) for name in found], 2)), to_grid(truth)
    truth = model.frames_of(mesh.point_data)
    given, rest = truth[:, :initial_step], truth.shape[1] - initial_step
    if rest < 1:
        raise InputError(f"there is no frame to predict: the series has {truth.shape[1]}, and {initial_step} are given")
    rolled = model.frames_of(model.rollout(mesh, model.split_fields(given), rest))
    return to_grid(torch.cat([given, rolled], 1)), to_grid(truth)


def _check_initial_step(model: FlareRollout | FlareConnect, initial_step: int) -> None:
    if isinstance(model, FlareRollout) and initial_step < 1:
        raise ConfigError(f"`initial_step` must be at least 1, got {initial_step}: a rollout follows on frames")
    if isinstance(model, FlareConnect) and initial_step:
        raise ConfigError(f"`initial_step` must be 0 for a model that predicts what is steady, got {initial_step}")


def _steady(mesh: Mesh, model: FlareConnect) -> Tensor:
    """The true fields [N, 1, V]."""
    found = []
    for name, width in model.config.outputs.items():
        if name not in mesh.point_data:
            raise InputError(f"the mesh has no point field {name!r} to compare the prediction with")
        found.append(mesh.point_data[name].reshape(mesh.num_nodes, -1))
        if found[-1].shape[1] != width:
            raise InputError(f"{name!r} must be steady, [N, {width}] or a series of one frame, got "
                             f"{list(mesh.point_data[name].shape)}")  # fmt: skip
    return torch.cat(found, 1)[:, None].float()
