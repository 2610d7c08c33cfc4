"""The data set, and what models read of it: made once, then read from files by every process."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import contestants
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from flare_connect.mesh import MeshCache, MeshStore
from flare_connect.models import FlareRollout, RolloutConfig

SPLITS = {"test": "id", "more": "more holes"}
QUICK = {"num_train": 8, "num_val": 2, "num_test": 2, "num_more": 2, "num_nodes": 350, "num_frames": 9}


def generated(out: Path, quick: bool, workers: int | None) -> Path:
    """The file of series, made where it is not there: that needs gmsh and scikit-fem."""
    path = out / ("channels_quick.h5" if quick else "channels.h5")
    if path.is_file():
        return path  # carried here, perhaps, to a machine that could not make it
    from flare_datasets.holed_channels import HoledChannelConfig, generate

    return generate(path, HoledChannelConfig(**QUICK if quick else {}), num_workers=workers)


def around_of(path: Path) -> RolloutConfig:
    """What models of the file read and step."""
    with MeshStore(path) as store:
        mesh = store[0]
    return RolloutConfig(
        dim=mesh.dim,
        fields={"velocity": 2, "temperature": 1},
        conditions={"reynolds": 1},
        boundary={name: "free" for name in ("inlet", "outlet", "walls", "holes")},
        held={"velocity": ("inlet", "walls", "holes"), "temperature": ("inlet", "holes")},
    )


@dataclass(kw_only=True)
class Graphs:
    """Graphs of every split, as the models read them.

    Attributes:
        around: what they have in common.
        splits: split of the file → graphs, which have what any model reads.
    """

    around: RolloutConfig
    splits: dict[str, list[Data]]

    @classmethod
    def of(cls, path: Path, size: str, *, progress: bool = False) -> "Graphs":
        """Read or made, on all cores; anchors and costs are kept beside the file."""
        around = around_of(path)
        model = FlareRollout(replace(around, architecture=contestants.SIZES[size]))
        cache = MeshCache.beside(path)
        with MeshStore(path) as store:
            wanted = {name: store.split(name).tolist() for name in ("train", "val", *SPLITS)}
            meshes = {i: store[i] for each in wanted.values() for i in each}

        def build(i: int) -> Data:
            return model.build_graph(meshes[i], with_targets=True, cache=cache)

        # Threads: most of the time goes into factorisations, which let others run meanwhile.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = tqdm(pool.map(build, meshes), desc="graphs", unit="mesh", total=len(meshes), disable=not progress)
            graphs = dict(zip(meshes, built, strict=True))
        return cls(around=around, splits={name: [graphs[i] for i in each] for name, each in wanted.items()})

    def statistics(self) -> dict[str, torch.Tensor]:
        """Of the training split: buffers of a model."""
        model = FlareRollout(self.around)
        model.fit_statistics(self.splits["train"])
        return {name: value for name, value in model.state_dict().items() if not name.startswith("trunk.")}


def kept_of(path: Path, split: str, place: int) -> Any:
    """A mesh of a split, for pictures."""
    with MeshStore(path) as store:
        return store[int(store.split(split)[place])]
