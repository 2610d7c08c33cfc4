"""Errors of rollouts on series of regular grids, beside those of nothing ever changing."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from flare_connect.errors import ConfigError
from flare_connect.mesh import Mesh
from flare_connect.metrics.pdebench import PDEBenchErrors, PDEBenchMetrics
from flare_connect.models import FlareRollout


def evaluate_on_grid(
    model: FlareRollout,
    meshes: Iterable[Mesh],
    to_grid: Callable[[Tensor], Tensor],
    *,
    initial_step: int,
    mode: str = "exact",
) -> dict[str, PDEBenchErrors]:
    """Roll every series out from its first frames, and compare with the rest.

    Args:
        model: whose fields are series [N, T] or [N, T, width] of the meshes.
        meshes: of one grid, one after another.
        to_grid: from values at nodes [N, …] to those on the grid [X[, Y[, Z]], …].
        initial_step: frames that are given.
        mode: "exact", or "pdebench" as in the published tables, see `PDEBenchMetrics`.

    Returns:
        "model": errors of the rollouts; "persistence": of the last frame given, for all times.

    Raises:
        ConfigError: if no frame is given.
        InputError: if a mesh lacks a field, or there is no frame to predict.
    """
    if initial_step < 1:
        raise ConfigError(f"`initial_step` must be at least 1, got {initial_step}: a rollout follows on frames")
    metrics = {name: PDEBenchMetrics(initial_step=initial_step, mode=mode) for name in ("model", "persistence")}
    for mesh in meshes:
        truth = model.frames_of(mesh.point_data)
        given = truth[:, :initial_step]
        rest = truth.shape[1] - initial_step
        found = {"persistence": given[:, -1:].expand(-1, max(rest, 0), -1)}
        if rest > 0:
            found["model"] = model.frames_of(model.rollout(mesh, model.split_fields(given), rest))
        for name, frames in found.items():
            metrics[name].update(to_grid(torch.cat([given, frames], 1))[None], to_grid(truth)[None])
    return {name: each.compute() for name, each in metrics.items()}
