"""The model that comes with the package on meshes that this library did not make.

    python examples/studies/shipped/elsewhere.py

Cells with round holes are meshed by Gmsh as its users would: by each of its algorithms in edges of one length, and with
edges that vary in ways that have nothing to do with holes. Finite elements on the same mesh are the truth. A row of
`results/elsewhere.json` is one way of meshing, the mean over all cells and strains.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import gmsh
import numpy as np
import torch
from tqdm import tqdm

import flare_connect as fc
from flare_connect.mesh import find_periodic_pairs
from flare_connect.metrics import relative_l2
from flare_datasets.unit_cells.elasticity import solve

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from rows import Row, provenance, write

HERE = Path(__file__).parent
ALGORITHMS = {
    "MeshAdapt": 1,
    "Delaunay": 5,
    "frontal Delaunay": 6,
    "frontal, for quadrilaterals": 8,
    "parallelograms": 9,
}
# Edge length at (x, y), without a thought to holes.
FIELDS = {
    "longer from left to right": "0.01 + 0.05 * x",
    "longer away from a corner": "0.008 + 0.1 * ((x - 0.9)^2 + (y - 0.1)^2)",
    "shorter along a line": "0.01 + 0.04 * abs(y - 0.5)",
    "shorter in one spot": "0.04 - 0.03 * exp(-30 * ((x - 0.2)^2 + (y - 0.9)^2))",
}
LENGTH = 0.02
STRAINS = ((0.01, 0.0, 0.0), (0.0, 0.01, 0.0), (0.0, 0.0, 0.01), (0.004, -0.006, 0.003))
Circle = tuple[float, float, float]


def main(args: argparse.Namespace) -> None:
    """Rows of all ways of meshing, written and shown."""
    args.results.mkdir(parents=True, exist_ok=True)
    model = fc.FlareConnect.from_pretrained("unit-cells")
    cells = draw(args.cells, np.random.default_rng(0))
    ways = {f"Gmsh, {name}": (number, str(LENGTH)) for name, number in ALGORITHMS.items()}
    ways |= {f"Gmsh, edges {name}": (6, field) for name, field in FIELDS.items()}
    gmsh.initialize()
    gmsh.option.setNumber("General.Terminal", 0)
    rows: list[Row] = []
    for name, (algorithm, field) in ways.items():
        errors, nodes = [], []
        for circles in tqdm(cells, desc=name, unit="cell", leave=False):
            mesh = meshed(circles, algorithm, field)
            nodes.append(mesh.num_nodes)
            pairs, elements = find_periodic_pairs(mesh).numpy(), mesh.cells["triangle"].numpy()
            for strain in STRAINS:
                mesh.global_data["macro_strain"] = torch.tensor(strain)
                truth = torch.from_numpy(solve(mesh.pos.numpy(), elements, pairs, strain).stress)
                errors.append(relative_l2(model.predict(mesh)["stress"].double(), truth))
        common = provenance("python examples/studies/shipped/elsewhere.py", dataset=name)
        found = {"model": "unit-cells", "num_meshes": len(cells), "num_nodes": [min(nodes), max(nodes)]}
        rows.append(common | found | {"rel_l2": statistics.mean(errors), "rel_l2_worst": max(errors)})
        told = f"relative L2 {rows[-1]['rel_l2']:.3f}, at most {max(errors):.3f}"
        print(f"{name}: {min(nodes):,} to {max(nodes):,} nodes, {told}")
    write(args.results / "elsewhere.json", rows)


def draw(count: int, rng: np.random.Generator) -> list[list[Circle]]:
    """Cells with one to four round holes that lie inside and keep their distance."""
    cells: list[list[Circle]] = []
    while len(cells) < count:
        circles: list[Circle] = []
        for _ in range(int(rng.integers(1, 5))):
            radius = float(rng.uniform(0.06, 0.18))
            x, y = rng.uniform(radius + 0.05, 0.95 - radius, 2)
            if all(np.hypot(x - u, y - v) > radius + r + 0.04 for u, v, r in circles):
                circles.append((float(x), float(y), radius))
        cells.append(circles)
    return cells


def meshed(circles: list[Circle], algorithm: int, field: str) -> fc.Mesh:
    """A cell, its opposite sides alike, the rims of its holes a set."""
    gmsh.clear()
    occ, mesh = gmsh.model.occ, gmsh.model.mesh
    solid, _ = occ.cut([(2, occ.addRectangle(0, 0, 0, 1, 1))], [(2, occ.addDisk(x, y, 0, r, r)) for x, y, r in circles])
    occ.synchronize()
    sides, holes = {}, []
    for _, tag in gmsh.model.getBoundary(solid, oriented=False):
        box = gmsh.model.getBoundingBox(1, tag)
        flat = [(axis, round(box[axis])) for axis in (0, 1) if box[axis + 3] - box[axis] < 1e-3]
        if flat:
            sides[flat[0]] = tag
        else:
            holes.append(tag)
    for axis in (0, 1):
        shift = np.eye(4)
        shift[axis, 3] = 1.0
        mesh.setPeriodic(1, [sides[axis, 1]], [sides[axis, 0]], shift.ravel().tolist())
    mesh.field.add("MathEval", 1)
    mesh.field.setString(1, "F", field)
    mesh.field.setAsBackgroundMesh(1)
    for option in ("ExtendFromBoundary", "FromPoints", "FromCurvature"):
        gmsh.option.setNumber(f"Mesh.MeshSize{option}", 0)
    gmsh.option.setNumber("Mesh.Algorithm", algorithm)
    mesh.generate(2)
    tags, pos, _ = mesh.getNodes()
    number = np.full(int(tags.max()) + 1, -1)
    number[tags] = np.arange(len(tags))
    (elements,) = mesh.getElements(2)[2]
    rims = np.concatenate([mesh.getNodes(1, tag, includeBoundary=True)[0] for tag in holes])
    return fc.Mesh.from_arrays(
        pos.reshape(-1, 3)[:, :2],
        {"triangle": number[elements].reshape(-1, 3)},
        sets={"holes": np.unique(number[rims])},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10, help="cells, each meshed in every way")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    given = parser.parse_args()
    if given.cells < 1:
        parser.error(f"--cells must be positive, got {given.cells}")
    main(given)
