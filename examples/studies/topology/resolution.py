"""Tested on the same plates and cells in larger and smaller elements, beyond the sizes of meshes trained on too.

    python examples/studies/topology/resolution.py --models runs/studies/topology/models/*/seed0

Draws the samples of the split "id" once and meshes them at each of `--nodes`. A row of `results/resolution.json` is a
model at one size: its errors there, and `ratio_to_trained`, that of `rel_l2` to the one at `--trained` nodes.
Stress at tips grows without limit as elements shrink, so the truth changes too: `truth_change` is how far it is,
carried to the nodes of the mesh of that size, from the truth there; `common_rel_l2` is the error at those nodes.
Rows that are there are not made again.
"""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).parent))

import jobs
import torch
import trained
from carrying import Carry
from sets import SETS, StudySet
from tqdm import tqdm

from flare_connect.mesh import MeshCache, MeshStore
from flare_connect.metrics import MeshErrors, relative_l2

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Case(trained.Case):
    """A model at one size."""

    nodes: int
    trained_nodes: int


def main(args: argparse.Namespace) -> None:
    models = trained.load(args.models, device := trained.device())
    rows = trained.Rows(args.results / "resolution.json", "python examples/studies/topology/resolution.py", device)
    sizes = [args.trained, *sorted({*args.nodes} - {args.trained})]  # the first is what the others are compared with
    for name in dict.fromkeys(model.study.name for model in models):
        study = SETS[name]
        stores = {nodes: MeshStore(generate(study, nodes, args)) for nodes in sizes}
        alike = drawn_alike(study, list(stores.values()))
        for nodes, store in stores.items():
            cases = {
                Case(
                    dataset=name, split="id", model=model.name, seed=model.seed, weights=model.weights,
                    num_meshes=len(alike), nodes=nodes, trained_nodes=args.trained,
                ): model
                for model in models if model.study is study
            }  # fmt: skip
            todo = {case: model for case, model in cases.items() if rows.find(case) is None}
            if todo:
                found = measured(list(todo.values()), store, stores[args.trained], alike)
                for (case, model), row in zip(todo.items(), found, strict=True):
                    known = rows.find(replace(case, nodes=args.trained)) or row
                    rows.put(case, model, row | {"ratio_to_trained": row["rel_l2"] / known["rel_l2"]})
        mine = [row for row in rows.rows if row["dataset"] == name and row["nodes"] in sizes]
        for metric in ("rel_l2", "common_rel_l2", "truth_change", "ratio_to_trained"):
            print("\n" + trained.table(mine, "nodes", lambda row, metric=metric: row[metric], f"{name}, {metric}"))


def generate(study: StudySet, nodes: int, args: argparse.Namespace) -> Path:
    """The file of one size; its geometry is that of the split "test" of the training data."""
    config = study.config(False)
    none = {f"num_{split}": 0 for split in config.splits}
    config = replace(config, **none | {"num_test": args.samples}, num_nodes=nodes, geometry_nodes=config.num_nodes)
    path = args.out / "resolution" / f"{study.name}-{nodes}.h5"
    return import_module(f"flare_datasets.{study.kind}").generate(path, config, num_workers=args.workers)


def drawn_alike(study: StudySet, stores: list[MeshStore]) -> list[int]:
    """Samples that are the same problem at every size: one that could not be meshed at some size was drawn anew."""

    def conditions(store: MeshStore, index: int) -> torch.Tensor:
        return torch.cat([store[index].global_data[name] for name in study.conditions])

    alike = [i for i in range(len(stores[0])) if len({tuple(conditions(s, i).tolist()) for s in stores}) == 1]
    if len(alike) < len(stores[0]):
        print(f"{study.name}: {len(stores[0]) - len(alike)} of {len(stores[0])} samples differ between sizes, left out")
    return alike


def measured(
    models: list[trained.Trained], store: MeshStore, reference: MeshStore, indices: list[int]
) -> list[dict[str, Any]]:
    """Errors of each model, mean over the meshes of one size."""
    cache, output = MeshCache.beside(store.path), models[0].study.measured
    errors: list[list[dict[str, float]]] = [[] for _ in models]
    for index in tqdm(indices, desc=store.path.stem, unit="mesh"):
        mesh, common = store[index], reference[index]
        known, carry, truth = MeshErrors.prepare(mesh), Carry(mesh, common), mesh.point_data[output]
        change = relative_l2(carry(truth), common.point_data[output])
        for model, found in zip(models, errors, strict=True):
            guess = trained.predict(model, model.model.build_graph(mesh, cache=cache).to(model.model.device))
            found.append(
                known.of(guess, truth)
                | {"common_rel_l2": relative_l2(carry(guess), carry(truth)), "truth_change": change}
            )
    return [jobs.means(found) for found in errors]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of trained models, of any set")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/topology"), help="folder for data")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--samples", type=int, default=20, help="of each set, at each size")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2_000, 5_000, 10_000, 40_000], help="sizes of meshes")
    parser.add_argument(
        "--trained",
        type=int,
        default=5_000,
        help="nodes that other sizes are compared with, about as many as the meshes trained on have",
    )
    parser.add_argument("--workers", type=int, default=None, help="processes that make meshes; all cores by default")
    args = parser.parse_args()
    if args.samples < 1:
        parser.error(f"--samples must be positive, got {args.samples}")
    return args


if __name__ == "__main__":
    main(arguments())
