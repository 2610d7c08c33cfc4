"""Who takes part: ours on the grid as a mesh, and peers on the grid itself, all with about as many parameters."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sets import GridSet
from torch import Tensor, nn
from torch_geometric.data import Data

from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.models.baselines import GridRollout, matching_grid_channels
from flare_connect.models.features import collate
from flare_connect.models.replayed import successive
from flare_connect.models.rollout import RolloutState
from flare_connect.models.unrolled import Unrolled
from flare_connect.train import UnrollConfig
from flare_datasets.pdebench.graphs import mesh_of_axes

TOLERANCE = 0.1
OWN_STEPS = 3  # predictions in a row that training may begin with
TYPICAL = 128  # series that statistics are of
# Two wide blocks, keys that are linear and few frames a sample: what a GPU does in a step is many small operations, and
# with fewer of them there are more steps. There are no holes here that anchors would know of, but latents that know
# their place carry what in a frame comes farther than differences reach.
OURS = Architecture(channels=80, num_blocks=2, num_heads=8, num_latents=32, num_kv_layers=-1, anchors="diffusion")
TINY = Architecture(channels=32, num_blocks=2, num_heads=4, num_latents=8, num_kv_layers=-1, anchors="diffusion")
# Of the past ours reads what the state of a set is in and no more: an error in a change that is read goes on as a
# change, from step to step.
STEPS: dict[str, Any] = {"memory": False}


@dataclass(frozen=True, kw_only=True)
class Mine:
    """A setting of ours: what differs from `STEPS` and from what the set says, and from the architecture.

    Attributes:
        rollout: of `RolloutConfig`.
        architecture: of `Architecture`.
        predicted: the most frames that a sample predicts.
        samples: of a step along one axis; in the plane there are two.
    """

    rollout: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    predicted: int = 3
    samples: int = 8


# Ours, and with a part more or less.
SETTINGS: dict[str, Mine] = {
    "ours": Mine(),
    "ours, memory": Mine(rollout={"memory": True}),
    "ours, memory and 1 frame": Mine(rollout={"memory": True, "history": 1}),
    "ours, 1 frame": Mine(rollout={"history": 1}),
    "ours, 2 frames": Mine(rollout={"history": 2}),
    "ours, not attended": Mine(rollout={"attended": False}),
    "ours, no differences": Mine(rollout={"differences": 0, "attended": False}),
    "ours, absolute": Mine(rollout={"relative": False}),
    "ours, relative": Mine(rollout={"relative": True}),
    "ours, not conserved": Mine(rollout={"conserved": ()}),
    "ours, 2 rounds": Mine(rollout={"differences": 2}),
    "ours, with a seam": Mine(rollout={"closed": False}),
    "ours, no anchors": Mine(architecture={"anchors": "none"}),
    "ours, no attention": Mine(
        rollout={"attended": False},
        architecture={"attention": False, "anchors": "none", "boundary_tokens": False, "quadrature": False},
    ),
    "ours, deep keys": Mine(architecture={"num_kv_layers": 3}),
    "ours, 4 narrow blocks": Mine(rollout={"differences": 3}, architecture={"num_blocks": 4, "channels": 64}),
    "ours, 8 frames a sample": Mine(predicted=8),
    "ours, 1 frame a sample": Mine(predicted=1),
    "ours, 32 samples": Mine(samples=32),
}
# `history` 0 is as many frames as are given, which is what is published.
PEERS: dict[str, dict[str, Any]] = {
    "FNO": {"name": "fno", "history": 0},
    "FNO, 1 frame": {"name": "fno", "history": 1},
    "FNO, 2 frames": {"name": "fno", "history": 2},
    "FNO, 24 modes": {"name": "fno", "history": 0, "modes": 24},
    "U-Net": {"name": "unet", "history": 0},
    "U-Net, 1 frame": {"name": "unet", "history": 1},
    "persistence": {"name": "persistence", "history": 1},
}
NAMES = (*SETTINGS, *PEERS)
MAIN = ("ours", "FNO", "U-Net", "persistence")


class OnMesh(nn.Module):
    """Ours, called with series on the grid.

    Attributes:
        earliest: the first frame that is learned from. Those before only come before what is to be predicted, and are
            not like it: where noise dies out they change a hundred times as much.
        window: frames of a sample.
        batch: samples of a step.

    Args:
        study: whose grid it is.
        width: V, columns of a frame.
        setting: what differs from the usual setting.
    """

    def __init__(self, study: GridSet, width: int, setting: Mine) -> None:
        super().__init__()
        low, high = study.extent
        centres = low + (high - low) * (np.arange(study.size) + 0.5) / study.size
        period = [high - low] * study.dim if study.periodic else None
        self.grid = mesh_of_axes([centres] * study.dim, period=period)
        # Where the weights are: a step that a CUDA graph holds can fetch nothing from the host.
        self.point_of_node: Tensor
        self.node_of_point: Tensor
        for index in ("point_of_node", "node_of_point"):
            self.register_buffer(index, getattr(self.grid, index).clone(), persistent=False)
        arch = replace(TINY if study.tiny else OURS, **setting.architecture)
        if not len(self.grid.mesh.boundary_nodes):
            arch = replace(arch, boundary_tokens=False)  # there is none
        options: dict[str, Any] = {
            "dim": max(2, study.dim), "fields": {"u": width}, "history": study.state, "architecture": arch,
            "relative": study.fades, "conserved": ("u",) if study.conserved else (), "differences": study.rounds,
            "attended": study.attended,
        }  # fmt: skip
        self.model = FlareRollout(RolloutConfig(**options | STEPS | setting.rollout))
        self.known = self.model.config.history - 1
        self.earliest = max(0, study.initial - self.model.config.history)
        # With own predictions in a row before it a sample is longer, and must fit into what is learned from.
        longest = study.horizon - self.earliest - self.known - OWN_STEPS - 1
        self.window = self.known + 1 + min(setting.predicted, longest)
        self.batch = 2 if study.dim > 1 or study.tiny else setting.samples
        self._graph: Data | None = None
        self._batches: dict[int, tuple[Any, dict[int, Unrolled]]] = {}

    def fit_statistics(self, series: Tensor) -> None:
        """From series of the training split."""
        graph, device = self._own_graph(), self.model.device
        fixed = {"x": graph.x, "condition": graph.condition, "log_weight": graph.log_weight.to(device)}
        nodes = self._to_nodes(_some(series, device)).unflatten(0, (-1, self.grid.mesh.num_nodes))
        graphs = [Data(**fixed, cost=graph.get("cost"), frames=frames) for frames in nodes]
        self.model.fit_statistics(graphs)

    def loss(self, series: Tensor, unroll: UnrollConfig, depth: int) -> Tensor:
        """Of a step of training on series `[B, W, *X, V]`."""
        # Loads Lightning, for which those who only measure need not wait.
        from flare_connect.train.rollout_module import window_loss

        batch, unrolled = self._laid_out(len(series), series.shape[1] - 1 - self.known)
        window = self._to_nodes(series)
        return window_loss(self.model, batch, window, unroll, depth, unrolled=unrolled, known=self.known)

    def frames_after(self, given: Tensor) -> Iterator[Tensor]:
        """The next frames `[B, *X, V]` one by one."""
        batch, whole = self._laid_out(len(given), given.shape[1])
        _, unrolled = self._laid_out(len(given), 1)
        with torch.no_grad():
            known, state = self.model(batch, self._to_nodes(given), unrolled=whole)
            first = known[:, -1:].clone()
        del known

        def step(frame: Tensor, state: RolloutState) -> tuple[Tensor, RolloutState]:
            return self.model(batch, frame, state=state, unrolled=unrolled)

        coming = successive(step, first, state)
        for frame in coming:
            yield self._to_grid(frame[:, 0], len(given))

    def _laid_out(self, count: int, num_steps: int) -> tuple[Any, Unrolled]:
        """So many samples as one graph, and their steps."""
        if count not in self._batches:
            batch = collate([self._own_graph()] * count).to(self.model.device)
            self._batches[count] = batch, {}
        batch, known = self._batches[count]
        if num_steps not in known:
            known[num_steps] = Unrolled.of(batch, num_steps, self.model.reads.architecture)
        return batch, known[num_steps]

    def _own_graph(self) -> Data:
        if self._graph is None:
            self._graph = self.model.build_graph(self.grid.mesh)
        return self._graph

    def _to_nodes(self, series: Tensor) -> Tensor:
        """`[B, T, *X, V]` as `[B·N, T, V]`."""
        flat = series.flatten(2, -2).index_select(2, self.point_of_node)
        return flat.transpose(1, 2).flatten(0, 1)

    def _to_grid(self, frame: Tensor, count: int) -> Tensor:
        """`[B·N, V]` as `[B, *X, V]`."""
        nodes = frame.unflatten(0, (count, -1)).index_select(1, self.node_of_point)
        return nodes.unflatten(1, self.grid.shape)


class OnGrid(nn.Module):
    """A peer; attributes as of `OnMesh`.

    Args:
        study: whose grid it is.
        width: V, columns of a frame.
        options: of `GridRollout`.
    """

    def __init__(self, study: GridSet, width: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.model = GridRollout(dim=study.dim, width=width, **options)
        self.batch = 64 if study.dim == 1 else 16
        self.earliest = max(0, study.initial - self.model.history)
        self.window = self.model.history + 1

    def fit_statistics(self, series: Tensor) -> None:
        """From series of the training split."""
        self.model.fit_statistics([_some(series)])

    def loss(self, series: Tensor, unroll: UnrollConfig, depth: int) -> Tensor:
        """Of the frame after so many of its own; with gradients through these, of all of them, as published."""
        known = series[:, : self.model.history]
        if unroll.noise:
            levels = unroll.levels((*known.shape[:2], *(1,) * (known.dim() - 2)), known.device)
            known = known + levels * self.model.change_scale * torch.randn_like(known)
        errors = []
        for step in range(depth + 1):
            last = step == depth
            with torch.set_grad_enabled((unroll.through or last) and torch.is_grad_enabled()):
                guess = self.model(known)
                if unroll.through or last:
                    errors.append(self._error(guess, series[:, self.model.history + step]))
            known = torch.cat([known[:, 1:], guess[:, None]], dim=1)
        return torch.stack(errors).mean()

    def frames_after(self, given: Tensor) -> Iterator[Tensor]:
        """The next frames `[B, *X, V]` one by one."""
        return self.model.frames_after(given)

    def _error(self, guess: Tensor, truth: Tensor) -> Tensor:
        """Mean relative L2 of each column of standardised frames, as `relative_l2_loss` takes it on meshes."""
        standard = self.model.frame_statistics
        guess, truth = standard(guess.float()).flatten(1, -2), standard(truth.float()).flatten(1, -2)
        error, size = (guess - truth).square().sum(1), truth.square().sum(1)
        return ((error + 1e-12 * size + 1e-30) / (size + 1e-12)).sqrt().mean()


def make(name: str, study: GridSet, width: int) -> OnMesh | OnGrid:
    """A model by name; the width of a peer is such that it has about as many parameters as ours.

    Args:
        name: of `NAMES`.
        study: whose grid it is.
        width: V, columns of a frame.
    """
    if name in SETTINGS:
        return OnMesh(study, width, SETTINGS[name])
    options: dict[str, Any] = PEERS[name] | {"periodic": study.periodic}
    options["history"] = options["history"] or study.initial
    if options["name"] == "fno":
        options["modes"] = min(options.get("modes", 12), study.size // 2)
    if options["name"] == "unet":
        options["num_levels"] = {1: 4, 2: 3}[study.dim] if study.size >= 64 else 1 if study.tiny else 2
    if options["name"] != "persistence":
        with torch.device("meta"):
            wanted = parameters(OnMesh(study, width, SETTINGS["ours"]))
        settings = {key: value for key, value in options.items() if key != "name"}
        options["channels"] = matching_grid_channels(
            options["name"], wanted, dim=study.dim, width=width, tolerance=TOLERANCE, **settings
        )
    return OnGrid(study, width, options)


def parameters(model: nn.Module) -> int:
    """Learned numbers."""
    return sum(p.numel() for p in model.parameters())


def _some(series: Tensor, device: torch.device | str = "cpu") -> Tensor:
    return series[:: max(1, len(series) // TYPICAL)].float().to(device)
