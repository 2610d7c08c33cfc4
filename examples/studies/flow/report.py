"""Tables and pictures from the results."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
WRITTEN = "<!-- Written by `python examples/studies/flow/run.py --report`; change that, not this. -->"
SHOWN = (0.25, 0.5, 1.0)  # of the way through a rollout


def table(rows: Iterable[Row]) -> str:
    """Errors of every model that was trained to the end: a line each, with the error along the rollout."""
    lines = _trained(rows)
    head = ["model", "parameters", "steps", "ms a step", "ms a frame"]
    splits = list(dict.fromkeys(row["split"] for row in lines))
    for split in splits:
        head += [f"{split}: mean", *(f"at {share:.0%}" for share in SHOWN)]
    body = []
    for model in dict.fromkeys(row["model"] for row in lines):
        mine = [row for row in lines if row["model"] == model]
        first = mine[0]
        step = next((row["step_ms"] for row in rows if row["stage"] == "time" and row["model"] == model), None)
        line = [
            model,
            *(_number(first.get(key)) for key in ("params", "steps")),
            _ms(step),
            _ms(first.get("rollout_ms")),
        ]
        for split in splits:
            found = [row for row in mine if row["split"] == split]
            line.append(_spread([row["nrmse"] for row in found]))
            for share in SHOWN:
                steps = [row["nrmse_per_step"] for row in found]
                line.append(_spread([each[round(share * len(each)) - 1] for each in steps]))
        body.append(line)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, ["---"] * len(head), *body])


def write(results: Path, out: Path) -> None:
    """The table into `<results>/tables.md`, every kept rollout as pictures into `<out>/pictures`."""
    from flare_connect.files import write_atomically

    path = results / "flow.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    parts = [WRITTEN, "## Flow past holes", *([_caption(rows), table(rows)] if _trained(rows) else ["No rows yet."])]
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "tables.md", ("\n\n".join(parts) + "\n").encode())
    print(results / "tables.md")
    for data in ("channels.h5", "channels_quick.h5"):
        if (out / data).is_file():
            for picture in pictures(out / data, out):
                print(picture)
            return


def pictures(data: Path, out: Path) -> Iterable[Path]:
    """Truth, what each model has predicted, and its error, at several times of the rollouts that were kept."""
    import numpy as np
    import preparing
    import torch

    import flare_connect as fc

    for split in preparing.SPLITS:
        kept = {path.stem.removesuffix(f"-{split}"): path for path in sorted((out / "kept").glob(f"*-{split}.npz"))}
        if "ours" not in kept:
            continue
        with np.load(kept["ours"], allow_pickle=False) as found:
            place = int(found["place"])
        mesh = preparing.kept_of(data, split, place)
        for name in ("ours", "MeshGraphNet"):
            if name not in kept:
                continue
            with np.load(kept[name], allow_pickle=False) as found:
                if int(found["place"]) != place:
                    continue
                guess = torch.from_numpy(found["guess"].astype(np.float32))
            for share in SHOWN:
                t = round(share * guess.shape[1])
                target = out / "pictures" / f"{split}-{name}-{t:03}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                truth = mesh.point_data["temperature"][:, t]
                fc.plot_field(mesh, guess[:, t - 1, 2], truth=truth, name="temperature", save=target)
                yield target


def _trained(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["stage"] == "train" and "failed" not in row]


def _caption(rows: list[Row]) -> str:
    lines = [row for row in _trained(rows) if row["model"] != "persistence"]
    of = lines[0] if lines else rows[0]
    seconds, seeds = ({row[key] for row in lines} for key in ("seconds", "seed"))
    return (
        "Relative L2 error of rollouts from the first frame, mean over fields, meshes and frames, and at parts of the "
        f"way; mean ± standard deviation over {len(seeds)} seeds. {'/'.join(f'{s:g}' for s in sorted(seconds))} s of "
        f"training each on {of['machine']}, commit {of['commit']}: `{of['command']}`."
    )


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "–"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _number(value: int | None) -> str:
    return f"{value:,}" if value else "–"


def _ms(value: float | None) -> str:
    return f"{value:.1f}" if value else "–"
