"""`flare-connect info`: what a mesh file or a data set holds."""

import json
import sys
from typing import TYPE_CHECKING, Any

from flare_connect.errors import InputError

from .command import Command, is_data_set, step_argument

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from flare_connect.mesh import Mesh, MeshCache


def _info_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", type=str, help="mesh file, or prepared data set (.h5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--topology", action="store_true", help="also holes, handles, cavities, boundary parts")
    parser.add_argument("--picture", type=str, default=None, help="draw the topology into this picture (mesh files)")
    parser.add_argument("--cache", action="store_true", help="keep what took long to compute beside the file")
    step_argument(parser)
    parser.add_argument("--merge_duplicates", action="store_true", help="one node for all in one place (closes slits)")


def _info(args: "Namespace") -> None:
    if is_data_set(args.file):
        if args.topology or args.picture:
            raise InputError("`--topology` and `--picture` take a mesh file, not a data set")
        if args.step is not None:
            raise InputError("`--step` takes a mesh file, not a data set")
        summary = _store_summary(args.file)
    else:
        from flare_connect.mesh import MeshCache, load_mesh
        from flare_connect.viz.render import picture_path

        if args.picture is not None:
            picture_path(args.picture)
        step = -1 if args.step is None else args.step
        mesh = load_mesh(args.file, step=step, merge_duplicates=args.merge_duplicates, allow_nonfinite=True)
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


INFO = Command(
    summary="what a mesh file or a data set holds",
    details="Cells, fields, sets, components, boundary, quality; with --topology what no stretching changes.",
    arguments=_info_arguments,
    work=_info,
)
