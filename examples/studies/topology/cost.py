"""What a mesh costs: getting it ready, a prediction, a step of training, memory; ours beside plain FLARE and the peers.

    python examples/studies/topology/cost.py                       # plates of 2k to 40k nodes
    python examples/studies/topology/cost.py --sets heat --nodes 2000 5000 --models ours FLARE

Weights are random: they cost what trained ones do. Getting ready is everything between a mesh from a file and the
first layer, in one thread and with nothing kept from before. A prediction is of one mesh, as a user would ask for it;
on a GPU also as a CUDA graph of what follows once the mesh is laid out. A step is that of `training.py`, with as many
meshes as have `--step_nodes` nodes together. A row of `results/cost.json` is a model at one size on one machine; rows
that are there are not made again.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).parent))

import contestants
import jobs
import measure
import preparing
import resolution
import torch
import training
from sets import SETS, StudySet
from torch_geometric.data import Data
from tqdm import tqdm

from flare_connect.mesh import MeshStore
from flare_connect.models import FlareConnect

HERE = Path(__file__).parent
COMMAND = "python examples/studies/topology/cost.py"
Row = dict[str, Any]


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    results = jobs.Results(args.results / "cost.json")
    common = measure.provenance(COMMAND, device)
    for name in args.sets:
        study = SETS[name]
        for nodes in args.nodes:
            todo = [model for model in args.models if not _known(results, name, nodes, model, common["machine"])]
            if not todo:
                continue
            with MeshStore(resolution.generate(study, nodes, args)) as store:
                around = preparing.config_of(study, store)
                case = {"dataset": name, "nodes": nodes, "num_nodes": round(float(store.num_nodes.mean()))}
                for model in tqdm(todo, desc=f"{name}, {nodes} nodes", unit="model"):
                    found = measured(contestants.make(model, around), store, device, args)
                    results.add([common | case | {"model": model} | found])
        print(table([row for row in results.rows if row["machine"] == common["machine"]], study))


def measured(model: FlareConnect, store: MeshStore, device: torch.device, args: argparse.Namespace) -> Row:
    """Seconds and memory of a model on meshes of one size."""
    graphs, ready = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for i in range(len(store)):
        mesh = store[i]  # read anew, since a mesh remembers what was derived from it
        start = time.perf_counter()
        graphs.append(model.build_graph(mesh, with_targets=True))
        ready.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    model.fit_statistics(graphs)
    model.to(device).eval()
    graphs = [graph.to(device) for graph in graphs]
    graph = graphs[0]
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        row = _timed("predict", lambda: model(graph), device, args.seconds)
        if device.type == "cuda":
            row |= _timed("predict_captured", measure.captured(laid_out(model, graph)), device, args.seconds)
    together = max(1, round(args.step_nodes / float(store.num_nodes.mean())))
    batch: list[Data] = (graphs * together)[:together]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = training.step_time(model, batch, seconds=args.seconds, batch=together)
    return row | step | {
        "params": contestants.parameters(model), "step_meshes": together, "prepare_ms": 1e3 * statistics.median(ready),
    }  # fmt: skip


def laid_out(model: FlareConnect, graph: Data) -> Callable[[], object]:
    """A prediction without what belongs to the mesh alone: a CUDA graph can fetch no number from the host."""
    inputs = training.Batch(model, [graph]).inputs
    return lambda: model.trunk(**inputs)


def _timed(what: str, work: Any, device: torch.device, seconds: float) -> Row:
    timing = measure.timed(work, device, 50, seconds)
    return {f"{what}_ms": statistics.median(timing.times), f"{what}_peak_mib": timing.peak_mib}


def _known(results: jobs.Results, name: str, nodes: int, model: str, machine: str) -> bool:
    case = {"dataset": name, "nodes": nodes, "model": model, "machine": machine}
    return any(all(row.get(key) == value for key, value in case.items()) for row in results.rows)


def table(rows: list[Row], study: StudySet) -> str:
    """A line for each model at each size."""
    columns = {
        "prepare_ms": "ready, ms", "predict_ms": "prediction, ms", "predict_captured_ms": "captured, ms",
        "step_ms": "step, ms", "gpu_peak_mib": "step, MiB",
    }  # fmt: skip
    rows = [row for row in rows if row["dataset"] == study.name]
    there = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in rows)}
    lines = ["| nodes | model | " + " | ".join(there.values()) + " |", "|---" * (len(there) + 2) + "|"]
    for row in sorted(rows, key=lambda row: row["nodes"]):
        cells = [f"{row[key]:.1f}" if row.get(key) is not None else "–" for key in there]
        lines.append(f"| {row['nodes']} | {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["plates"], help="which data sets")
    parser.add_argument(
        "--models", nargs="+", choices=contestants.NAMES, default=["ours", "FLARE"], help="which models"
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[2_000, 5_000, 10_000, 40_000], help="sizes of meshes")
    parser.add_argument("--samples", type=int, default=5, help="meshes of each size")
    parser.add_argument("--step_nodes", type=int, default=40_000, help="of all meshes of a training step")
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure each time for")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/topology"), help="folder for data")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--workers", type=int, default=None, help="processes that make meshes; all cores by default")
    args = parser.parse_args()
    args.trained = 5_000
    for name in ("samples", "seconds", "step_nodes"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    main(arguments())
