"""Errors of a trained model on a split of a prepared data set, beside the error of knowing nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from tqdm import tqdm

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, MeshStore
from flare_connect.metrics import relative_l2
from flare_connect.models import FlareConnect


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """Errors of one field over the meshes of a split.

    Attributes:
        rel_l2: mean over meshes of `‖p − y‖₂ / ‖y‖₂`.
        rel_l2_of_mean: the same for predicting the training mean everywhere.
        rel_l2_per_mesh: one number a mesh, in the split's order.
        peak_error: mean over meshes of `|max p − max y| / max y` (of the norm, for a vector).
    """

    rel_l2: float
    rel_l2_of_mean: float
    rel_l2_per_mesh: tuple[float, ...]
    peak_error: float


def evaluate(model: FlareConnect, store: MeshStore, split: str, *, progress: bool = True) -> dict[str, FieldError]:
    """Predict every mesh of a split and compare in physical units.

    Args:
        model: the surrogate.
        store: a prepared data set with the model's fields.
        split: name of the split.
        progress: show a bar.

    Raises:
        StoreError: if the split is missing.
        InputError: if the split is empty or a mesh does not fit the model.
    """
    indices = store.split(split)
    if len(indices) == 0:
        raise InputError(f"the split {split!r} is empty")
    steps = tqdm(indices, desc=f"evaluate {split}", unit="mesh", disable=not progress, leave=False)
    return compare(model, (store[int(i)] for i in steps))


def compare(model: FlareConnect, meshes: Iterable[Mesh]) -> dict[str, FieldError]:
    """Errors over meshes that carry the true fields."""
    mean = model.split_outputs(model.output_statistics.mean.cpu()[None])
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in model.config.outputs}
    for mesh in meshes:
        predicted = model.predict(mesh)
        for name in rows:
            if name not in mesh.point_data:
                raise InputError(f"the mesh has no point field {name!r} to compare the prediction with")
            used = mesh.component >= 0  # what stands at nodes of no cell is no answer
            truth = mesh.point_data[name].double().reshape(mesh.num_nodes, -1)[used]
            guess = predicted[name].double().reshape(mesh.num_nodes, -1)[used]
            know_nothing = mean[name].double().reshape(1, -1).expand_as(truth)
            peak = truth.norm(dim=1).max()
            rows[name].append(
                (
                    relative_l2(guess, truth),
                    relative_l2(know_nothing, truth),
                    float((guess.norm(dim=1).max() - peak).abs() / peak),
                )
            )
    return {
        name: FieldError(
            rel_l2=_mean(row[0] for row in found),
            rel_l2_of_mean=_mean(row[1] for row in found),
            rel_l2_per_mesh=tuple(row[0] for row in found),
            peak_error=_mean(row[2] for row in found),
        )
        for name, found in rows.items()
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
