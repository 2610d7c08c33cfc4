"""The relative error of a field, and what two fields must be so that they can be compared."""

from jaxtyping import Float, Shaped
from torch import Tensor

from flare_connect.errors import InputError

Field = Shaped[Tensor, "..."]
"""Real values at nodes, `[N]` or `[N, c]`; `checked_pair` says what is wrong with one, in words for users."""


def relative_l2(prediction: Field, truth: Field, weights: Field | None = None) -> float:
    r"""Relative L2 error $\sqrt{\sum_n w_n |p_n - y_n|^2} / \sqrt{\sum_n w_n |y_n|^2}$.

    Without weights every node counts once, as is the standard of the field: finely meshed places count more. With
    `mesh.node_volume` as weights it is the L2 norm of functions, which a change of mesh leaves nearly as it is.

    Args:
        prediction: `[N]` or `[N, c]`, in the unit of the truth.
        truth: the same shape.
        weights: one number >= 0 for each node `[N]`.

    Returns:
        A number >= 0. Where the truth is 0 everywhere: 0 if the prediction is too, else infinite.

    Raises:
        InputError: shapes differ, values are not finite, or weights are negative or all 0.
    """
    guess, right = checked_pair(prediction, truth)
    return weighted_error(guess, right, None if weights is None else _checked_weights(weights, len(right)))


def checked_pair(
    prediction: Tensor, truth: Tensor, num_nodes: int | None = None
) -> tuple[Float[Tensor, "N c"], Float[Tensor, "N c"]]:
    """Both fields as `[N, c]`, float64, on the CPU.

    Raises:
        InputError: shapes differ or do not fit the mesh, or values are not finite.
    """
    right = _checked_field("truth", truth)
    guess = _checked_field("prediction", prediction)
    if guess.shape != right.shape:
        raise InputError(
            f"prediction has shape {list(prediction.shape)} but truth {list(truth.shape)}: give both alike"
        )
    if num_nodes is not None and len(right) != num_nodes:
        raise InputError(f"truth has shape {list(truth.shape)} but the mesh has {num_nodes} nodes: give a row for each")
    return guess, right


def weighted_error(
    guess: Float[Tensor, "N c"], right: Float[Tensor, "N c"], weights: Float[Tensor, " N"] | None = None
) -> float:
    """Relative L2 error of fields that were checked."""
    if weights is not None:
        root = weights.sqrt()[:, None]
        guess, right = root * guess, root * right
    return relative(float((guess - right).norm()), float(right.norm()))


def relative(error: float, size: float) -> float:
    """`error / size`; 0 where both are 0, infinite where only the size is."""
    if size == 0:
        return 0.0 if error == 0 else float("inf")
    return error / size


def _checked_field(what: str, values: Tensor) -> Float[Tensor, "N c"]:
    if values.ndim not in (1, 2) or values.numel() == 0:
        raise InputError(f"{what} must have shape [N] or [N, c] with N >= 1, got {list(values.shape)}")
    if values.is_complex():
        raise InputError(f"{what} must hold real numbers, got dtype {values.dtype}")
    array = values.detach().cpu().double().reshape(len(values), -1)
    bad = ~array.isfinite().all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise InputError(
            f"{what} is NaN or infinite at {int(bad.sum())} of {len(bad)} nodes, first at node {first}: "
            "count this case as failed"
        )
    return array


def _checked_weights(weights: Tensor, num_nodes: int) -> Float[Tensor, " N"]:
    if weights.shape != (num_nodes,):
        raise InputError(f"weights must have shape [{num_nodes}], one for each node, got {list(weights.shape)}")
    array = weights.detach().cpu().double()
    if not (array.isfinite().all() and (array >= 0).all() and array.sum() > 0):
        raise InputError(
            f"weights must be finite, >= 0 and not all 0, got {float(array.min()):.6g} … {float(array.max()):.6g}"
        )
    return array
