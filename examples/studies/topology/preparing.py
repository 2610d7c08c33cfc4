"""Graphs and what errors need, of every mesh, made once in all cores and shared by all runs."""

import json
import multiprocessing
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from contestants import OURS
from sets import StudySet
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from flare_connect.files import replacing
from flare_connect.mesh import MeshStore, anchor_costs
from flare_connect.metrics import MeshErrors
from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig
from flare_connect.models.boundary import num_harmonic_features
from flare_connect.models.features import MeshGraph, build_graph, num_node_features

# Everything that any contestant reads is in the graph, but for the costs, of which each reads its own.
_ALL = replace(OURS, anchors="none", coarse_rounds=1)
_open: dict[str, Any] = {}


class Packed:
    """Graphs side by side, a tensor for each attribute: few enough for processes to share.

    Args:
        tensors: attribute → its values in all graphs.
        sizes: attribute → how many of them each graph has.
        numbers: attribute that is a number → that of each graph.
    """

    def __init__(self, tensors: dict[str, Tensor], sizes: dict[str, list[int]], numbers: dict[str, list[int]]) -> None:
        self.tensors = {key: value.share_memory_() for key, value in tensors.items()}
        self.sizes, self.numbers = sizes, numbers

    @classmethod
    def of(cls, graphs: list[dict[str, Any]]) -> "Packed":
        """From the attributes of each graph."""
        arrays = {key for key, value in graphs[0].items() if isinstance(value, np.ndarray)}
        return cls(
            {key: torch.from_numpy(np.concatenate([g[key] for g in graphs], _axis(key))) for key in arrays},
            {key: [g[key].shape[_axis(key)] for g in graphs] for key in arrays},
            {key: [g[key] for g in graphs] for key, value in graphs[0].items() if isinstance(value, int)},
        )

    def __len__(self) -> int:
        return len(self.sizes["x"])

    def on(self, device: torch.device, without: slice) -> list[Data]:
        """The graphs on a device, some of their features left out."""
        parts = {}
        for key, whole in self.tensors.items():
            if key == "x":
                kept = torch.ones(whole.shape[1], dtype=torch.bool)
                kept[without] = False
                whole = whole[:, kept]
            parts[key] = whole.to(device).split(self.sizes[key], dim=_axis(key))
        keys = [*parts, *self.numbers]
        return [
            MeshGraph(**dict(zip(keys, values, strict=True)))
            for values in zip(*parts.values(), *self.numbers.values(), strict=True)
        ]


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
        found.append(MeshGraph(**values))
    return found


def _axis(key: str) -> int:
    return 1 if key in ("edge_index", "coarse_edges") else 0


@dataclass(kw_only=True)
class Prepared:
    """A data set in memory, which processes share.

    Attributes:
        study: what it is.
        graphs: split of the file → graphs, with harmonic features.
        errors: tested split → what errors need.
        indices: split → samples of the file.
        config: what models read with the harmonic inputs.
    """

    study: StudySet
    graphs: dict[str, "Packed"]
    errors: dict[str, list[MeshErrors]]
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
        return self.graphs[split].on(device, slice(last - width, last))

    def statistics(self, harmonic: bool, loads_apart: bool) -> dict[str, torch.Tensor]:
        """Of the training split: buffers of a model."""
        around = self.around(harmonic)
        around = replace(around, loads=around.loads if loads_apart else (), architecture=replace(OURS, anchors="none"))
        model = FlareConnect(around)
        model.fit_statistics(self.view("train", harmonic, torch.device("cpu")))
        return {name: value for name, value in model.state_dict().items() if not name.startswith("trunk.")}


