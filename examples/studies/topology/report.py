"""Tables and pictures from the results."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sets import SETS

Row = dict[str, Any]
COLUMNS = {"rel_l2": "relative L2", "boundary_error": "boundary", "jump_error": "jump", "peak_error": "peak"}


def table(rows: Iterable[Row], metric: str = "rel_l2") -> str:
    """One error of every model, a column for each split: mean over seeds, and their range where there are several."""
    final = [row for row in rows if row["stage"] == "train" and "failed" not in row]
    splits = list(dict.fromkeys(row["split"] for row in final))
    models = list(dict.fromkeys((row["model"], row["harmonic"]) for row in final))
    lines = [f"| {COLUMNS.get(metric, metric)} | " + " | ".join(splits) + " |", "|---" * (len(splits) + 1) + "|"]
    for model, harmonic in models:
        cells = []
        for split in splits:
            found = [
                row[metric]
                for row in final
                if (row["model"], row["harmonic"], row["split"]) == (model, harmonic, split) and row[metric] is not None
            ]
            cells.append(_cell(found))
        lines.append(f"| {model}{' + harmonic' if harmonic else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: list[float]) -> str:
    if not found:
        return "–"
    spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.3f}{spread}"


def write(results: Path, out: Path) -> None:
    """Every table into `<results>/tables.md`, every kept mesh as a picture into `<out>/pictures`."""
    from flare_connect.files import write_atomically

    parts = []
    for path in (results / f"{name}.json" for name in SETS):
        if not path.is_file():
            continue
        rows = json.loads(path.read_text())
        parts += [f"## {path.stem}", *(table(rows, metric) for metric in COLUMNS)]
    write_atomically(results / "tables.md", ("\n\n".join(parts) + "\n").encode())
    print(results / "tables.md")
    for picture in pictures(out):
        print(picture)


def pictures(out: Path) -> Iterable[Path]:
    """Truth and prediction of the meshes that `kept` holds."""
    import numpy as np
    import torch

    import flare_connect as fc

    for path in sorted((out / "kept").glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            mesh = fc.Mesh.from_arrays(kept["pos"], {"triangle": kept["cells"]})
            guess, truth, name = torch.from_numpy(kept["guess"]), torch.from_numpy(kept["truth"]), str(kept["output"])
        target = out / "pictures" / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        fc.plot_field(mesh, guess, truth=truth, name=name.replace("_", " "), clim="robust", save=target)
        yield target
