"""`flare-connect predict`, `rollout` and `plot`: fields on meshes."""

from pathlib import Path
from typing import TYPE_CHECKING

from flare_connect.errors import InputError

from .command import (
    Command,
    check_folder,
    is_data_set,
    load_model,
    mesh_of,
    model_argument,
    nonfinite_argument,
    step_argument,
)
from .frames import frame_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonargparse import ArgumentParser, Namespace
    from torch import Tensor

    from flare_connect.mesh import Mesh
    from flare_connect.models import FlareConnect


def _predict_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file with the fields, sets and numbers that the model reads")
    model_argument(parser, required=True)
    parser.add_argument("--out", type=str, required=True, help="file to write: .vtu for ParaView")
    parser.add_argument("--picture", type=str, default=None, help="also draw the first field to this file (.png)")
    step_argument(parser)
    nonfinite_argument(parser)
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")


def _predict(args: "Namespace") -> None:
    from flare_connect.mesh import load_mesh
    from flare_connect.mesh.files.save import check_extension
    from flare_connect.models import FlareConnect
    from flare_connect.viz import plot_field, save_fields
    from flare_connect.viz.render import picture_path

    check_folder(args.out)
    check_extension(args.out)
    if args.picture is not None:
        picture_path(args.picture)
    step = -1 if args.step is None else args.step
    model = load_model(FlareConnect, args.model, args.device)
    mesh = load_mesh(args.file, step=step, allow_nonfinite=args.allow_nonfinite)
    fields = model.predict(mesh)
    _check_finite(mesh, fields)
    units = _units(model, fields)
    # The file may hold the true fields under the same names; both are kept.
    names = {name: f"{name}_predicted" if name in mesh.point_data else name for name in fields}
    named = {names[name]: values for name, values in fields.items()}
    save_fields(mesh, named, args.out, units={names[name]: unit for name, unit in units.items()})
    print(f"{args.out}: {', '.join(named)}")
    if args.picture is not None:
        name, truth = next(iter(fields)), _truth(mesh, next(iter(fields)))
        plot_field(mesh, fields[name], truth=truth, name=name, units=units[name], save=args.picture)
        print(args.picture)


def _units(model: "FlareConnect", fields: "Mapping[str, Tensor]") -> dict[str, str]:
    """Of each field, as in the data that the model was trained on; what the mesh says holds for its own fields."""
    return {name: model.config.units.get(name, "") for name in fields}


def _truth(mesh: "Mesh", name: str) -> "Tensor | None":
    """The field of the file to compare with; None if there is none, or where it is not a number everywhere."""
    truth = mesh.point_data.get(name)
    if truth is not None and not truth.isfinite().all():
        print(f"the {name!r} of the file holds NaN or infinite values: drawn without it")
        return None
    return truth


def _check_finite(mesh: "Mesh", fields: "Mapping[str, Tensor]") -> None:
    wrong = [name for name, values in fields.items() if not values.isfinite().all()]
    if wrong:
        read = {**mesh.point_data, **mesh.global_data}
        bad = ", ".join(repr(name) for name, values in read.items() if not values.isfinite().all()) or "none"
        raise InputError(
            f"the prediction of {wrong[0]!r} is NaN or infinite. Of what the mesh holds so is: {bad}; "
            "fill in those that the model reads"
        )


def _rollout_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file with the first frame, or data set of series (.h5)")
    model_argument(parser, required=True)
    parser.add_argument("--steps", type=int, required=True, help="frames to predict")
    parser.add_argument("--out", type=str, required=True, help="collection to write: .pvd for ParaView")
    parser.add_argument("--every", type=int, default=1, help="keep one frame of so many")
    parser.add_argument("--sample", type=int, default=0, help="which series of a data set")
    parser.add_argument("--initial", type=int, default=1, help="frames of a series that are given")
    step_argument(parser)
    nonfinite_argument(parser)
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")


