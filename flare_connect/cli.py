"""The command line: `flare-connect COMMAND`. Each command loads what it needs, when it runs."""

import dataclasses
import json
import sys
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_connect import __version__
from flare_connect.errors import FlareConnectError, InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flare_connect.mesh import Mesh, MeshCache


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on wrong use or wrong input.

    Args:
        argv: arguments after the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"flare-connect {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"error: unknown command {arguments[0]!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = COMMANDS[arguments[0]]
    try:
        return command.run(arguments[0], arguments[1:])
    except FlareConnectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One command: what `--help` says, its arguments, its work."""

    summary: str
    details: str
    arguments: Callable[["ArgumentParser"], None]
    work: Callable[["Namespace"], None]

    def run(self, name: str, arguments: Sequence[str]) -> int:
        """Parse and work."""
        from jsonargparse import ArgumentParser, DefaultHelpFormatter

        class Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
            """Line breaks of the description stay where they are."""

        description = f"{self.summary[0].upper()}{self.summary[1:]}.\n\n{self.details}"
        parser = ArgumentParser(prog=f"flare-connect {name}", description=description, formatter_class=Formatter)
        self.arguments(parser)
        self.work(parser.instantiate(parser.parse_args(list(arguments))))
        return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["usage: flare-connect COMMAND [options]", "", "Surrogates of physics on real meshes.", "", "commands:"]
    return "\n".join([*head, *lines, "", "flare-connect COMMAND --help tells what a command takes."])


_STEP = "which time of a series, counted from 0, or from the end if negative; the last by default"


def _info_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file, or prepared data set (.h5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--topology", action="store_true", help="also holes, handles, cavities, boundary parts")
    parser.add_argument("--picture", type=str, default=None, help="draw the topology into this picture (mesh files)")
    parser.add_argument("--cache", action="store_true", help="keep what took long to compute beside the file")
    parser.add_argument("--step", type=int, default=-1, help=_STEP)
    parser.add_argument("--merge_duplicates", action="store_true", help="one node for all in one place (closes slits)")


def _info(args: "Namespace") -> None:
    if Path(args.file).suffix in (".h5", ".hdf5"):
        if args.topology or args.picture:
            raise InputError("`--topology` and `--picture` take a mesh file, not a data set")
        summary = _store_summary(args.file)
    else:
        from flare_connect.mesh import MeshCache, load_mesh

        mesh = load_mesh(args.file, step=args.step, merge_duplicates=args.merge_duplicates, allow_nonfinite=True)
        cache = MeshCache.beside(args.file) if args.cache else None
        summary = mesh.summary()
        if args.topology:
            summary |= _topology_summary(mesh, cache)
        if args.picture:
            from flare_connect.viz import plot_topology

            plot_topology(mesh, save=args.picture, cache=cache)
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        _print_tables(args.file, summary)


def _topology_summary(mesh: "Mesh", cache: "MeshCache | None") -> dict[str, Any]:
    from flare_connect.mesh import local_thickness

    found = mesh.topology
    thickness = cache(local_thickness, mesh) if cache else local_thickness(mesh)
    parts = mesh.boundary_component
    sizes = {f"part {i}": int((parts == i).sum()) for i in range(min(int(parts.max()) + 1, 20))}
    return {
        "betti_numbers": dict(zip(("parts", "loops", "cavities"), found.betti, strict=True)),
        "euler_characteristic": found.euler,
        "genus": found.genus,
        "boundary_parts": {"count": found.num_boundary_components, "nodes": sizes},
        "local_thickness": {"min": float(thickness.min()), "median": float(thickness.median())},
        "cells_sharing_a_facet": int(mesh.dual_edges.shape[1]),
    }


def _store_summary(path: str) -> dict[str, Any]:
    from flare_connect.mesh import MeshStore

    with MeshStore(path) as store:
        first = store[0].summary()
        return {
            "meshes": len(store),
            "nodes per mesh": f"{store.num_nodes.min()} to {store.num_nodes.max()}",
            "splits": {name: len(indices) for name, indices in store.splits.items()},
            "generator": f"{store.attrs['generator']}, version {store.attrs['generator_version']}",
            "seed": store.attrs["seed"],
            "first mesh": first,
        }


def _print_tables(title: str, summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in summary.items():
        if key != "first mesh" and value not in ({}, []):
            table.add_row(key.replace("_", " "), _cell(value))
    # A pipe has no width of its own; 100 columns keep one row on one line.
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    if "first mesh" in summary:
        _print_tables("first mesh", summary["first mesh"])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_cell(inner).replace(chr(10), '; ')}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_cell, value)) + "]"
    return str(value)


# A data set of `flare_datasets` → class of its settings, where they stand among the arguments, what it is.
_DATASETS = {
    "unit-cells": ("UnitCellConfig", "cells", "periodic cells with holes, under a macroscopic strain"),
    "slit-plates": ("SlitPlateConfig", "plates", "plates with thin slits, in heat flow or in plane strain"),
}


def _generate_arguments(parser: "ArgumentParser") -> None:
    # A parser of its own for each: none takes the settings of another.
    chosen = parser.add_subcommands(dest="dataset", title="data sets", metavar="DATASET", help="which one")
    for name, (config, group, summary) in _DATASETS.items():
        inner = type(parser)(description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=parser.formatter_class)
        _dataset_arguments(inner, name)
        inner.add_class_arguments(getattr(_dataset(name), config), group)
        chosen.add_subcommand(name, inner, help=summary)


def _dataset_arguments(parser: "ArgumentParser", name: str) -> None:
    parser.add_argument("--out", type=str, required=True, help="file to write (.h5)")
    parser.add_argument("--workers", type=int, default=None, help="processes; all cores by default")
    parser.add_argument("--overwrite", action="store_true", help="replace a file made with other settings")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--config", action="config", help="YAML file with these settings")
    # Settings files may say which data set they are for.
    parser.add_argument("--dataset", choices=[name], default=name, help=SUPPRESS)


def _generate(args: "Namespace") -> None:
    chosen = args[args.dataset]
    config = chosen[_DATASETS[args.dataset][1]]
    path = _dataset(args.dataset).generate(
        chosen.out, config, num_workers=chosen.workers, progress=not chosen.quiet, overwrite=chosen.overwrite
    )
    print(f"{path}: {config.num_samples} meshes")


def _dataset(name: str) -> Any:
    return import_module(f"flare_datasets.{name.replace('-', '_')}")


def _prepare_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("folder", type=str, help="folder of mesh files")
    parser.add_argument("--out", type=str, required=True, help="file to write (.h5)")
    parser.add_argument("--fields", type=str, nargs="+", required=True, help="fields to keep")
    parser.add_argument("--val_fraction", type=float, default=0.1, help="share of the files in the split 'val'")
    parser.add_argument("--test_fraction", type=float, default=0.2, help="share of the files in the split 'test'")
    parser.add_argument("--seed", type=int, default=0, help="of the random split")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _prepare(args: "Namespace") -> None:
    from flare_connect.mesh import MeshStore, prepare_meshes

    path = prepare_meshes(
        args.folder,
        args.out,
        fields=args.fields,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    with MeshStore(path) as store:
        print(f"{path}: " + ", ".join(f"{len(ids)} {name}" for name, ids in store.splits.items()))


def _train_arguments(parser: "ArgumentParser") -> None:
    from flare_connect.train.config import TrainConfig

    parser.add_argument("--config", action="config", help="YAML file with these settings")
    parser.add_class_arguments(TrainConfig, None)


def _train(args: "Namespace") -> None:
    from flare_connect.train import TrainConfig, fit

    result = fit(TrainConfig(**{f.name: args[f.name] for f in dataclasses.fields(TrainConfig)}))
    print(f"{result.folder}: relative L2 {result.best_error:.4f} on the validation split")


def _evaluate_arguments(parser: "ArgumentParser") -> None:
    _model_argument(parser, required=True)
    parser.add_argument("--data", type=str, required=True, help="prepared data set (.h5)")
    parser.add_argument("--split", type=str, default="test", help="which split")
    parser.add_argument("--json", type=str, default=None, help="also write the errors to this file")
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")


def _evaluate(args: "Namespace") -> None:
    from rich.console import Console
    from rich.table import Table

    from flare_connect.files import write_atomically
    from flare_connect.mesh import MeshStore
    from flare_connect.models import FlareConnect
    from flare_connect.train import evaluate

    model = FlareConnect.from_pretrained(args.model, device=_device(args.device))
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


def _predict_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file with the fields, sets and numbers that the model reads")
    _model_argument(parser, required=True)
    parser.add_argument("--out", type=str, required=True, help="file to write: .vtu for ParaView")
    parser.add_argument("--picture", type=str, default=None, help="also draw the first field to this file (.png)")
    parser.add_argument("--step", type=int, default=-1, help=_STEP)
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")


def _predict(args: "Namespace") -> None:
    from flare_connect.mesh import load_mesh
    from flare_connect.models import FlareConnect
    from flare_connect.viz import plot_field, save_fields

    mesh = load_mesh(args.file, step=args.step)
    model = FlareConnect.from_pretrained(args.model, device=_device(args.device))
    fields = model.predict(mesh)
    # The file may hold the true fields under the same names; both are kept.
    named = {f"{name}_predicted" if name in mesh.point_data else name: values for name, values in fields.items()}
    save_fields(mesh, named, args.out, units={name: model.config.units.get(name, "") for name in named})
    print(f"{args.out}: {', '.join(named)}")
    if args.picture:
        name = next(iter(fields))
        plot_field(mesh, fields[name], truth=mesh.point_data.get(name), name=name, save=args.picture)
        print(args.picture)


def _plot_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file, or prepared data set (.h5)")
    parser.add_argument("--out", type=str, required=True, help="picture to write (.png, .jpg, .tif, .webp, .pdf)")
    parser.add_argument("--field", type=str, default=None, help="point or cell field; the mesh itself by default")
    parser.add_argument("--truth", type=str, default=None, help="field to compare it with")
    parser.add_argument("--displacement", type=str, default=None, help="point field that deforms the mesh")
    parser.add_argument("--sample", type=int, default=0, help="which mesh of a data set")
    parser.add_argument("--step", type=int, default=-1, help=_STEP)
    _model_argument(parser, required=False, use="predict `--field` with this model, compare with the file: ")


def _plot(args: "Namespace") -> None:
    from flare_connect.viz import plot_field, plot_mesh

    mesh = _mesh_of(args.file, args.sample, args.step)
    if args.model:
        from flare_connect.models import FlareConnect

        fields = FlareConnect.from_pretrained(args.model).predict(mesh)
        name = args.field or next(iter(fields))
        if name not in fields:
            raise InputError(f"the model predicts {', '.join(fields)}, not {name!r}")
        plot_field(mesh, fields[name], truth=mesh.point_data.get(name), name=name, save=args.out)
    elif args.field:
        plot_field(mesh, args.field, truth=args.truth, displacement=args.displacement, save=args.out)
    else:
        plot_mesh(mesh, save=args.out)
    print(args.out)


def _mesh_of(file: str, sample: int, step: int) -> "Mesh":
    from flare_connect.mesh import MeshStore, load_mesh

    if Path(file).suffix in (".h5", ".hdf5"):
        with MeshStore(file) as store:
            return store[sample]
    return load_mesh(file, step=step)


def _model_argument(parser: "ArgumentParser", *, required: bool, use: str = "") -> None:
    from flare_connect.models import shipped_models

    known = ", ".join(shipped_models())
    told = f"{use}folder of a trained model, or the name of one that comes with the package: {known}"
    parser.add_argument("--model", type=str, required=required, help=told)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but there is no CUDA device here; use --device cpu")
    return torch.device(name)


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


COMMANDS = {
    "info": Command(
        summary="what a mesh file or a data set holds",
        details="Cells, fields, sets, components, boundary, quality; with --topology what no stretching changes.",
        arguments=_info_arguments,
        work=_info,
    ),
    "generate": Command(
        summary="make a data set with finite elements",
        details="Parallel, and resumable: run the same command again after an interruption.",
        arguments=_generate_arguments,
        work=_generate,
    ),
    "prepare": Command(
        summary="pack a folder of your own mesh files into a data set",
        details="Every file needs the fields named by --fields, on its nodes or on its cells.",
        arguments=_prepare_arguments,
        work=_prepare,
    ),
    "train": Command(
        summary="train a surrogate on a data set",
        details="Settings as flags or in a YAML file. Run the same command again to resume after an interruption.\n"
        "Example: flare-connect train --data.path cells.h5 --data.conditions '[macro_strain]' --output runs/cells",
        arguments=_train_arguments,
        work=_train,
    ),
    "evaluate": Command(
        summary="errors of a trained model on a split",
        details="Relative L2 of each field beside that of predicting the training mean, worst mesh, peak error.",
        arguments=_evaluate_arguments,
        work=_evaluate,
    ),
    "predict": Command(
        summary="fields on a mesh, as a file for ParaView",
        details="Example: flare-connect predict bracket.vtu --model runs/brackets --out out.vtu --picture stress.png",
        arguments=_predict_arguments,
        work=_predict,
    ),
    "plot": Command(
        summary="draw a mesh or a field on it",
        details="Example: flare-connect plot cells.h5 --sample 3 --model runs/cells --out stress.png",
        arguments=_plot_arguments,
        work=_plot,
    ),
    "demo": Command(
        summary="generate, train, predict, draw: the whole path in minutes",
        details="Writes data, a trained model and stress.png into one folder; prints its error and a shipped model's.",
        arguments=_demo_arguments,
        work=_demo,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
