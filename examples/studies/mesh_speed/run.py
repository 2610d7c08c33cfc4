"""Speed of what a mesh tells, beside what people would use instead, in one run.

    python examples/studies/mesh_speed/run.py              # all of it: minutes on two CPU cores; a GPU is used if there
    python examples/studies/mesh_speed/run.py --quick      # small meshes: only to see it run

Writes `results/mesh_speed_cpu.json` or `…_gpu.json`. Each row is checked before it is timed. PyVista, meshio, pyamg and
pymetis are used where installed; a machine without them leaves their rows out.
"""

import argparse
import copy
import datetime
import itertools
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import diags
from scipy.sparse.linalg import splu
from scipy.spatial import Delaunay

import flare_connect as fc
from flare_connect.files import write_atomically
from flare_connect.mesh import anchors, diffusion_cost, geodesic_distance, load_mesh
from flare_connect.mesh.diffusion import DiffusionSystem

COMMAND = "python examples/studies/mesh_speed/run.py"
SCALES, LATENTS = (1.0, 60.0), 64


def main(quick: bool, cases: list[str], out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = json.loads(out.read_text()) if out.is_file() and not quick else []
    for case in cases:
        found = list(CASES[case](quick, device))
        rows = [row for row in rows if row["case"] not in {row["case"] for row in found}] + found
        write_atomically(out, json.dumps(rows, indent=1, sort_keys=True).encode() + b"\n")
    print(out)


def perforated_cell(num_nodes: int) -> fc.Mesh:
    """A unit square with twelve holes, about `num_nodes` nodes, triangles of about one size."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(*2 * [np.linspace(1 / 8, 7 / 8, 4)]), -1).reshape(-1, 2)[rng.permutation(16)[:12]]
    radii = rng.uniform(0.05, 0.1, len(centres))
    free = 1 - np.pi * (radii**2).sum()
    n = round((num_nodes / free) ** 0.5)
    x = np.stack(np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij"), -1).reshape(-1, 2)
    inner = ((x > 0) & (x < 1)).all(1)
    x = x + inner[:, None] * rng.uniform(-0.25, 0.25, x.shape) / n
    away = np.linalg.norm(x[:, None] - centres, axis=2) - radii
    rims = [
        c + r * np.stack([np.cos(a), np.sin(a)], 1)
        for c, r in zip(centres, radii, strict=True)
        for a in [np.linspace(0, 2 * np.pi, max(12, round(2 * np.pi * r * n)), endpoint=False)]
    ]
    points = np.concatenate([x[(away > 0.4 / n).all(1)], *rims])
    cells = Delaunay(points).simplices
    middle = points[cells].mean(1)
    return fc.Mesh.from_arrays(
        points, {"triangle": cells[(np.linalg.norm(middle[:, None] - centres, axis=2) > radii).all(1)]}
    )


def box(num_nodes: int) -> fc.Mesh:
    """A box of tetrahedra of uneven shape; nodes and cells are numbered at random, as no mesher would be so kind."""
    n = round(num_nodes ** (1 / 3)) - 1
    rng = np.random.default_rng(0)
    x = np.stack(np.meshgrid(*3 * [np.arange(n + 1.0)], indexing="ij"), -1).reshape(-1, 3)
    inner = ((x > 0) & (x < n)).all(1)
    x = (x + inner[:, None] * rng.uniform(-0.15, 0.15, x.shape)) / n
    base = np.stack(np.meshgrid(*3 * [np.arange(n)], indexing="ij"), -1).reshape(-1, 3) @ [(n + 1) ** 2, n + 1, 1]
    steps = np.array([(n + 1) ** 2, n + 1, 1])
    paths = [np.cumsum([0, *steps[list(order)]]) for order in itertools.permutations(range(3))]
    cells = (base[:, None, None] + np.array(paths)).reshape(-1, 4)
    order, number = rng.permutation(len(x)), np.empty(len(x), dtype=np.int64)
    number[order] = np.arange(len(x))
    return fc.Mesh.from_arrays(x[order], {"tetra": number[cells[rng.permutation(len(cells))]]})


def topology(quick: bool, device: torch.device) -> Iterator[dict]:
    """Edges, boundary and components of a million tetrahedra."""
    mesh = box(3_000 if quick else 171_000)

    def ours() -> fc.Mesh:
        bare = fc.Mesh.from_arrays(mesh.pos, mesh.cells)
        _ = bare.edge_index, bare.boundary_facets, bare.component
        return bare

    sizes = {"N": mesh.num_nodes, "cells": mesh.num_cells}
    found = ours()
    check(found.num_components == 1)
    if find_spec("pyvista"):
        grid = mesh.to_pyvista()

        def peer() -> tuple[int, int, int]:
            edges, surface = grid.extract_all_edges(), grid.extract_surface(algorithm="dataset_surface")
            return edges.n_cells, surface.n_cells, len(np.unique(grid.connectivity()["RegionId"]))

        check(peer() == (found.num_edges // 2, len(found.boundary_facets["triangle"]), 1))
        yield row("topology", "pyvista", peer, torch.device("cpu"), 1 if quick else 3, **sizes)
    yield row("topology", "ours", ours, torch.device("cpu"), 1 if quick else 5, **sizes)
    yield row("betti", "ours", lambda: ours().topology, torch.device("cpu"), 1 if quick else 3, **sizes)
    keys = np.random.default_rng(0).integers(0, 2**62, 6 * mesh.num_cells)
    yield row("topology", "one sort of the edges", lambda: np.sort(keys), torch.device("cpu"), 3, **sizes)


def diffusion(quick: bool, device: torch.device) -> Iterator[dict]:
    """Anchors, and two diffusion costs to each, from a bare mesh."""
    cases = [("cell", 10_000), ("box", 50_000)] + [("box", 1_000_000)] * (device.type == "cuda")
    for shape, count in [("cell", 1_000), ("box", 1_000)] if quick else cases:
        mesh = perforated_cell(count) if shape == "cell" else box(count)
        sizes = {"N": mesh.num_nodes, "cells": mesh.num_cells, "M": LATENTS, "S": len(SCALES), "shape": shape}
        at, _ = anchors(mesh, LATENTS)
        repeats = 1 if quick else 3
        if count <= 50_000:
            truth = diffusion_cost(mesh, at, SCALES, solver="direct")
            found = diffusion_cost(mesh, at, SCALES, device=device).cpu()
            near = truth < 15
            check(float((found[near] - truth[near]).abs().max()) < 1e-4)
        there = fc.Mesh.from_arrays(mesh.pos, mesh.cells).to(device)

        def bare(there: fc.Mesh = there) -> torch.Tensor:
            there = copy.copy(there)
            there.pos = there.pos.clone()  # what the mesh has derived is forgotten
            return anchors(there, LATENTS)[0]

        def costs(there: fc.Mesh = there, at: torch.Tensor = at) -> torch.Tensor:
            return diffusion_cost(there, at, SCALES)

        yield row("anchors", "ours", bare, device, repeats, **sizes)
        yield row("diffusion", "ours", costs, device, repeats, **sizes)
        if device.type == "cpu":

            def plain(mesh: fc.Mesh = mesh, at: torch.Tensor = at) -> list[np.ndarray]:
                system = DiffusionSystem(mesh, "cpu")
                right = np.zeros((mesh.num_nodes, len(at)))
                right[at.numpy(), np.arange(len(at))] = 1
                solve = lambda kappa: splu(system.matrix(kappa / mesh.length_scale**2).tocsc()).solve(right)  # noqa: E731
                return [solve(kappa) for kappa in SCALES]

            if count <= 10_000:
                yield row("diffusion", "scipy splu, default order", plain, device, repeats, **sizes)
            if find_spec("pyamg") and not quick:
                yield row("diffusion", "pyamg, column by column", columns(mesh, at), device, 1, **sizes)


def columns(mesh: fc.Mesh, at: torch.Tensor) -> Callable[[], object]:
    """Pyamg's own conjugate gradients, one right-hand side after the other, scales on two threads."""
    import pyamg

    system = DiffusionSystem(mesh, "cpu")

    def solve(kappa: float) -> list[np.ndarray]:
        matrix = (system.matrix() + diags(kappa / mesh.length_scale**2 * system.volume.numpy())).tocsr()
        levels = pyamg.smoothed_aggregation_solver(matrix)
        unit = np.eye(1, mesh.num_nodes)[0]
        return [levels.solve(np.roll(unit, int(a)), tol=1e-10, accel="cg") for a in at]

    def work() -> object:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(solve, SCALES))

    return work


