"""What `flare-connect evaluate --pdebench` does: the errors of PDEBench, and pictures of them."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_connect.errors import InputError

from .command import check_folder, load_model
from .pdebench import opened, reading_arguments
from .series_evaluation import trained_window, write_frames

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from torch import Tensor

    from flare_connect.metrics import PDEBenchErrors


def pdebench_arguments(parser: "ArgumentParser") -> None:
    """What `evaluate` takes only with `--pdebench`."""
    group = parser.add_argument_group("only with --pdebench")
    reading_arguments(group)
    group.add_argument(
        "--mode", choices=["exact", "pdebench"], default="exact", help="means over samples, or as in published tables"
    )
    group.add_argument("--spectrum", type=str, default=None, help="also draw energy spectra to this file (.png)")
    group.add_argument("--movie", type=str, default=None, help="also film one sample to this file (.gif, .mp4)")
    group.add_argument(
        "--sample", type=int, default=None, help="of the split, for --movie; the one of median error by default"
    )


def refuse_pdebench_arguments(args: "Namespace") -> None:
    """Without `--pdebench` these would do nothing.

    Raises:
        InputError: if one is given.
    """
    for name in ("spectrum", "movie", "sample"):
        if getattr(args, name) is not None:
            raise InputError(f"`--{name}` does nothing with `--data`: it belongs to `--pdebench`")


def evaluate_pdebench(args: "Namespace") -> None:
    """Predicts a split of a file; prints, writes and draws the errors of PDEBench."""
    from tqdm import tqdm

    from flare_connect.models import FlareConnect, FlareRollout
    from flare_connect.train import evaluate_on_grid
    from flare_datasets.pdebench import PDEBenchGraphs
    from flare_datasets.pdebench.tensors import checked_initial_step

    _check_pictures(args)
    with opened(args.pdebench, args) as file:
        kind: Any = FlareRollout if file.family.initial_step else FlareConnect
        model: Any = load_model(kind, args.model, args.device)
        given, graphs = checked_initial_step(file, args.initial_step), PDEBenchGraphs(file, args.split)
        watch = _Watch(args, given, file.num_frames, graphs)
        bar = tqdm(graphs, desc="rollouts", unit="sample", total=len(graphs), leave=False)
        found = evaluate_on_grid(model, bar, graphs.grid.to_grid, initial_step=given, mode=args.mode, watch=watch)
        _print(args, found, given)
        _write(args, found, given)
        _draw(args, found, given, watch, model, graphs)


class _Watch:
    """Keeps of each sample what the pictures need: running spectra, and one number."""

    def __init__(self, args: "Namespace", given: int, num_frames: int, graphs: Any) -> None:
        from flare_connect.metrics import SpectraMetrics
        from flare_datasets.pdebench.tensors import number_in_split

        self.given, self.sample = given, args.sample
        self.errors: list[float] = []
        if args.sample is not None:
            number_in_split(graphs.indices, args.sample)  # an error before the work
        self.ranked = bool(args.movie) and args.sample is None
        frames = sorted({given, (given + num_frames - 1) // 2, num_frames - 1})
        self.spectra = SpectraMetrics(frames) if args.spectrum else None

    def __call__(self, prediction: "Tensor", truth: "Tensor") -> None:
        from flare_connect.metrics import pdebench_errors

        if self.spectra is not None:
            self.spectra.update(prediction, truth)
        if self.ranked:
            self.errors.append(pdebench_errors(prediction, truth, initial_step=self.given).scalars()["nrmse"])

    def chosen(self) -> int:
        """The sample to film: the one that was asked for, or the one of median error."""
        if self.sample is not None:
            return self.sample
        return sorted(range(len(self.errors)), key=self.errors.__getitem__)[len(self.errors) // 2]


def _check_pictures(args: "Namespace") -> None:
    """Wrong paths are errors before the work."""
    from flare_connect.viz.film import film_path
    from flare_connect.viz.render import picture_path

    check_folder(args.csv)
    for path in (args.curves, args.spectrum):
        if path:
            picture_path(path)
    if args.movie:
        film_path(args.movie)
    elif args.sample is not None:
        raise InputError("`--sample` does nothing without `--movie`: it says which sample is filmed")


def _print(args: "Namespace", found: Mapping[str, "PDEBenchErrors"], given: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{args.model} on split {args.split!r} of {args.pdebench}, after {given} frames ({args.mode})")
    for column in ("error", *found):
        table.add_column(column, justify="left" if column == "error" else "right")
    scalars = [errors.scalars() for errors in found.values()]
    for metric in scalars[0]:
        table.add_row(metric, *(f"{each[metric]:.4g}" for each in scalars))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _write(args: "Namespace", found: Mapping[str, "PDEBenchErrors"], given: int) -> None:
    from flare_connect.files import write_atomically

    steps = {name: errors.steps() for name, errors in found.items()}
    if args.json:
        whole = {
            name: {"mean": found[name].scalars(), "steps": {m: s.tolist() for m, s in steps[name].items()}}
            for name in found
        }
        head = {"file": Path(args.pdebench).name, "split": args.split, "initial_step": given, "mode": args.mode}
        write_atomically(args.json, json.dumps(head | whole, indent=2).encode() + b"\n")
    if args.csv:
        columns = {f"{name} {metric}": values.tolist() for name in found for metric, values in steps[name].items()}
        write_frames(args.csv, columns, given)


def _draw(args: "Namespace", found: Mapping[str, Any], given: int, watch: _Watch, model: Any, graphs: Any) -> None:
    from flare_connect.train import predict_on_grid
    from flare_connect.viz import plot_curves, plot_spectra, save_movie

    channels, name = _columns(model), Path(args.pdebench).name
    title = f"{args.model} on split {args.split!r} of {name}"
    if args.curves:
        window = trained_window(args.model)
        plot_curves(found, channels=channels, initial_step=given, window=window, title=title, save=args.curves)
        print(args.curves)
    if watch.spectra is not None:
        print(plot_spectra(watch.spectra.compute(), channels=channels, title=title, save=args.spectrum))
    if args.movie:
        mesh = graphs[watch.chosen()]
        prediction, truth = predict_on_grid(model, mesh, graphs.grid.to_grid, initial_step=given)
        sample = int(graphs.indices[watch.chosen()])
        save_movie(
            truth, prediction, args.movie, channels=channels, coordinates=graphs.file.coordinates,
            times=mesh.global_data["time"].tolist(), given=given, title=f"{name}, sample {sample}", progress=True,
        )  # fmt: skip
        print(f"{args.movie}: sample {sample} of the file")


def _columns(model: Any) -> list[str]:
    """A name for each channel of the model's fields."""
    fields = model.config.fields if hasattr(model.config, "fields") else model.config.outputs
    return [name if width == 1 else f"{name} {i}" for name, width in fields.items() for i in range(width)]
