"""How many latents are enough."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh

if TYPE_CHECKING:
    from .surrogate import FlareConnect


@torch.no_grad()
def rank_for(model: "FlareConnect", meshes: Iterable[Mesh], tolerance: float) -> int:
    """The lowest rank whose predictions differ little from those with all latents; no truth is needed.

    The difference of a mesh is the relative L2 norm between the two predictions, of the worst field; what counts is its
    mean over the meshes. It is taken to fall as the rank grows, so that halving finds the rank.

    Args:
        model: a surrogate, best trained with `OptimiserConfig.min_rank`.
        meshes: some that are like those to come.
        tolerance: largest difference to accept, a fraction; a few times below the model's own error costs no accuracy.

    Raises:
        InputError: if the tolerance is not positive, there are no meshes, or one does not fit the model.

    Good values: 10 meshes, a tolerance of a fifth of the validation error.
    """
    if not tolerance > 0:
        raise InputError(f"`tolerance` must be positive, got {tolerance}")
    if not model.config.architecture.attention:
        raise InputError("the model has no attention, hence no latents to choose from")
    graphs = [model.build_graph(mesh).to(model.device) for mesh in meshes]
    if not graphs:
        raise InputError("give at least one mesh to choose the rank by")

    def predicted(rank: int) -> list[list[Tensor]]:
        fields = (model.output_statistics.inverse(model(graph, rank).float()) for graph in graphs)
        return [list(model.split_outputs(field).values()) for field in fields]

    was_training = model.training
    model.eval()
    try:
        low, high = 1, model.config.architecture.num_latents
        whole = predicted(high)
        while low < high:
            middle = (low + high) // 2
            if _difference(predicted(middle), whole) <= tolerance:
                high = middle
            else:
                low = middle + 1
    finally:
        model.train(was_training)
    return high


def _difference(some: list[list[Tensor]], whole: list[list[Tensor]]) -> float:
    each = [
        max(float((a - b).norm() / b.norm()) for a, b in zip(fields, wholes, strict=True))
        for fields, wholes in zip(some, whole, strict=True)
    ]
    return sum(each) / len(each)
