"""One mesh as several models see it: truth and predictions in the same colours, their errors beneath.

    cd runs/studies/topology
    python …/examples/studies/topology/showing.py --models models/heat-ours/seed0 models/heat-FLARE/seed0 \
        --data heat.h5 --split serpentine --save serpentine.png

Takes the mesh of the split on which the error of the first model is the median, or the one that `--sample` names. The
first model is drawn last, beside what it is compared with.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).parent))

import tables
import torch
import trained
from sets import SETS
from tqdm import tqdm

from flare_connect.mesh import Mesh, MeshCache, MeshStore
from flare_connect.metrics import relative_l2
from flare_connect.viz import plot_worst


def main(args: argparse.Namespace) -> None:
    models = trained.load(args.models, trained.device())
    study = models[0].study
    for model in models:
        if model.study is not study:
            raise SystemExit(f"{model.name} is of {model.study.name}, {models[0].name} of {study.name}: give one set")
    split = next((split for split, called in study.splits.items() if called == args.split), None)
    if split is None:
        raise SystemExit(f"{study.name} has no split {args.split!r}; it has {', '.join(study.splits.values())}")
    cache, field = MeshCache.beside(args.data), study.measured
    with MeshStore(args.data) as store:
        indices = store.split(split).tolist()
        if args.sample is None:
            place = median(models[0], store, indices, cache)
        elif (place := args.sample) >= len(indices):
            raise SystemExit(f"--sample must be below {len(indices)}, the meshes of {args.split!r}, got {place}")
        mesh = store[indices[place]]
    guesses = {tables.called(model.name, study.name): predicted(model, mesh, cache) for model in reversed(models)}
    for name, guess in guesses.items():
        print(f"{args.split} {place}, {name}: {relative_l2(guess, mesh.point_data[field]):.4f}")
    print(plot_worst(mesh, field, guesses, name=field.replace("_", " "), clim="robust", save=args.save))


def median(model: trained.Trained, store: MeshStore, indices: list[int], cache: MeshCache) -> int:
    """Place in the split of the mesh in the middle by the error of a model; of two, the worse."""
    field = model.study.measured
    errors = []
    for index in tqdm(indices, desc=model.name, unit="mesh"):
        mesh = store[index]
        errors.append(relative_l2(predicted(model, mesh, cache), mesh.point_data[field]))
    return sorted(range(len(errors)), key=errors.__getitem__)[len(errors) // 2]


def predicted(model: trained.Trained, mesh: Mesh, cache: MeshCache) -> torch.Tensor:
    """What errors are of, `[N]`."""
    return trained.predict(model, model.model.build_graph(mesh, cache=cache).to(model.model.device))


def sample(text: str) -> int | None:
    """A place in the split; None for the median."""
    if text != "median" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'must be a number from 0 or "median", got {text!r}')
    return None if text == "median" else int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    splits = list(dict.fromkeys(called for study in SETS.values() for called in study.splits.values()))
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of models, ours first")
    parser.add_argument("--data", type=Path, required=True, help="the file that `run.py` generated")
    parser.add_argument("--split", choices=splits, default="id", help="as tables call it")
    parser.add_argument("--sample", type=sample, default="median", help='place in the split, from 0, or "median"')
    parser.add_argument("--save", type=Path, required=True, help="the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