def geodesics(quick: bool, device: torch.device) -> Iterator[dict]:
    """Distances from each anchor, through cells and along edges."""
    for shape, count in [("cell", 1_000)] if quick else [("cell", 10_000), ("box", 10_000)]:
        mesh = perforated_cell(count) if shape == "cell" else box(count)
        at, _ = anchors(mesh, LATENTS)
        sizes = {"N": mesh.num_nodes, "cells": mesh.num_cells, "M": LATENTS, "shape": shape}
        if shape == "box":
            exact = torch.cdist(mesh.pos[at], mesh.pos)
            check(float((geodesic_distance(mesh, at, device=device).cpu() - exact).abs().max()) < 1e-5)
        work = lambda mesh=mesh, at=at: geodesic_distance(mesh, at, device=device)  # noqa: E731
        yield row("geodesics", "ours, through cells", work, device, 1 if quick else 3, **sizes)
        work = lambda mesh=mesh, at=at: geodesic_distance(mesh, at, through="edges")  # noqa: E731
        yield row("geodesics", "ours, along edges", work, torch.device("cpu"), 1 if quick else 3, **sizes)


def reading(quick: bool, device: torch.device) -> Iterator[dict]:
    """Files of a million cells, read by us and by the two libraries that we build on."""
    if not (find_spec("pyvista") and find_spec("meshio")):
        return
    import meshio
    import pyvista

    mesh, small = box(3_000 if quick else 171_000), box(2_000 if quick else 20_000)
    for one in (mesh, small):
        one.point_data = {"temperature": one.pos[:, 0].clone(), "velocity": one.pos.clone()}
        one.cell_data = {"stress": {"tetra": torch.arange(float(one.num_cells))}}
    skin = fc.Mesh.from_arrays(mesh.pos, {"triangle": mesh.cells["tetra"][:, :3]})
    bare = fc.Mesh.from_arrays(small.pos, small.cells)
    # text takes the other libraries minutes at a million cells
    files = [("a.vtu", mesh), ("a.vtk", mesh), ("a.vtkhdf", mesh), ("a.msh", mesh), ("a.xdmf", mesh), ("a.stl", skin)]
    files += [("a.ply", skin), ("a.inp", bare), ("a.bdf", bare)]
    peers = {
        ".vtkhdf": "p",
        ".vtu": "pm",
        ".vtk": "pm",
        ".msh": "m",
        ".xdmf": "m",
        ".stl": "p",
        ".ply": "p",
        ".inp": "m",
        ".bdf": "m",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, what in files:
            path = Path(folder, name)
            if path.suffix in (".stl", ".ply"):
                what.to_pyvista().extract_surface(algorithm=None).save(path)  # binary
            else:
                what.save(path)
            sizes = {"N": what.num_nodes, "cells": what.num_cells, "format": path.suffix}
            check(load_mesh(path).num_cells == what.num_cells)
            repeats = 1 if quick else 5
            yield row("reading", "ours", lambda: load_mesh(path), torch.device("cpu"), repeats, **sizes)  # noqa: B023
            for impl, read, convert in (
                ("pyvista", pyvista.read, fc.Mesh.from_pyvista),
                ("meshio", meshio.read, fc.Mesh.from_meshio),
            ):
                if impl[0] not in peers[path.suffix]:
                    continue
                for what_for, work in (
                    ("", lambda: read(path)),  # noqa: B023
                    (", then a Mesh", lambda: convert(read(path))),  # noqa: B023
                ):
                    yield row("reading", impl + what_for, work, torch.device("cpu"), repeats, **sizes)


CASES = {"topology": topology, "diffusion": diffusion, "geodesics": geodesics, "reading": reading}


def row(case: str, impl: str, work: Callable[[], object], device: torch.device, repeats: int, **sizes: Any) -> dict:
    """Times of the work, after once without counting where it is short."""
    cuda = device.type == "cuda"
    if cuda or repeats > 1:
        work()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{case:>10} {impl:>26} {sizes}: {statistics.median(times):10.1f} ms", flush=True)
    return {
        "case": case, "impl": impl, **sizes, "device": device.type, "ms": statistics.median(times),
        "ms_min": min(times), "ms_max": max(times), "repeats": repeats, "seed": 0,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
        "machine": f"{name}, torch {torch.__version__}", "command": COMMAND, "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def check(right: bool) -> None:
    if not right:
        raise SystemExit("a result is wrong; no speed is reported")


def commit() -> str:
    try:
        return subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(results: Path) -> str:
    """All rows of the JSON files, in Markdown."""
    lines = ["| case | on | size | implementation | median ms |", "|---|---|---|---|---|"]
    for path in sorted(results.glob("*.json")):
        for found in json.loads(path.read_text()):
            size = f"{found['N']:,} nodes, {found['cells']:,} cells" + "".join(
                f", {found[key]}" for key in ("shape", "format") if key in found
            )
            on = found["machine"].split(",")[0] if found["device"] == "cuda" else "CPU of the GPU machine"
            on = "two CPU cores" if path.stem.endswith("cpu") else on
            lines.append(f"| {found['case']} | {on} | {size} | {found['impl']} | {found['ms']:,.0f} |")
    return "\n".join(lines)


def write_table(readme: Path) -> None:
    text = readme.read_text()
    start = text.index("| case | on |")
    readme.write_text(text[:start] + table(readme.parent / "results") + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small meshes, once")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    parser.add_argument("--table", action="store_true", help="only write the table in README.md anew")
    args = parser.parse_args()
    if args.table:
        write_table(Path(__file__).parent / "README.md")
        raise SystemExit
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    default = (
        Path("runs/studies/mesh_speed.json")
        if args.quick
        else (Path(__file__).parent / "results" / f"mesh_speed_{kind}.json")
    )
    path = args.out or default
    path.parent.mkdir(parents=True, exist_ok=True)
    main(args.quick, args.cases, path)
