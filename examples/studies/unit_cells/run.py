"""Von Mises stress on perforated cells of about 5,000 nodes: in distribution, and on cells with more holes.

    python examples/studies/unit_cells/run.py              # one GPU
    python examples/studies/unit_cells/run.py --evaluate   # errors and pictures of models trained elsewhere
    python examples/studies/unit_cells/run.py --quick      # two CPU cores, minutes: only to see it run

Generates the cells once, trains each model with the same steps, writes `results/unit_cells.json` and pictures.
Interrupted, it goes on where it was. A machine without PyVista trains all the same; copy `--out` to one that has it
and run `--evaluate` there: it draws the same test cells again and no others.
"""

import argparse
import csv
import datetime
import json
import statistics
import subprocess
from pathlib import Path

import torch

import flare_connect as fc
from flare_connect.files import write_atomically
from flare_datasets.unit_cells import UnitCellConfig, generate

MODELS = {
    "hybrid": {},
    "flare": {"anchors": "none", "message_passing": False, "boundary_tokens": False},
    "message_passing": {"anchors": "none", "attention": False, "boundary_tokens": False, "quadrature": False},
}


def main(out: Path, quick: bool, evaluate: bool, models: list[str]) -> None:
    counts = {"num_train": 12, "num_val": 3, "num_test": 3, "num_shift": 3} if quick else {
        "num_train": 800, "num_val": 50, "num_test": 50, "num_shift": 50}  # fmt: skip
    if evaluate:
        counts |= {"num_train": 1, "num_val": 1}
    name = "evaluate.h5" if evaluate else "cells.h5"
    data = generate(out / name, UnitCellConfig(num_nodes=500 if quick else 5_000, **counts))
    results = Path(__file__).parent / "results" / "unit_cells.json"
    rows = [] if quick or not results.is_file() else json.loads(results.read_text())
    for name in models:
        if not evaluate:
            train(name, data, out / name, quick)
        rows = [row for row in rows if row["model"] != name] + test(name, data, out / name)
    path = out / "quick.json" if quick else results
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(rows, indent=1, sort_keys=True).encode() + b"\n")
    print(path)


def train(name: str, data: Path, out: Path, quick: bool) -> None:
    cuda = torch.cuda.is_available()
    config = fc.TrainConfig(
        data=fc.DataConfig(
            path=str(data), conditions=("macro_strain",), directional=("macro_strain",), boundary={"holes": "free"},
            batch_size=8,
        ),
        model=fc.Architecture(**{"channels": 32 if quick else 128, "num_blocks": 2 if quick else 6} | MODELS[name]),
        optimiser=fc.OptimiserConfig(
            epochs=2 if quick else 60, learning_rate=2e-3, precision="bf16" if cuda else "32"
        ),
        output=str(out),
    )  # fmt: skip
    fc.fit(config)


def test(name: str, data: Path, out: Path) -> list[dict]:
    """Rows of one model, one a split."""
    model = fc.FlareConnect.from_pretrained(out, device="cuda" if torch.cuda.is_available() else "cpu")
    provenance = json.loads((out / "config.json").read_text())["provenance"]
    with (out / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    common = {
        "command": "python examples/studies/unit_cells/run.py", "commit": commit(), "machine": provenance["machine"],
        "date": datetime.date.today().isoformat(), "dataset": "unit_cells", "model": name,
        "params": model.num_parameters, "seed": provenance["train"]["seed"],
        "train_meshes": provenance["data"]["parameters"]["num_train"],
        "epochs": len(epochs), "epochs_planned": provenance["train"]["optimiser"]["epochs"],
        "best_epoch": provenance["epoch"],
        "train_seconds": round(sum(float(row["seconds"]) for row in epochs), 1),
        "epoch_seconds": statistics.median(float(row["seconds"]) for row in epochs),
        "gpu_peak_mib": max((float(row["gpu_peak_mib"]) for row in epochs if row.get("gpu_peak_mib")), default=None),
    }  # fmt: skip
    rows = []
    with fc.MeshStore(data) as store:
        for split, called in (("test", "id"), ("shift", "shift")):
            error = fc.evaluate(model, store, split)["von_mises"]
            rows.append(
                common
                | {"split": called, "rel_l2": error.rel_l2, "rel_l2_of_mean": error.rel_l2_of_mean}
                | {"peak_error": error.peak_error}
            )
            print(f"{name} {called}: relative L2 {error.rel_l2:.4f} (of the mean {error.rel_l2_of_mean:.4f})")
            draw(model, store, split, error.rel_l2_per_mesh, out / f"{called}.png")
    return rows


def draw(model: fc.FlareConnect, store: fc.MeshStore, split: str, errors: tuple[float, ...], path: Path) -> None:
    """The median mesh of the split; a machine without PyVista keeps the model and can draw later."""
    median = sorted(range(len(errors)), key=errors.__getitem__)[len(errors) // 2]
    mesh = store[int(store.split(split)[median])]
    try:
        fc.plot_field(mesh, model.predict(mesh)["von_mises"], truth="von_mises", name="von Mises stress", save=path)
    except ImportError as error:
        print(f"no picture: {error}")


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/studies/unit_cells"), help="folder for data and runs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate and draw what --out holds")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which models")
    args = parser.parse_args()
    main(args.out, args.quick, args.evaluate, args.models)
