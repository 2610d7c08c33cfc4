"""`flare-connect prepare-pdebench`, and what `evaluate --pdebench` does: files of PDEBench."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_connect.errors import InputError

from .command import Command, device_named

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def reading_arguments(parser: "ArgumentParser") -> None:
    """How a file is read."""
    parser.add_argument("--reduced_resolution", type=int, default=1, help="one point of so many along each axis")
    parser.add_argument("--reduced_resolution_t", type=int, default=1, help="one frame of so many")
    parser.add_argument("--reduced_batch", type=int, default=1, help="one sample of so many")


def _opened(path: str, args: "Namespace") -> Any:
    from flare_datasets.pdebench import open_pdebench

    return open_pdebench(
        path, reduced_resolution=args.reduced_resolution, reduced_resolution_t=args.reduced_resolution_t,
        reduced_batch=args.reduced_batch,
    )  # fmt: skip


def _prepare_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="file of PDEBench")
    parser.add_argument("--out", type=str, required=True, help="data set of series to write (.h5)")
    reading_arguments(parser)
    parser.add_argument("--val_fraction", type=float, default=0.05, help="share of what is trained on, to validate")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _prepare(args: "Namespace") -> None:
    from flare_connect.mesh import write_store
    from flare_datasets.pdebench import PDEBenchGraphs

    if Path(args.out).exists() and not args.overwrite:
        raise InputError(f"{args.out} exists: choose another name, or add --overwrite")
    if not 0 < args.val_fraction < 1:
        raise InputError(f"`--val_fraction` must lie between 0 and 1, got {args.val_fraction}")
    with _opened(args.file, args) as file:
        train, test = (PDEBenchGraphs(file, split) for split in ("train", "test"))
        held = max(1, round(args.val_fraction * len(train)))
        if held >= len(train):
            raise InputError(f"{args.file} has {len(train)} samples to train on, {held} of which would validate")
        # What is judged in the end has no say in the training: PDEBench validates on its test split, this does not.
        ends = (len(train) - held, len(train), len(train) + len(test))
        splits = {"train": range(ends[0]), "val": range(ends[0], ends[1]), "test": range(ends[1], ends[2])}
        parameters = {name: getattr(args, name) for name in ("reduced_resolution", "reduced_resolution_t")}
        write_store(
            args.out, (mesh for part in (train, test) for mesh in part), splits=splits, progress=True,
            generator=f"pdebench {file.family.name}", generator_version=1, seed=0,
            parameters=parameters | {"file": file.path.name, **file.parameters},
        )  # fmt: skip
        fields = ",".join(file.channels)
    print(f"{args.out}: " + ", ".join(f"{len(ids)} {name}" for name, ids in splits.items()) + f"; fields [{fields}]")


def evaluate_pdebench(args: "Namespace") -> None:
    """Rolls a split of a file out, and prints and writes the errors of PDEBench."""
    from rich.console import Console
    from rich.table import Table
    from tqdm import tqdm

    from flare_connect.files import write_atomically
    from flare_connect.models import FlareRollout
    from flare_connect.train.rollout_evaluation import evaluate_on_grid
    from flare_datasets.pdebench import PDEBenchGraphs
    from flare_datasets.pdebench.tensors import checked_initial_step

    model = FlareRollout.from_pretrained(args.model, device=device_named(args.device))
    with _opened(args.pdebench, args) as file:
        given, graphs = checked_initial_step(file, args.initial_step), PDEBenchGraphs(file, args.split)
        bar = tqdm(graphs, desc="rollouts", unit="sample", total=len(graphs), leave=False)
        found = evaluate_on_grid(model, bar, graphs.grid.to_grid, initial_step=given, mode=args.mode)
    table = Table(title=f"{args.model} on split {args.split!r} of {args.pdebench}, after {given} frames ({args.mode})")
    for column in ("error", *found):
        table.add_column(column, justify="left" if column == "error" else "right")
    scalars = {name: errors.scalars() for name, errors in found.items()}
    for metric in next(iter(scalars.values())):
        table.add_row(metric, *(f"{each[metric]:.4g}" for each in scalars.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    steps = {name: errors.steps() for name, errors in found.items()}
    if args.json:
        whole = {
            name: {"mean": scalars[name], "steps": {m: s.tolist() for m, s in steps[name].items()}} for name in found
        }
        head = {"file": Path(args.pdebench).name, "split": args.split, "initial_step": given, "mode": args.mode}
        write_atomically(args.json, json.dumps(head | whole, indent=2).encode() + b"\n")
    if args.csv:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["frame", *(f"{name} {metric}" for name in found for metric in steps[name])])
        columns = [values.tolist() for name in found for values in steps[name].values()]
        writer.writerows([given + t, *row] for t, row in enumerate(zip(*columns, strict=True)))
        write_atomically(args.csv, text.getvalue().encode())


PREPARE_PDEBENCH = Command(
    summary="pack a file of PDEBench into a data set of series",
    details="Example: flare-connect prepare-pdebench 1D_Burgers_Sols_Nu0.01.hdf5 --reduced_resolution 4 "
    "--reduced_resolution_t 5 --out burgers.h5",
    arguments=_prepare_arguments,
    work=_prepare,
)
