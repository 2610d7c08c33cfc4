"""Graphs and what errors need, of every mesh, made once in all cores for all runs."""

import hashlib
import json
import math
import multiprocessing
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shelf
import torch
from contestants import OURS
from sets import StudySet
from shelf import Shelf
from torch_geometric.data import Data
from tqdm import tqdm

import flare_connect.mesh
import flare_connect.metrics
import flare_connect.models
from flare_connect.files import write_atomically
from flare_connect.mesh import MeshStore, anchor_costs
from flare_connect.metrics import MeshErrors
from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig
from flare_connect.models.boundary import num_harmonic_features
from flare_connect.models.features import build_graph, num_node_features

# Everything that any contestant reads is in the graph, but for the costs, of which each reads its own.
_ALL = replace(OURS, anchors="none")
_TOGETHER = 8  # graphs of a file
_open: dict[str, Any] = {}


def with_costs(graphs: list[Data], arch: Architecture) -> list[Data]:
    """The graphs with the costs that a model reads, and no others."""
    found = []
    for graph in graphs:
        values = graph.to_dict()
        costs = {key: values.pop(key) for key in list(values) if key.startswith("cost_")}
        if arch.anchors != "none":
            cost = costs[f"cost_{arch.anchors}"][:, :, : arch.num_latents]
            if arch.anchors == "diffusion" and arch.anchor_scales != OURS.anchor_scales:
                cost = cost[:, [OURS.anchor_scales.index(scale) for scale in arch.anchor_scales]]
            values["cost"] = cost
        found.append(Data(**values))
    return found


@dataclass(kw_only=True)
class Prepared:
    """A data set ready to be trained on: files, which processes share.

    Attributes:
        study: what it is.
        path: the file of meshes.
        shelves: split of the file → graphs, with harmonic features, and for tested splits what errors need.
        indices: split → samples of the file.
        config: what models read with the harmonic inputs.
    """

    study: StudySet
    path: Path
    shelves: dict[str, Shelf]
    indices: dict[str, list[int]]
    config: FlareConnectConfig

    def around(self, harmonic: bool) -> FlareConnectConfig:
        """What models read with or without the harmonic inputs."""
        return self.config if harmonic else replace(self.config, harmonic="")

    def view(self, split: str, harmonic: bool, device: torch.device) -> list[Data]:
        """The graphs of a split on a device."""
        # `build_graph` writes them before the fields that a model reads, which come last.
        last = num_node_features(self.config) - sum(self.config.inputs.values())
        width = 0 if harmonic else num_harmonic_features(self.config)
        return self.shelves[split].on(device, slice(last - width, last))

    def errors(self, split: str) -> list[MeshErrors]:
        """What errors need of each mesh of a tested split."""
        with MeshStore(self.path) as store:
            return self.shelves[split].errors(store, self.indices[split])

    def statistics(self, harmonic: bool, loads_apart: bool) -> dict[str, torch.Tensor]:
        """Of the training split: buffers of a model."""
        around = self.around(harmonic)
        around = replace(around, loads=around.loads if loads_apart else (), architecture=replace(OURS, anchors="none"))
        model = FlareConnect(around)
        model.fit_statistics(self.view("train", harmonic, torch.device("cpu")))
        return {name: value for name, value in model.state_dict().items() if not name.startswith("trunk.")}


def prepare(study: StudySet, path: Path, num_workers: int, architectures: list[Architecture]) -> Prepared:
    """Everything of a file that models of these architectures read, with a progress bar.

    It stays in a folder beside the file, for the next run with the same data, models and code; what is there of an
    interrupted one is taken as it is.
    """
    most: dict[str, int] = {}
    for arch in architectures:
        if arch.anchors != "none":
            most[arch.anchors] = max(most.get(arch.anchors, 0), arch.num_latents)
    with MeshStore(path) as store:
        splits = {name: [int(i) for i in store.split(name)] for name in ("train", "val", *study.splits)}
        config = config_of(study, store)
        known = {"config": config.to_dict(), "data": store.digest, "splits": splits, "code": _digest_of_code()}
    folder = path.with_name(f"{path.stem}-graphs")
    most = _made_for(folder, known, most)
    files = {
        name: [folder / f"{name}-{number:04}.safetensors" for number in range(math.ceil(len(indices) / _TOGETHER))]
        for name, indices in splits.items()
    }
    todo = [
        (file, splits[name][number * _TOGETHER : (number + 1) * _TOGETHER], name in study.splits)
        for name, each in files.items() for number, file in enumerate(each) if not file.is_file()
    ]  # fmt: skip
    _open.update(path=str(path), config=config, store=None, costs=most)
    if todo:
        with multiprocessing.get_context("fork").Pool(num_workers, initializer=_alone) as pool:
            bar = tqdm(total=sum(len(indices) for _, indices, _ in todo), desc=f"{study.name}: graphs", unit="mesh")
            for count in pool.imap_unordered(_make, todo):
                bar.update(count)
            bar.close()
    shelves = {name: Shelf(each) for name, each in files.items()}
    return Prepared(study=study, path=path, shelves=shelves, indices=splits, config=config)


def _made_for(folder: Path, known: dict[str, Any], costs: dict[str, int]) -> dict[str, int]:
    """Makes the folder, empty unless its graphs follow from what is known; for how many anchors these have costs.

    Args:
        folder: of the graphs.
        known: what they follow from.
        costs: kind → how many anchors are wanted at least.
    """
    state = folder / "known.json"
    try:
        held = json.loads(state.read_text())
    except (OSError, ValueError):
        held = {}
    wanted: dict[str, Any] = json.loads(json.dumps(known))  # as it comes back from a file
    there: dict[str, int] = held.get("costs", {})
    if held.get("known") == wanted and all(there.get(kind, 0) >= count for kind, count in costs.items()):
        return there
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_atomically(state, json.dumps({"known": known, "costs": costs}).encode())
    return costs


def _digest_of_code() -> str:
    """Of everything that features, costs and errors follow from."""
    found = hashlib.sha256()
    for module in (flare_connect.mesh, flare_connect.metrics, flare_connect.models):
        for file in sorted(Path(module.__path__[0]).rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()


def _alone() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def config_of(study: StudySet, store: MeshStore) -> FlareConnectConfig:
    """What models of a data set read and predict."""
    mesh = store[0]
    return FlareConnectConfig(
        dim=mesh.dim,
        outputs={study.output: mesh.point_data[study.output][0].numel()},
        inputs={name: mesh.point_data[name][0].numel() for name in study.inputs},
        conditions={name: mesh.global_data[name].numel() for name in study.conditions},
        directional=study.directional,
        boundary=study.boundary,
        harmonic=study.harmonic,
        loads=study.loads,
        architecture=_ALL,
    )


def _make(job: tuple[Path, list[int], bool]) -> int:
    """Writes a file of graphs; returns how many."""
    file, indices, tested = job
    if _open["store"] is None:
        _open["store"] = MeshStore(_open["path"])
    graphs, errors = [], []
    for index in indices:
        mesh = _open["store"][index]
        graph = build_graph(mesh, _open["config"], with_targets=True)
        for kind, count in _open["costs"].items():
            graph[f"cost_{kind}"] = anchor_costs(mesh, count, kind=kind, scales=OURS.anchor_scales)[1]
        graphs.append(graph)
        if tested:
            errors.append(MeshErrors.prepare(mesh))
    shelf.write(file, graphs, errors)
    return len(indices)
