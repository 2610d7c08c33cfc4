"""Which frame of the series in a data set is meant."""

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flare_connect.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from flare_connect.mesh import Mesh

_WIDEST = 9  # components of a tensor in space; more columns than these are frames


def frame_of(mesh: "Mesh", names: Iterable[str | None], step: int | None) -> tuple["Mesh", str]:
    """The mesh with one frame in the place of each series among these fields, and which one it is, in words.

    A field [N, T, c] is a series. So is one [N, T] where `step` asks for it, where T is that of another series or of
    the times of the mesh, or where it has more columns than any vector or tensor.

    Args:
        mesh: of a data set.
        names: fields that are drawn; None and unknown ones are passed over.
        step: counted from 0, or from the end if negative; None takes the last.

    Raises:
        InputError: `step` is out of range, or none of the fields is a series.
    """
    fields = {name: mesh.point_data[name] for name in names if name in mesh.point_data}
    series = {name: values for name, values in fields.items() if _is_series(mesh, values, step is not None)}
    if not series:
        if step is not None:
            told = ", ".join(f"{name!r}" for name in fields) or "what is drawn"
            raise InputError(f"`--step` does nothing here: {told} is no series; leave it out")
        return mesh, ""
    chosen, numbers = -1 if step is None else step, set()
    for name, values in series.items():
        count = values.shape[1]
        if not -count <= chosen < count:
            raise InputError(
                f"`--step` must be between {-count} and {count - 1} for the {count} frames of {name!r}, got {chosen}"
            )
        numbers.add(f"frame {chosen % count} of 0 to {count - 1}")
    out = copy.copy(mesh)
    out.point_data = {**mesh.point_data, **{name: values[:, chosen] for name, values in series.items()}}
    return out, " and ".join(sorted(numbers))


def _is_series(mesh: "Mesh", values: "Tensor", asked: bool) -> bool:
    if values.dim() != 2:
        return values.dim() == 3
    counts = {other.shape[1] for other in mesh.point_data.values() if other.dim() == 3}
    counts |= {times.numel() for name, times in mesh.global_data.items() if name in ("time", "times")}
    return asked or values.shape[1] > _WIDEST or values.shape[1] in counts
