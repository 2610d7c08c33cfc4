"""`flare-connect generate-pdebench` and `prepare-pdebench`: files of PDEBench."""

import dataclasses
from importlib import import_module
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


def opened(path: str, args: "Namespace") -> Any:
    """A file with its strides."""
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
    from flare_datasets.pdebench import prepare_pdebench

    if Path(args.out).exists() and not args.overwrite:
        raise InputError(f"{args.out} exists: choose another name, or add --overwrite")
    with opened(args.file, args) as file:
        splits = prepare_pdebench(file, args.out, val_fraction=args.val_fraction)
        fields = ",".join(file.channels)
    print(f"{args.out}: " + ", ".join(f"{len(ids)} {name}" for name, ids in splits.items()) + f"; fields [{fields}]")


# A family of `flare_datasets.pdebench` → where its settings are, their class, what it is.
_FAMILIES = {
    "advection": ("advection", "AdvectionConfig", "waves that travel round a circle"),
    "burgers": ("burgers", "BurgersConfig", "waves that steepen into shocks, round a circle"),
    "reaction_diffusion": ("reaction_diffusion", "ReactionDiffusionConfig", "growth that spreads, round a circle"),
    "diffusion_sorption": ("diffusion_sorption", "DiffusionSorptionConfig", "a substance that seeps into a medium"),
    "compressible_1d": ("compressible_1d", "CompressibleConfig", "a viscous gas in one dimension"),
    "darcy": ("darcy", "DarcyConfig", "steady flow through two materials"),
    "diffusion_reaction": ("diffusion_reaction", "DiffusionReactionConfig", "two species that form patterns"),
    "shallow_water": ("shallow_water", "ShallowWaterConfig", "a round column of water that collapses"),
    "incompressible": ("incompressible", "IncompressibleConfig", "driven flow in a box, and what it carries"),
}


def _generate_arguments(parser: "ArgumentParser") -> None:
    # A parser of its own for each: none takes the settings of another.
    chosen = parser.add_subcommands(dest="family", title="families", metavar="FAMILY", help="which one")
    for name, (module, config, summary) in _FAMILIES.items():
        inner = type(parser)(description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=parser.formatter_class)
        inner.add_argument("--out", type=str, required=True, help="file to write, best under its published name")
        inner.add_argument("--samples", type=int, required=True, help="how many")
        inner.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")
        inner.add_argument("--batch_size", type=int, default=None, help="samples solved at once")
        inner.add_argument("--overwrite", action="store_true", help="replace a file made with other settings")
        inner.add_argument("--quiet", action="store_true", help="no progress bar")
        inner.add_argument("--config", action="config", help="YAML file with these settings")
        inner.add_class_arguments(_config_class(module, config), None, skip={"num_samples"})
        chosen.add_subcommand(name, inner, help=summary)


def _generate(args: "Namespace") -> None:
    from flare_datasets.pdebench import open_pdebench
    from flare_datasets.pdebench.solvers import one_d_generation, two_d_generation

    chosen, (module, name, _) = args[args.family], _FAMILIES[args.family]
    kind = _config_class(module, name)
    given = {f.name: chosen[f.name] for f in dataclasses.fields(kind) if f.name != "num_samples"}
    config = kind(num_samples=chosen.samples, **given)
    _check_name(chosen.out, config)
    generate = one_d_generation.generate if hasattr(config, "num_points") else two_d_generation.generate
    sizes = {} if chosen.batch_size is None else {"batch_size": chosen.batch_size}
    path = generate(
        chosen.out, config, device=str(device_named(chosen.device)), progress=not chosen.quiet,
        overwrite=chosen.overwrite, **sizes,
    )  # fmt: skip
    with open_pdebench(path, pde=args.family) as file:
        space, fields = " × ".join(map(str, file.shape)), ", ".join(file.channels)
        print(f"{path}: {len(file)} samples of {fields} at {space} points, {file.num_frames} frames")


def _check_name(out: str, config: Any) -> None:
    """What a reader finds in a file's name only, or finds there as well, must be true."""
    from flare_datasets.pdebench.names import boundary_in_name

    folder = Path(out).parent
    if not folder.is_dir():
        raise InputError(f"cannot write {out!r}: the folder {str(folder)!r} does not exist")
    wanted = getattr(config, "boundary", None) if config.pde == "compressible_1d" else None
    if wanted is not None and boundary_in_name(out) != wanted:
        raise InputError(
            f"`--out` must have {wanted!r} between underscores, since files of compressible flow tell their boundary "
            f"by name only: 1D_CFD_Rand_Eta0.01_Zeta0.01_{wanted}_Train.hdf5, for example; got {Path(out).name!r}"
        )


def _config_class(module: str, name: str) -> Any:
    return getattr(import_module(f"flare_datasets.pdebench.solvers.{module}"), name)


GENERATE_PDEBENCH = Command(
    summary="fill a file of PDEBench with solvers of its equations",
    details="The layout is that of the published files. Run the same command again after an interruption.\n"
    "Example: flare-connect generate-pdebench burgers --nu 0.01 --samples 1000 --out 1D_Burgers_Sols_Nu0.01.hdf5",
    arguments=_generate_arguments,
    work=_generate,
)


PREPARE_PDEBENCH = Command(
    summary="pack a file of PDEBench into a data set of series",
    details="Example: flare-connect prepare-pdebench 1D_Burgers_Sols_Nu0.01.hdf5 --reduced_resolution 4 "
    "--reduced_resolution_t 5 --out burgers.h5",
    arguments=_prepare_arguments,
    work=_prepare,
)
