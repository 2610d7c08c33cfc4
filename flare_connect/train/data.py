"""Prepared meshes as batches of graphs: what is read when, in which order, and once only."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Data
from tqdm import tqdm

from flare_connect.errors import InputError
from flare_connect.mesh import MeshCache, MeshStore
from flare_connect.models.config import Architecture, FlareConnectConfig
from flare_connect.models.features import build_graph, collate

from .config import DataConfig


class GraphDataset(Dataset):
    """The meshes of one split as the graphs that a model reads.

    Args:
        store: the prepared data set.
        indices: samples of the split.
        config: what the model reads and predicts.
        in_memory: build every graph now, on all cores, with a progress bar, and keep it.
        progress: show that bar.
        cache: where anchors and costs are kept.
    """

    def __init__(
        self,
        store: MeshStore,
        indices: Sequence[int],
        config: FlareConnectConfig,
        *,
        in_memory: bool,
        progress: bool,
        cache: MeshCache | None = None,
    ) -> None:
        self.store, self.indices, self.config, self.cache = store, [int(i) for i in indices], config, cache
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
        return build_graph(self.store[index], self.config, with_targets=True, cache=self.cache)


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


class MeshDataModule(L.LightningDataModule):
    """Training and validation split of a prepared data set.

    Args:
        config: the data set and its fields.
        architecture: of the model, because it decides what a graph holds.
        seed: of the order of samples.
        progress: show a bar while graphs are built.

    Raises:
        StoreError: if the file is missing, damaged or lacks a split.
        InputError: if a field or set is not in the file.
    """

    def __init__(self, config: DataConfig, architecture: Architecture, *, seed: int, progress: bool) -> None:
        super().__init__()
        self.config, self.seed, self.progress = config, seed, progress
        self.store = MeshStore(config.path)
        splits = {name: self._split(name) for name in (config.train_split, config.val_split)}
        self.model_config = resolve(self.store, int(splits[config.train_split][0]), config, architecture)
        kept = MeshCache.beside(config.path) if config.cache and architecture.anchors != "none" else None
        self.train_set, self.val_set = (
            GraphDataset(
                self.store, indices, self.model_config, in_memory=config.in_memory, progress=progress, cache=kept
            )
            for indices in (splits[config.train_split], splits[config.val_split])
        )

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


def resolve(store: MeshStore, index: int, data: DataConfig, architecture: Architecture) -> FlareConnectConfig:
    """The model's configuration, with the widths of its fields read off one sample.

    Raises:
        InputError: if a field is not in the data set.
    """
    mesh = store[index]

    def widths(names: Sequence[str], present: dict[str, torch.Tensor], kind: str, per_mesh: bool) -> dict[str, int]:
        for name in names:
            if name not in present:
                known = ", ".join(map(repr, present)) or "none"
                raise InputError(f"the data set has no {kind} {name!r}; it has: {known}")
        return {name: present[name].numel() if per_mesh else present[name][0].numel() for name in names}

    return FlareConnectConfig(
        dim=mesh.pos.shape[1],
        outputs=widths(data.outputs, mesh.point_data, "point field", False),
        inputs=widths(data.inputs, mesh.point_data, "point field", False),
        conditions=widths(data.conditions, mesh.global_data, "per-mesh number", True),
        directional=tuple(data.directional),
        boundary=dict(data.boundary),
        harmonic=data.harmonic,
        loads=tuple(data.loads),
        response=data.response,
        units={name: mesh.units[name] for name in data.outputs if name in mesh.units},
        architecture=architecture,
    )
