"""What `flare-connect evaluate` does with a model of time series and one's own data: errors of rollouts, a picture."""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flare_connect.errors import InputError

from .command import check_folder, load_model

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flare_connect.train import SeriesError


_ONLY_SERIES = ("initial_step", "csv", "curves")


def series_arguments(parser: "ArgumentParser") -> None:
    """What `evaluate` takes only where there are frames."""
    group = parser.add_argument_group("only with a model of time series, or --pdebench")
    told = "frames that are given; 1, of PDEBench as published"
    group.add_argument("--initial_step", type=int, default=None, help=told)
    group.add_argument("--csv", type=str, default=None, help="also write the errors of each frame to this file")
    group.add_argument("--curves", type=str, default=None, help="also draw the error of each frame to this file (.png)")


def refuse_series_arguments(args: "Namespace") -> None:
    """With a model of single fields these would do nothing.

    Raises:
        InputError: if one is given.
    """
    for name in _ONLY_SERIES:
        if getattr(args, name) is not None:
            raise InputError(f"`--{name}` does nothing with a model of single fields: it is for time series")


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
        write_frames(args.csv, columns, given)


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


def write_frames(path: str, columns: Mapping[str, Sequence[float]], given: int) -> None:
    """A CSV file with a line a predicted frame, the first of which has the number `given`."""
    from flare_connect.files import write_atomically

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["frame", *columns])
    writer.writerows([given + t, *row] for t, row in enumerate(zip(*columns.values(), strict=True)))
    write_atomically(path, text.getvalue().encode())


def trained_window(model: str) -> int | None:
    """Frames of a training sample, where the model's folder tells."""
    from flare_connect.models.pretrained import CONFIG, model_folder

    try:
        window = json.loads((model_folder(model) / CONFIG).read_text())["provenance"]["train"]["data"]["window"]
    except (KeyError, TypeError):
        return None
    return window if isinstance(window, int) and window > 0 else None
