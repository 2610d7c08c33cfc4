"""`flare-connect generate` and `prepare`: data sets."""

from argparse import SUPPRESS
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .command import Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


# A data set of `flare_datasets` → class of its settings, where they stand among the arguments, what it is.
_DATASETS = {
    "unit-cells": ("UnitCellConfig", "cells", "periodic cells with holes, under a macroscopic strain"),
    "slit-plates": ("SlitPlateConfig", "plates", "plates with thin slits, in heat flow or in plane strain"),
    "holed-channels": ("HoledChannelConfig", "channels", "flow through channels with holes, over time"),
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
    parser.add_argument("--fields", type=str, nargs="+", required=True, help="fields to keep: a b, or '[a,b]'")
    parser.add_argument("--val_fraction", type=float, default=0.1, help="share of the files in the split 'val'")
    parser.add_argument("--test_fraction", type=float, default=0.2, help="share of the files in the split 'test'")
    parser.add_argument("--seed", type=int, default=0, help="of the random split")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _names(given: Sequence[str]) -> list[str]:
    """Fields, as words or as a list in brackets, which is how other commands take them."""
    whole = " ".join(given).strip()
    if not (whole.startswith("[") and whole.endswith("]")):
        return list(given)
    return [name.strip().strip("'\"") for name in whole[1:-1].split(",") if name.strip()]


def _prepare(args: "Namespace") -> None:
    from flare_connect.mesh import MeshStore, prepare_meshes

    path = prepare_meshes(
        args.folder,
        args.out,
        fields=_names(args.fields),
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    with MeshStore(path) as store:
        print(f"{path}: " + ", ".join(f"{len(ids)} {name}" for name, ids in store.splits.items()))


GENERATE = Command(
    summary="make a data set with finite elements",
    details="Parallel, and resumable: run the same command again after an interruption.",
    arguments=_generate_arguments,
    work=_generate,
)


PREPARE = Command(
    summary="pack a folder of your own mesh files into a data set",
    details="Every file needs the fields named by --fields, on its nodes or on its cells.",
    arguments=_prepare_arguments,
    work=_prepare,
)
