"""Tables, curves and pictures from the results."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import preparing
import torch
from contestants import CONTESTANTS

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import curves
from rows import Row, first, read
from rows import trained as rows_of_trained
from wording import counted, grid, number, origin, shared, spread

import flare_connect as fc
from flare_connect.files import write_atomically

WRITTEN = "<!-- Written by `python examples/studies/flow/run.py --report`; change that, not this. -->"
# More would hide each other.
DRAWN = ("persistence", "MeshGraphNet", "MeshGraphNet, 2 frames", "no differences", "no attention", "ours")
SHOWN = (0.25, 0.5, 1.0)  # of the way through a rollout
LOST = 1.0  # an error of nothing at all in place of each frame


def write(results: Path, out: Path) -> None:
    """The table into `<results>/tables.md`, the error of each frame by some models into `<results>/<split>.svg`.

    Every kept rollout becomes pictures in `<out>/pictures`.
    """
    every = read(results / "flow.json")
    rows = trained(every)
    parts = [WRITTEN, *([_caption(rows), table(every)] if rows else ["No rows yet."])]
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "tables.md", ("\n\n".join(parts) + "\n").encode())
    print(results / "tables.md")
    for split, called in preparing.SPLITS.items():
        drawn = (row for name in DRAWN for row in rows if (row["model"], row["split"]) == (name, called))
        if lines := curves.medians(drawn, "nrmse_per_step"):
            title, path = f"Flow past holes, {called}", results / f"{split}.svg"
            curves.draw(path, lines, title=title, x="frame", y="relative L2", first=1)
            print(path)
    for data in ("channels.h5", "channels_quick.h5"):
        if (out / data).is_file():
            for picture in pictures(out / data, out):
                print(picture)
            return


def table(rows: Iterable[Row]) -> str:
    """Errors of every model that was trained to the end: a line each, with the error along the rollout."""
    every = list(rows)
    lines = trained(every)
    head = ["model", "parameters", "steps", "ms a step", "learned from"]
    splits = list(dict.fromkeys(row["split"] for row in lines))
    for split in splits:
        head += [f"{split}: mean", *(f"at {share:.0%}" for share in SHOWN), "lost"]
    body = []
    order = ["persistence", *CONTESTANTS]
    for model in sorted({row["model"] for row in lines}, key=order.index):
        mine = [row for row in lines if row["model"] == model]
        one = mine[0]
        learned = "params" in one
        line = [
            model, number(one.get("params")), number(one["steps"] if learned else None),
            number(first(every, "step_ms", stage="time", model=model), ".1f"),
            spread(list({row["seed"]: row["train_nrmse"] for row in mine}.values()) if learned else []),
        ]  # fmt: skip
        for split in splits:
            found = [row for row in mine if row["split"] == split]
            line.append(spread([row["nrmse"] for row in found]))
            for share in SHOWN:
                steps = [row["nrmse_per_step"] for row in found]
                line.append(spread([each[round(share * len(each)) - 1] for each in steps]))
            meshes = [error for row in found for error in row["nrmse_per_mesh"]]
            line.append(f"{sum(error > LOST for error in meshes)} of {len(meshes)}")
        body.append(line)
    return grid(head, body)


def trained(rows: Iterable[Row]) -> list[Row]:
    """Rows of what was trained to the end, as the validation split has it best."""
    return rows_of_trained(rows, "learning_rate", error="val_nrmse")


def pictures(data: Path, out: Path) -> Iterable[Path]:
    """Truth, what each model has predicted, and its error, at several times of the rollouts that were kept."""
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


def _caption(rows: Sequence[Row]) -> str:
    learned = [row for row in rows if "params" in row] or rows
    models = dict.fromkeys(row["model"] for row in learned)
    seconds = shared({row["model"]: f"{row['seconds']:g} s" for row in learned})
    seeds = shared({model: counted(row for row in learned if row["model"] == model) for model in models})
    return (
        "Relative L2 error of rollouts from the first frame, mean over fields, meshes and frames, on series that were "
        "learned from and on others, and at parts of the way; *lost* are rollouts with an error of more than "
        f"{LOST:g}; mean ± standard deviation over seeds. Trained for {seconds}. {seeds}. {origin(rows)}: "
        f"`{rows[0]['command']}`."
    )
