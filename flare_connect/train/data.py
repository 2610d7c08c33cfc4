"""Prepared meshes as batches of graphs: what is read when, in which order, and once only."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Data
from tqdm import tqdm

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, MeshCache, MeshStore
from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig, FlareRollout, RolloutConfig
from flare_connect.models.features import collate
from flare_connect.models.twins import pairs_of

from .config import DataConfig
from .rollout_config import RolloutTrainConfig, SeriesConfig


class GraphDataset(Dataset):
    """The meshes of one split as the graphs that a model reads.

    Args:
        store: the prepared data set.
        indices: samples of the split.
        build: from a mesh with what is predicted to its graph.
        in_memory: build every graph now, on all cores, with a progress bar, and keep it.
        progress: show that bar.
    """

    def __init__(
        self,
        store: MeshStore,
        indices: Sequence[int],
        build: Callable[[Mesh], Data],
        *,
        in_memory: bool,
        progress: bool,
    ) -> None:
        self.store, self.indices, self.build = store, [int(i) for i in indices], build
        self.kept: list[Data] | None = None
        if in_memory:
            # Threads: most of the time goes into factorisations and reading, which let others run meanwhile.
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                built = pool.map(self._build, self.indices)
                self.kept = list(
                    tqdm(built, desc="graphs", unit="mesh", total=len(indices), disable=not progress, leave=False)
                )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Data:
        return self.kept[position] if self.kept is not None else self._build(self.indices[position])

    def _build(self, index: int) -> Data:
        try:
            return self.build(self.store[index])
        except InputError as error:
            raise InputError(f"sample {index} of {self.store.path}: {error}") from error


class EpochSampler(Sampler[int]):
    """A shuffled order that follows from seed and epoch alone, so that a resumed run sees what it would have seen.

    Args:
        size: number of samples.
        seed: of the run.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


class StoreDataModule(L.LightningDataModule):
    """Training and validation split of a prepared data set.

    Args:
        config: the data set and its fields.
        model: from the data set and a sample of it to the model that is trained on it.
        seed: of the order of samples.
        progress: show a bar while graphs are built.

    Attributes:
        model: the model, its statistics those of the training split.

    Raises:
        StoreError: if the file is missing, damaged or lacks a split.
        InputError: if a field or set is not in the file.
    """

    def __init__(
        self,
        config: DataConfig | SeriesConfig,
        model: Callable[[MeshStore, int], FlareConnect | FlareRollout],
        *,
        seed: int,
        progress: bool,
    ) -> None:
        super().__init__()
        self.config, self.seed, self.progress = config, seed, progress
        self.store = MeshStore(config.path)
        splits = {name: self._split(name) for name in (config.train_split, config.val_split)}
        self.model = model(self.store, int(splits[config.train_split][0]))
        anchored = self.model.reads.architecture.anchors != "none"
        kept = MeshCache.beside(config.path) if config.cache and anchored else None
        build = partial(self.model.build_graph, with_targets=True, cache=kept)
        self.train_set, self.val_set = (
            GraphDataset(self.store, indices, build, in_memory=config.in_memory, progress=progress)
            for indices in (splits[config.train_split], splits[config.val_split])
        )
        self.model.fit_statistics(self.train_set[i] for i in range(len(self.train_set)))

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split, in an order given by seed and epoch."""
        return self._loader(self.train_set, EpochSampler(len(self.train_set), self.seed))

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in file order."""
        return self._loader(self.val_set, None)

    def _loader(self, dataset: GraphDataset, sampler: Sampler | None) -> DataLoader:
        workers = self.config.num_workers
        return DataLoader(
            dataset,
            batch_size=self.config.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _split(self, name: str) -> Sequence[int]:
        # A missing split is the store's error; an empty one would only show up as a division by zero much later.
        indices = self.store.split(name)
        if len(indices) == 0:
            raise InputError(f"the split {name!r} of {self.config.path} is empty")
        return indices.tolist()


def surrogate_of(store: MeshStore, index: int, data: DataConfig, architecture: Architecture) -> FlareConnect:
    """The model, with the widths of its fields read off one sample.

    Raises:
        InputError: if a field is not in the data set.
    """
    mesh = store[index]
    return FlareConnect(
        FlareConnectConfig(
            dim=mesh.pos.shape[1],
            outputs=_widths(data.outputs, mesh.point_data, "point field", lambda values: values[0].numel()),
            response=data.response,
            loads=tuple(data.loads),
            units={name: mesh.units[name] for name in data.outputs if name in mesh.units},
            architecture=architecture,
            **_reads(mesh, data),
        )
    )


def rollout_of(store: MeshStore, index: int, config: RolloutTrainConfig) -> FlareRollout:
    """The model, with the widths of its fields read off one sample.

    Raises:
        InputError: if a field is not in the data set, or is no series.
    """
    mesh, data = store[index], config.data
    fields = _widths(data.fields, mesh.point_data, "point field", _series_width)
    for name in fields:
        frames = mesh.point_data[name].shape[1:2].numel()
        if mesh.point_data[name].dim() < 2 or frames < data.window:
            raise InputError(f"{name!r} must be a series [N, T, …] of at least `window` = {data.window} frames, got "
                             f"{list(mesh.point_data[name].shape)}")  # fmt: skip
    return FlareRollout(
        RolloutConfig(
            dim=mesh.pos.shape[1],
            fields=fields,
            history=config.history,
            memory=config.memory,
            differences=config.differences,
            attended=config.attended,
            relative=config.relative,
            conserved=tuple(data.conserved),
            held={name: tuple(sets) for name, sets in data.held.items()},
            units={name: mesh.units[name] for name in data.fields if name in mesh.units},
            architecture=config.model,
            **_reads(mesh, data),
        )
    )


def _reads(mesh: Mesh, data: DataConfig | SeriesConfig) -> dict[str, Any]:
    """What both kinds of models read."""
    return {
        "inputs": _widths(data.inputs, mesh.point_data, "point field", lambda values: values[0].numel()),
        "conditions": _widths(data.conditions, mesh.global_data, "per-mesh number", torch.Tensor.numel),
        "directional": tuple(data.directional),
        "boundary": dict(data.boundary),
        "harmonic": data.harmonic,
        "periodic": pairs_of(mesh) is not None,
    }


def _widths(
    names: Sequence[str], present: dict[str, torch.Tensor], kind: str, width: Callable[[torch.Tensor], int]
) -> dict[str, int]:
    for name in names:
        if name not in present:
            known = ", ".join(map(repr, present)) or "none"
            raise InputError(f"the data set has no {kind} {name!r}; it has: {known}")
    return {name: width(present[name]) for name in names}


def _series_width(values: torch.Tensor) -> int:
    """Of [N, T] and [N, T, width]."""
    return values.shape[2:].numel()
