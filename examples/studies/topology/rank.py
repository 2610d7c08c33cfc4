"""How the error falls with the number of latents that a trained model uses, and how many it needs.

    cd runs/studies/topology
    python …/examples/studies/topology/rank.py --data plates.h5 --models models/plates-*/seed0

Predicts with the first 4, 8, … latents (`predict(..., rank=m)`), up to all of each model, and asks `rank_for` how many
keep predictions of the validation split within each of `--tolerances` of those with all. Models trained with fewer
latents, or with ranks drawn at random, stand beside it. A row of `results/rank.json` is a model, a split and a rank, or
a tolerance and the rank that was chosen for it. Rows that are there are not made again.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).parent))

import jobs
import trained
from sets import SETS, StudySet
from tqdm import tqdm

from flare_connect.mesh import Mesh, MeshCache, MeshStore
from flare_connect.metrics import relative_l2

HERE = Path(__file__).parent
RANKS = (4, 8, 16, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class AtRank(trained.Case):
    """A model that uses some of its latents."""

    rank: int
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen(trained.Case):
    """A model that is to be as good as with all of them."""

    tolerance: float


def main(args: argparse.Namespace) -> None:
    models = trained.load(args.models, device := trained.device())
    study = checked(models, args)
    rows = trained.Rows(args.results / "rank.json", "python examples/studies/topology/rank.py", device)
    cache = MeshCache.beside(args.data)
    with MeshStore(args.data) as store:
        names = {called: split for split, called in study.splits.items()}
        for model in models:
            common = {"dataset": study.name, "model": model.name, "seed": model.seed, "weights": model.weights}
            for split in args.splits:
                indices = [int(i) for i in store.split(names[split])[: args.samples]]
                cases = [
                    AtRank(**common, split=split, num_meshes=len(indices), rank=rank)
                    for rank in sorted({*args.ranks, model.latents}) if rank <= model.latents
                ]  # fmt: skip
                if todo := [case for case in cases if rows.find(case) is None]:
                    meshes = (store[i] for i in tqdm(indices, desc=f"{model.name}, {split}", unit="mesh"))
                    errors = measured(model, meshes, [case.rank for case in todo], cache)
                    for case, found in zip(todo, errors, strict=True):
                        rows.put(case, model, found)
            near = [store[int(i)] for i in store.split("val")[: args.val_meshes]]
            for tolerance in tqdm(args.tolerances, desc=f"{model.name}, rank for a tolerance", unit="tolerance"):
                case = Chosen(**common, split="val", num_meshes=len(near), tolerance=tolerance)
                if rows.find(case) is None:
                    rank = model.model.rank_for(near, tolerance)
                    rows.put(case, model, {"rank": rank, **measured(model, near, [rank], cache)[0]})
    for split in args.splits:
        mine = [r for r in rows.rows if (r["dataset"], r["split"], r["tolerance"]) == (study.name, split, None)]
        print("\n" + trained.table(mine, "rank", lambda row: row["rel_l2"], f"{study.name}, {split}: rel_l2 at rank"))
    chosen = [r for r in rows.rows if r["dataset"] == study.name and r["tolerance"] is not None]
    print("\n" + trained.table(chosen, "tolerance", lambda row: row["rank"], "rank for a tolerance"))
    print("\n" + trained.table(chosen, "tolerance", lambda row: row["rel_l2"], "rel_l2 of val at that rank"))


def checked(models: list[trained.Trained], args: argparse.Namespace) -> StudySet:
    """The data set of all models, or a stop."""
    study = models[0].study
    for model in models:
        if model.study is not study:
            raise SystemExit(
                f"{model.name} is of {model.study.name}, {models[0].name} of {study.name}: give models of one data set"
            )
        if not model.latents:
            raise SystemExit(f"{model.name} has no attention, hence no latents to leave out")
    if unknown := [split for split in args.splits if split not in study.splits.values()]:
        raise SystemExit(f"{study.name} has no split {unknown[0]!r}; it has {', '.join(study.splits.values())}")
    return study


def measured(
    model: trained.Trained, meshes: Iterable[Mesh], ranks: list[int], cache: MeshCache
) -> list[dict[str, Any]]:
    """Errors at each rank, mean over meshes."""
    errors: list[list[dict[str, float]]] = [[] for _ in ranks]
    for mesh in meshes:
        graph = model.model.build_graph(mesh, cache=cache).to(model.model.device)
        for rank, found in zip(ranks, errors, strict=True):
            guess = trained.predict(model, graph, rank)
            found.append({"rel_l2": relative_l2(guess, mesh.point_data[model.study.measured])})
    return [jobs.means(found) for found in errors]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    splits = list(dict.fromkeys(called for study in SETS.values() for called in study.splits.values()))
    parser.add_argument("--data", type=Path, required=True, help="the file that `run.py` generated")
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of models trained on it")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--splits", nargs="+", default=["id"], choices=splits, help="as tables call them")
    parser.add_argument("--samples", type=int, default=50, help="the first so many of each split")
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS), help="latents to use, beside all")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.02, 0.05, 0.1], help="of `rank_for`")
    parser.add_argument("--val_meshes", type=int, default=10, help="the first so many of the split val, for `rank_for`")
    args = parser.parse_args()
    for name in ("samples", "val_meshes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")
    if min(args.ranks) < 1:
        parser.error(f"--ranks must be positive, got {args.ranks}")
    return args


if __name__ == "__main__":
    main(arguments())
