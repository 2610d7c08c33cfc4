"""`flare-connect predict`, `rollout` and `plot`: fields on meshes."""

from typing import TYPE_CHECKING

from flare_connect.errors import InputError

from .command import STEP, Command, device_named, mesh_of, model_argument

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _predict_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file with the fields, sets and numbers that the model reads")
    model_argument(parser, required=True)
    parser.add_argument("--out", type=str, required=True, help="file to write: .vtu for ParaView")
    parser.add_argument("--picture", type=str, default=None, help="also draw the first field to this file (.png)")
    parser.add_argument("--step", type=int, default=-1, help=STEP)
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")


def _predict(args: "Namespace") -> None:
    from flare_connect.mesh import load_mesh
    from flare_connect.models import FlareConnect
    from flare_connect.viz import plot_field, save_fields

    mesh = load_mesh(args.file, step=args.step)
    model = FlareConnect.from_pretrained(args.model, device=device_named(args.device))
    fields = model.predict(mesh)
    # The file may hold the true fields under the same names; both are kept.
    named = {f"{name}_predicted" if name in mesh.point_data else name: values for name, values in fields.items()}
    save_fields(mesh, named, args.out, units={name: model.config.units.get(name, "") for name in named})
    print(f"{args.out}: {', '.join(named)}")
    if args.picture:
        name = next(iter(fields))
        plot_field(mesh, fields[name], truth=mesh.point_data.get(name), name=name, save=args.picture)
        print(args.picture)


def _rollout_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file with the first frame, or data set of series (.h5)")
    model_argument(parser, required=True)
    parser.add_argument("--steps", type=int, required=True, help="frames to predict")
    parser.add_argument("--out", type=str, required=True, help="collection to write: .pvd for ParaView")
    parser.add_argument("--every", type=int, default=1, help="keep one frame of so many")
    parser.add_argument("--sample", type=int, default=0, help="which series of a data set")
    parser.add_argument("--initial", type=int, default=1, help="frames of a series that are given")
    parser.add_argument("--step", type=int, default=-1, help=STEP)
    parser.add_argument("--device", type=str, default="auto", help="'auto', 'cpu' or 'cuda'")


def _rollout(args: "Namespace") -> None:
    from flare_connect.models import FlareRollout
    from flare_connect.viz import save_series

    mesh = mesh_of(args.file, args.sample, args.step)
    model = FlareRollout.from_pretrained(args.model, device=device_named(args.device))
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


def _plot_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file, or prepared data set (.h5)")
    parser.add_argument("--out", type=str, required=True, help="picture to write (.png, .jpg, .tif, .webp, .pdf)")
    parser.add_argument("--field", type=str, default=None, help="point or cell field; the mesh itself by default")
    parser.add_argument("--truth", type=str, default=None, help="field to compare it with")
    parser.add_argument("--displacement", type=str, default=None, help="point field that deforms the mesh")
    parser.add_argument("--sample", type=int, default=0, help="which mesh of a data set")
    parser.add_argument("--step", type=int, default=-1, help=STEP)
    model_argument(parser, required=False, use="predict `--field` with this model, compare with the file: ")


def _plot(args: "Namespace") -> None:
    from flare_connect.viz import plot_field, plot_mesh

    mesh = mesh_of(args.file, args.sample, args.step)
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
