"""What `flare-connect evaluate --data` does with a model of time series: errors of rollouts, and a picture of them."""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .command import check_folder, load_model
from .pdebench_evaluation import trained_window

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from flare_connect.train import SeriesError


def evaluate_series(args: "Namespace") -> None:
    """Rolls a split of series out; prints, writes and draws the errors of each field."""
    from flare_connect.mesh import MeshStore
    from flare_connect.models import FlareRollout
    from flare_connect.train import evaluate_rollouts
    from flare_connect.viz.render import picture_path

    check_folder(args.csv)
    if args.curves:
        picture_path(args.curves)
    given = 1 if args.initial_step is None else args.initial_step
    model = load_model(FlareRollout, args.model, args.device)
    errors = evaluate_rollouts(model, MeshStore(args.data), args.split, initial=given)
    _print(args, errors, given)
    _write(args, errors, given)
    if args.curves:
        _draw(args, errors, given)


def _print(args: "Namespace", errors: Mapping[str, "SeriesError"], given: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{args.model} on split {args.split!r} of {args.data}, after {given} of the frames")
    for column in ("field", "relative L2", "last frame", "worst series", "persistence", "its last frame"):
        table.add_column(column, justify="left" if column == "field" else "right")
    for name, e in errors.items():
        numbers = (e.rel_l2, e.rel_l2_per_frame[-1], max(e.rel_l2_per_mesh), e.rel_l2_of_persistence)
        table.add_row(name, *(f"{number:.4f}" for number in (*numbers, e.persistence_per_frame[-1])))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _write(args: "Namespace", errors: Mapping[str, "SeriesError"], given: int) -> None:
    from flare_connect.files import write_atomically

    if args.json:
        found = {name: dataclasses.asdict(e) for name, e in errors.items()}
        whole = {"split": args.split, "initial_step": given, "fields": found}
        write_atomically(args.json, json.dumps(whole, indent=2).encode() + b"\n")
    if args.csv:
        columns = {f"{who} {name}": per for name, e in errors.items() for who, per in _per_frame(e).items()}
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["frame", *columns])
        writer.writerows([given + t, *row] for t, row in enumerate(zip(*columns.values(), strict=True)))
        write_atomically(args.csv, text.getvalue().encode())


def _draw(args: "Namespace", errors: Mapping[str, "SeriesError"], given: int) -> None:
    import torch

    from flare_connect.metrics import PDEBenchErrors
    from flare_connect.viz import plot_curves

    # nRMSE, as PDEBench calls it, is the relative L2 of a frame.
    curves = {
        who: PDEBenchErrors(values={"nrmse": torch.tensor([_per_frame(e)[who] for e in errors.values()])})
        for who in ("model", "persistence")
    }
    title = f"{args.model} on split {args.split!r} of {Path(args.data).name}"
    plot_curves(
        curves, channels=list(errors), initial_step=given, window=trained_window(args.model), metrics=("nrmse",),
        title=title, save=args.curves,
    )  # fmt: skip
    print(args.curves)


def _per_frame(error: "SeriesError") -> dict[str, tuple[float, ...]]:
    return {"model": error.rel_l2_per_frame, "persistence": error.persistence_per_frame}