def prepare(study: StudySet, path: Path, num_workers: int, architectures: list[Architecture]) -> Prepared:
    """Everything of a file that models of these architectures read, with a progress bar."""
    most: dict[str, int] = {}
    for arch in architectures:
        if arch.anchors != "none":
            most[arch.anchors] = max(most.get(arch.anchors, 0), arch.num_latents)
    with MeshStore(path) as store:
        splits = {name: [int(i) for i in store.split(name)] for name in ("train", "val", *study.splits)}
        config = config_of(study, store)
        known = {"config": config.to_dict(), "data": store.digest, "splits": splits}
    kept = _Kept(path.with_name(f"{path.stem}-graphs.safetensors"), known, most)
    graphs = kept.read()
    jobs = [
        (i, name in study.splits) for name, indices in splits.items() if graphs is None or name in study.splits
        for i in indices
    ]  # fmt: skip
    # Tensors from workers come as files in memory; as open files there would be more than a process may hold.
    torch.multiprocessing.set_sharing_strategy("file_system")
    _open.update(path=str(path), config=config, store=None, costs=most, graphs=graphs is None)
    with multiprocessing.get_context("fork").Pool(num_workers, initializer=_alone) as pool:
        done = tqdm(pool.imap(_one, jobs, chunksize=4), total=len(jobs), desc=f"{study.name}: graphs", unit="mesh")
        made = dict(zip([i for i, _ in jobs], done, strict=True))
    if graphs is None:
        graphs = {name: Packed.of([made[i][0] for i in indices]) for name, indices in splits.items()}
        kept.write(graphs)
    return Prepared(
        study=study,
        graphs=graphs,
        errors={name: [made[i][1] for i in splits[name]] for name in study.splits},
        indices=splits,
        config=config,
    )


class _Kept:
    """A file of the graphs, for the next run with the same data and models.

    Args:
        path: of the file.
        known: what the graphs follow from.
        costs: kind → for how many anchors they hold costs; a file that holds more of them will do.
    """

    def __init__(self, path: Path, known: dict[str, Any], costs: dict[str, int]) -> None:
        self.path, self.known, self.costs = path, json.dumps(known, sort_keys=True), costs

    def read(self) -> dict[str, Packed] | None:
        """The graphs by split; None where there is no such file of these data and models."""
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                meta = file.metadata() or {}
                held = json.loads(meta.get("costs", "{}"))
                if meta.get("known") != self.known or any(held.get(k, 0) < n for k, n in self.costs.items()):
                    return None
                parts: dict[str, dict[str, Tensor]] = {}
                for name in file.keys():  # noqa: SIM118
                    split, key = name.split("/")
                    parts.setdefault(split, {})[key] = file.get_tensor(name)
        except (OSError, safetensors.SafetensorError):
            return None
        sizes, numbers = json.loads(meta["sizes"]), json.loads(meta["numbers"])
        return {split: Packed(tensors, sizes[split], numbers[split]) for split, tensors in parts.items()}

    def write(self, graphs: dict[str, Packed]) -> None:
        """Keep them."""
        tensors = {f"{split}/{key}": value for split, each in graphs.items() for key, value in each.tensors.items()}
        meta = {
            "known": self.known,
            "costs": json.dumps(self.costs),
            "sizes": json.dumps({split: each.sizes for split, each in graphs.items()}),
            "numbers": json.dumps({split: each.numbers for split, each in graphs.items()}),
        }
        with replacing(self.path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata=meta)


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


def _one(job: tuple[int, bool]) -> tuple[dict[str, Any], MeshErrors | None]:
    index, tested = job
    if _open["store"] is None:
        _open["store"] = MeshStore(_open["path"])
    mesh = _open["store"][index]
    errors = MeshErrors.prepare(mesh) if tested else None
    if not _open["graphs"]:
        return {}, errors
    graph = build_graph(mesh, _open["config"], with_targets=True)
    for kind, count in _open["costs"].items():
        graph[f"cost_{kind}"] = anchor_costs(mesh, count, kind=kind, scales=OURS.anchor_scales)[1]
    # As arrays they are copied through a pipe, and those who train need no such file.
    arrays = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in graph.to_dict().items()
    }
    return arrays, errors
