"""Series of fields as files that ParaView plays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import torch
from torch import Tensor
from tqdm import tqdm

from flare_connect.errors import InputError
from flare_connect.files import write_atomically
from flare_connect.mesh import Mesh

from .export import save_fields


def save_series(
    mesh: Mesh,
    series: Mapping[str, Tensor],
    path: str | Path,
    *,
    times: Sequence[float] | None = None,
    units: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Path:
    """Writes a file for each frame, and a `.pvd` that names them with their times.

    Args:
        mesh: N nodes. Its own series of these names are left out of the files, other fields are in each.
        series: field name → values [N, T] or [N, T, c].
        path: the collection, e.g. `rollout.pvd`; frames go into the folder `rollout` beside it.
        times: of the frames; 0, 1, 2 … by default.
        units: field name → unit, for the fields that have one.
        progress: show a bar.

    Returns:
        The path written.

    Raises:
        InputError: if the extension is not `.pvd`, fields differ in their frames, there are as many times as no frames,
            a value is not finite, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".pvd":
        raise InputError(f"a series is written as a collection of files: name it *.pvd, got {path.name!r}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist")
    lengths = {name: values.shape[1] if values.dim() > 1 else 0 for name, values in series.items()}
    count = next(iter(lengths.values()), 0)
    if not count or set(lengths.values()) != {count}:
        raise InputError(f"series must be [N, T] or [N, T, c] with the same frames, at least one, got {lengths}")
    if times is not None and len(times) != count:
        raise InputError(f"`times` must be one for each of the {count} frames, got {len(times)}")
    others = {name: values for name, values in mesh.point_data.items() if name not in series and values.dim() < 3}
    still = Mesh.from_arrays(mesh.pos, mesh.cells, sets=mesh.sets, global_data=mesh.global_data, point_data=others)
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    lines = []
    for t in tqdm(range(count), desc="frames", unit="frame", disable=not progress, leave=False):
        name = f"{t:0{len(str(count - 1))}}.vtu"
        frame = {field: torch.as_tensor(values)[:, t] for field, values in series.items()}
        save_fields(still, frame, folder / name, units=units)
        time = float(t if times is None else times[t])
        lines.append(f"<DataSet timestep={quoteattr(repr(time))} part='0' file={quoteattr(f'{folder.name}/{name}')}/>")
    head = '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n<Collection>\n'
    write_atomically(path, (head + "\n".join(lines) + "\n</Collection>\n</VTKFile>\n").encode())
    return path