def _rollout(args: "Namespace") -> None:
    from flare_connect.models import FlareRollout
    from flare_connect.viz import save_series

    _check_rollout(args)
    mesh = mesh_of(args.file, args.sample, args.step, allow_nonfinite=args.allow_nonfinite)
    model = load_model(FlareRollout, args.model, args.device)
    known = model.frames_of(mesh.point_data)
    if not 1 <= args.initial <= known.shape[1]:
        raise InputError(
            f"`--initial` must be between 1 and {known.shape[1]}, the frames there are, got {args.initial}"
        )
    given = model.split_fields(known[:, : args.initial])
    found = model.rollout(mesh, given, args.steps, every=args.every, progress=True)
    times = [args.initial - 1 + args.every * (1 + i) for i in range(args.steps // args.every)]
    path = save_series(mesh, found, args.out, times=times, units=model.config.units, progress=True)
    print(f"{path}: {', '.join(found)} at {len(times)} times")


def _check_rollout(args: "Namespace") -> None:
    """Wrong numbers and paths are errors before the work."""
    if args.steps < 1:
        raise InputError(f"`--steps` must be at least 1, got {args.steps}")
    if not 1 <= args.every <= args.steps:
        raise InputError(f"`--every` must be between 1 and `--steps` {args.steps}, got {args.every}: no frame is kept")
    if Path(args.out).suffix != ".pvd":
        raise InputError(f"`--out` is a collection of files: name it *.pvd, got {args.out!r}")
    check_folder(args.out)
    if args.step is not None and is_data_set(args.file):
        raise InputError("`--step` does nothing with a data set: `--initial` says how many frames are given")


def _plot_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file, or prepared data set (.h5)")
    parser.add_argument("--out", type=str, required=True, help="picture to write (.png, .jpg, .tif, .webp, .pdf)")
    parser.add_argument("--field", type=str, default=None, help="point or cell field; the mesh itself by default")
    parser.add_argument("--truth", type=str, default=None, help="field to compare it with")
    parser.add_argument("--displacement", type=str, default=None, help="point field that deforms the mesh")
    parser.add_argument("--sample", type=int, default=0, help="which mesh of a data set")
    step_argument(parser)
    nonfinite_argument(parser)
    model_argument(parser, required=False, use="predict `--field` with this model, compare with the file: ")


def _plot(args: "Namespace") -> None:
    from flare_connect.viz import plot_field, plot_mesh
    from flare_connect.viz.render import picture_path

    picture_path(args.out)
    mesh = mesh_of(args.file, args.sample, args.step, allow_nonfinite=args.allow_nonfinite)
    if args.model:
        from flare_connect.models import FlareConnect

        if args.step is not None and is_data_set(args.file):
            raise InputError("`--step` does nothing with `--model` and a data set: the model predicts single fields")
        model = load_model(FlareConnect, args.model)
        fields = model.predict(mesh)
        _check_finite(mesh, fields)
        name = args.field or next(iter(fields))
        if name not in fields:
            raise InputError(f"the model predicts {', '.join(fields)}, not {name!r}")
        units = _units(model, fields)[name]
        plot_field(mesh, fields[name], truth=_truth(mesh, name), name=name, units=units, save=args.out)
    elif args.field:
        frame = ""
        if is_data_set(args.file):
            mesh, frame = frame_of(mesh, (args.field, args.truth, args.displacement), args.step)
        title = frame if args.truth or not frame else f"{args.field}, {frame}"
        plot_field(
            mesh, args.field, truth=args.truth, displacement=args.displacement, title=title or None, save=args.out
        )
    else:
        if args.step is not None and is_data_set(args.file):
            raise InputError("`--step` does nothing without `--field`: the mesh of a data set is one for all frames")
        plot_mesh(mesh, save=args.out)
    print(args.out)


PREDICT = Command(
    summary="fields on a mesh, as a file for ParaView",
    details="Example: flare-connect predict bracket.vtu --model runs/brackets --out out.vtu --picture stress.png",
    arguments=_predict_arguments,
    work=_predict,
)


ROLLOUT = Command(
    summary="step fields on a mesh through time, as files for ParaView",
    details="Example: flare-connect rollout series.h5 --sample 3 --model runs/heat --steps 100 --out heat.pvd",
    arguments=_rollout_arguments,
    work=_rollout,
)


PLOT = Command(
    summary="draw a mesh or a field on it",
    details="Example: flare-connect plot cells.h5 --sample 3 --model runs/cells --out stress.png",
    arguments=_plot_arguments,
    work=_plot,
)
