"""Errors against how thin the mesh is at a node: thin ligaments are where geometry is hard."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real
from torch import Tensor

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, local_thickness
from flare_connect.mesh.arrays import host
from flare_connect.metrics.fields import Field, checked_pair, relative

_EDGES: dict[str, tuple[float, ...]] = {
    "element": (0.0, 2.0, 4.0, 8.0, 16.0, math.inf),
    "domain": (0.0, 0.02, 0.05, 0.1, 0.2, math.inf),
}


@dataclass(frozen=True, kw_only=True)
class ThicknessErrors:
    """Squared sums over the nodes of each thickness; those of several meshes add up, see `combine`.

    Attributes:
        edges: K + 1 limits of the K bins, each from its lower limit up to, not at, its upper.
        unit: what thickness is counted in: "element" (`element_size`) or "domain" (the mesh's diagonal).
        num_nodes: nodes in each bin.
        squared_error: sum of |p − y|² in each bin.
        squared_truth: sum of |y|² in each bin.
    """

    edges: tuple[float, ...]
    unit: str
    num_nodes: tuple[int, ...]
    squared_error: tuple[float, ...]
    squared_truth: tuple[float, ...]

    @property
    def relative(self) -> tuple[float, ...]:
        """Relative L2 error of each bin, as `relative_l2`; NaN where it has no node."""
        rows = zip(self.num_nodes, self.squared_error, self.squared_truth, strict=True)
        return tuple(relative(math.sqrt(e), math.sqrt(y)) if count else math.nan for count, e, y in rows)


def error_against_thickness(
    mesh: Mesh,
    prediction: Field,
    truth: Field,
    edges: Sequence[float] | None = None,
    *,
    unit: str = "element",
    thickness: Real[Tensor, " N"] | None = None,
) -> ThicknessErrors:
    """Errors of the nodes sorted by local thickness, see `flare_connect.mesh.local_thickness`.

    Args:
        mesh: any mesh, N nodes; those that no cell uses do not count.
        prediction: `[N]` or `[N, c]`, in the unit of the truth.
        truth: the same shape.
        edges: K + 1 rising limits of thickness in the unit; what lies outside is left out.
        unit: "element" asks how many elements lie across, and a finer mesh has more; "domain" does not depend on the
            mesh.
        thickness: `local_thickness(mesh)` in units of `pos`, where it is known already.

    Raises:
        InputError: a field does not fit the mesh, the limits do not rise, or the unit is not known.

    Good values: the default limits, 2, 4, 8, 16 elements or 0.02, 0.05, 0.1, 0.2 diagonals. A mesh without boundary
    is infinitely thick and falls into a last bin that ends at infinity.
    """
    guess, right = checked_pair(prediction, truth, mesh.num_nodes)
    limits = checked_edges(edges, unit)
    if thickness is None:
        thickness = local_thickness(mesh)
    elif thickness.shape != (mesh.num_nodes,):
        raise InputError(
            f"thickness must have shape [{mesh.num_nodes}], one for each node, got {list(thickness.shape)}"
        )
    size = element_size(mesh) if unit == "element" else mesh.length_scale
    thick = host(thickness).astype(np.float64) / size
    place = np.searchsorted(limits, thick, side="right") - 1
    # The last limit is infinity as a rule, and a mesh without boundary is as thick as that.
    place[(thick == limits[-1]) & np.isinf(thick)] = len(limits) - 2
    inside = (host(mesh.component) >= 0) & (place >= 0) & (place < len(limits) - 1)

    def binned(values: np.ndarray) -> tuple[float, ...]:
        return tuple(np.bincount(place[inside], values[inside], minlength=len(limits) - 1).tolist())

    return ThicknessErrors(
        edges=limits,
        unit=unit,
        num_nodes=tuple(np.bincount(place[inside], minlength=len(limits) - 1).tolist()),
        squared_error=binned((guess - right).square().sum(1).numpy()),
        squared_truth=binned(right.square().sum(1).numpy()),
    )


def combine(errors: Iterable[ThicknessErrors]) -> ThicknessErrors:
    """Adds up the bins of several meshes.

    Raises:
        InputError: there are none, or their limits or units differ.
    """
    found = list(errors)
    if not found:
        raise InputError("there is nothing to combine: give the errors of at least one mesh")
    for other in found[1:]:
        if (other.edges, other.unit) != (found[0].edges, found[0].unit):
            raise InputError(
                f"bins differ: {found[0].edges} {found[0].unit}s and {other.edges} {other.unit}s; give all the same"
            )
    return ThicknessErrors(
        edges=found[0].edges,
        unit=found[0].unit,
        num_nodes=tuple(sum(column) for column in zip(*(one.num_nodes for one in found), strict=True)),
        squared_error=tuple(sum(column) for column in zip(*(one.squared_error for one in found), strict=True)),
        squared_truth=tuple(sum(column) for column in zip(*(one.squared_truth for one in found), strict=True)),
    )


def element_size(mesh: Mesh) -> float:
    """Median length of the mesh's edges, in units of `pos`; quadratic edges count as two."""
    begin, end = host(mesh.edge_index)
    pos = host(mesh.pos)
    if not len(begin):
        raise InputError("the mesh has no edges, so no element has a size; give cells of dimension 1 or more")
    return float(np.median(np.linalg.norm(pos[end] - pos[begin], axis=1)))


def checked_edges(edges: Sequence[float] | None, unit: str) -> tuple[float, ...]:
    """The limits of the bins, or the good ones of the unit.

    Raises:
        InputError: there are fewer than two, they do not rise, or the unit is not known.
    """
    if unit not in _EDGES:
        raise InputError(f'`unit` must be "element" or "domain", got {unit!r}')
    if edges is None:
        return _EDGES[unit]
    limits = tuple(float(edge) for edge in edges)
    if len(limits) < 2 or not all(low < high for low, high in zip(limits, limits[1:], strict=False)):
        raise InputError(f"`edges` must be at least two rising numbers, got {list(limits)}")
    return limits
