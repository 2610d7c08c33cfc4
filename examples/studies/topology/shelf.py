"""Graphs in files, some side by side in each: every process maps them into its memory, and nothing is sent around."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.mesh import MeshStore
from flare_connect.metrics import JumpPairs, MeshErrors

# What errors need of a mesh, beside the mesh: in the files under this name, so that no graph has it.
_ERRORS = "errors/"


def write(path: Path, graphs: Sequence[Data], errors: Sequence[MeshErrors]) -> None:
    """A file of graphs that have the same attributes; it is there as a whole or not at all.

    Args:
        path: of the file.
        graphs: their tensors and whole numbers are kept.
        errors: of the mesh of each graph, or none.
    """
    rows = [
        graph.to_dict() | _of_errors(known) for graph, known in zip(graphs, errors or [None] * len(graphs), strict=True)
    ]
    keys = [key for key, value in rows[0].items() if isinstance(value, Tensor)]
    tensors = {key: torch.cat([row[key] for row in rows], dim=_axis(key)) for key in keys}
    meta = {
        "sizes": {key: [row[key].shape[_axis(key)] for row in rows] for key in keys},
        "numbers": {key: [row[key] for row in rows] for key, value in rows[0].items() if isinstance(value, int)},
        "bins": [list(errors[0].edges), errors[0].unit] if errors else [],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"shelf": json.dumps(meta)})
    os.replace(temporary, path)  # not flushed to the disk: what is lost with the machine is made again


class Shelf:
    """The graphs of a split, in the order of its files.

    Args:
        files: which `write` wrote.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def on(self, device: torch.device, without: slice) -> list[Data]:
        """The graphs on a device, some of their features left out."""
        found: list[Data] = []
        for file in self.files:
            tensors, meta = _read(file, "")
            parts: dict[str, Sequence[Any]] = dict(meta["numbers"])
            for key, whole in tensors.items():
                if key.startswith(_ERRORS):
                    continue
                if key == "x":
                    kept = torch.ones(whole.shape[1], dtype=torch.bool)
                    kept[without] = False
                    whole = whole[:, kept]
                parts[key] = whole.to(device).split(meta["sizes"][key], dim=_axis(key))
            found += [Data(**dict(zip(parts, values, strict=True))) for values in zip(*parts.values(), strict=True)]
        return found

    def errors(self, store: MeshStore, indices: Sequence[int]) -> list[MeshErrors]:
        """What errors need of each mesh.

        Args:
            store: where the meshes are.
            indices: of the graphs there.
        """
        found: list[MeshErrors] = []
        for file in self.files:
            tensors, meta = _read(file, _ERRORS)
            edges, unit = meta["bins"]
            parts = {
                key.removeprefix(_ERRORS): whole.split(meta["sizes"][key], dim=_axis(key))
                for key, whole in tensors.items()
            }
            for nodes, distance, near, thickness in zip(
                parts["pair_nodes"], parts["pair_distance"], parts["near"], parts["thickness"], strict=True
            ):
                mesh = store[indices[len(found)]]
                pairs = JumpPairs(nodes=nodes, distance=distance, num_nodes=mesh.num_nodes)
                found.append(
                    MeshErrors(mesh=mesh, pairs=pairs, near=near, thickness=thickness, edges=tuple(edges), unit=unit)
                )
        return found


def _of_errors(known: MeshErrors | None) -> dict[str, Tensor]:
    if known is None:
        return {}
    parts = {
        "pair_nodes": known.pairs.nodes, "pair_distance": known.pairs.distance,
        "near": known.near, "thickness": known.thickness,
    }  # fmt: skip
    return {_ERRORS + key: value for key, value in parts.items()}


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors whose names begin so, and what is known of them."""
    with safetensors.safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["shelf"])


def _axis(key: str) -> int:
    return 1 if key in ("edge_index", _ERRORS + "pair_nodes") else 0
