"""`flare-connect train`, `train-rollout`, `evaluate` and `demo`: models and their errors."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flare_connect.errors import InputError

from .command import Command, check_folder, load_model, model_argument
from .pdebench_evaluation import evaluate_pdebench, pdebench_arguments, refuse_pdebench_arguments
from .series_evaluation import evaluate_series, refuse_series_arguments, series_arguments

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _train_arguments(parser: "ArgumentParser") -> None:
    from flare_connect.train.config import TrainConfig

    parser.add_argument("--config", action="config", help="YAML file with these settings")
    parser.add_class_arguments(TrainConfig, None)


def _train(args: "Namespace") -> None:
    from flare_connect.train import TrainConfig, fit

    result = fit(TrainConfig(**{f.name: args[f.name] for f in dataclasses.fields(TrainConfig)}))
    print(f"{result.folder}: relative L2 {result.best_error:.4f} on the validation split")


def _train_rollout_arguments(parser: "ArgumentParser") -> None:
    from flare_connect.train.rollout_config import RolloutTrainConfig

    parser.add_argument("--config", action="config", help="YAML file with these settings")
    parser.add_class_arguments(RolloutTrainConfig, None)


def _train_rollout(args: "Namespace") -> None:
    from flare_connect.train import RolloutTrainConfig, fit

    result = fit(RolloutTrainConfig(**{f.name: args[f.name] for f in dataclasses.fields(RolloutTrainConfig)}))
    print(f"{result.folder}: relative L2 {result.best_error:.4f} over the frames of rollouts on the validation split")


def _evaluate_arguments(parser: "ArgumentParser") -> None:
    model_argument(parser, required=True)
    parser.add_argument("--data", type=str, default=None, help="prepared data set (.h5)")
    parser.add_argument("--pdebench", type=str, default=None, help="or a file of PDEBench, for a model of time series")
    parser.add_argument("--split", type=str, default="test", help="which split")
    parser.add_argument("--json", type=str, default=None, help="also write the errors to this file")
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")
    series_arguments(parser)
    pdebench_arguments(parser)


def _evaluate(args: "Namespace") -> None:
    if (args.data is None) == (args.pdebench is None):
        raise InputError("give either `--data`, a prepared data set, or `--pdebench`, a file of PDEBench")
    check_folder(args.json)
    if args.pdebench is not None:
        evaluate_pdebench(args)
        return
    from flare_connect.models import FlareRollout
    from flare_connect.models.pretrained import kind_of

    series = kind_of(args.model) == FlareRollout.kind
    refuse_pdebench_arguments(args)
    if series:
        evaluate_series(args)
    else:
        refuse_series_arguments(args)
        _evaluate_surrogate(args)


def _evaluate_surrogate(args: "Namespace") -> None:
    from rich.console import Console
    from rich.table import Table

    from flare_connect.files import write_atomically
    from flare_connect.mesh import MeshStore
    from flare_connect.models import FlareConnect
    from flare_connect.train import evaluate

    model = load_model(FlareConnect, args.model, args.device)
    errors = evaluate(model, MeshStore(args.data), args.split)
    table = Table(title=f"{args.model} on split {args.split!r} of {args.data}")
    for column in ("field", "relative L2", "of the mean", "worst mesh", "peak error"):
        table.add_column(column, justify="left" if column == "field" else "right")
    for name, e in errors.items():
        numbers = (e.rel_l2, e.rel_l2_of_mean, max(e.rel_l2_per_mesh), e.peak_error)
        table.add_row(name, *(f"{number:.4f}" for number in numbers))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if args.json:
        found = {name: dataclasses.asdict(e) for name, e in errors.items()}
        write_atomically(args.json, json.dumps({"split": args.split, "fields": found}, indent=2).encode() + b"\n")


def _demo_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--out", type=str, default="demo", help="folder for data, model and picture")
    parser.add_argument("--train_cells", type=int, default=240, help="cells to train on")
    parser.add_argument(
        "--test_cells", type=int, default=20, help="cells to test on, and as many to choose the best epoch by"
    )
    parser.add_argument("--nodes", type=int, default=500, help="nodes of a cell to train on")
    parser.add_argument("--test_nodes", type=int, default=5_000, help="nodes of a cell to test on")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training cells")


def _demo(args: "Namespace") -> None:
    from flare_connect.demo import run_demo

    run_demo(
        Path(args.out),
        num_train=args.train_cells,
        num_test=args.test_cells,
        num_nodes=args.nodes,
        test_nodes=args.test_nodes,
        epochs=args.epochs,
    )


TRAIN = Command(
    summary="train a surrogate on a data set",
    details="Settings as flags or in a YAML file. Run the same command again to resume after an interruption.\n"
    "Example: flare-connect train --data.path cells.h5 --data.conditions '[macro_strain]' --output runs/cells",
    arguments=_train_arguments,
    work=_train,
)


TRAIN_ROLLOUT = Command(
    summary="train a model of time series on a data set",
    details="The fields to step are series [N, T] in the data set. Otherwise as `train`.\n"
    "Example: flare-connect train-rollout --data.path series.h5 --data.fields '[temperature]' --output runs/heat",
    arguments=_train_rollout_arguments,
    work=_train_rollout,
)


EVALUATE = Command(
    summary="errors of a trained model on a split",
    details="Relative L2 of each field beside that of predicting the training mean, worst mesh, peak error.\n"
    "Of a model of time series: relative L2 of rollouts beside that of nothing ever changing, frame by frame.\n"
    "Of a file of PDEBench: its six errors of rollouts beside those of nothing ever changing, curves, spectra, a film.",
    arguments=_evaluate_arguments,
    work=_evaluate,
)


DEMO = Command(
    summary="generate, train, predict, draw: the whole path in minutes",
    details="Writes data, a trained model and stress.png into one folder; prints its error and a shipped model's.",
    arguments=_demo_arguments,
    work=_demo,
)
