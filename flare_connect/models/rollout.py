"""FlareRollout: from the frames of fields on a mesh to the next ones."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch_geometric.data import Data
from tqdm import tqdm

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, MeshCache
from flare_connect.nn import CausalState
from flare_kernels import Segments

from .boundary import Boundary, with_boundary
from .features import copy_to_unused, num_condition_features, num_edge_features, num_node_features
from .mesh_model import MeshModel
from .replayed import successive
from .rollout_config import RolloutConfig
from .statistics import Standardiser
from .stepper import Stepper
from .unrolled import Unrolled

LOST = 100.0  # times the largest value that a rollout began with, or its model has learned from
_LEAST = 1e-20  # of mean squares in units of the usual spread: far below what float32 tells of a frame


class RolloutState(NamedTuple):
    """Everything that a rollout knows of the past; of the same size however long that is.

    Attributes:
        recent: the last k − 1 frames before the next to be given, in physical units.
        memories: what the latents of each block have read; empty where they have read nothing.
    """

    recent: Float[Tensor, "N K1 V"]
    memories: tuple[CausalState, ...]


class FlareRollout(MeshModel):
    """A surrogate in time: fields on a mesh at past steps in, the next steps out.

    `u_{t+1} = u_t + σ · f(u_t, u_t − u_{t−1}, …, memory)`, f being hybrid blocks on the mesh within a step and
    block-causal attention across the steps. All given steps are gone through at once; what comes after needs the last
    frames and a memory of fixed size, so that a rollout takes the same time and memory at every step.

    ```python
    model = FlareRollout(RolloutConfig(dim=2, fields={"temperature": 1}, conditions={"conductivity": 1}))
    frames = model.rollout(mesh, {"temperature": first}, 100)["temperature"]  # [N, 100]
    ```

    Args:
        config: what is read and stepped, and the architecture.

    Good values: see `RolloutConfig` and `Architecture`.
    Source: FLARE (arXiv 2508.12594) with a running softmax over steps; changes instead of fields: MeshGraphNets,
    arXiv 2010.03409.
    """

    kind = "FlareRollout"
    config: RolloutConfig

    def __init__(self, config: RolloutConfig) -> None:
        super().__init__(config, config.reads)
        arch = config.architecture
        self.frame_statistics = Standardiser(config.width)
        self.change_scale: Tensor
        self.register_buffer("change_scale", torch.ones(config.width))
        # From mean squares of columns to those of the fields that they are of; and the columns that are conserved.
        self.of_fields: Tensor
        self.conserved: Tensor
        parts = [torch.full((width, width), 1.0 / width) for width in config.fields.values()]
        kept = [torch.full((width,), name in config.conserved) for name, width in config.fields.items()]
        self.register_buffer("of_fields", torch.block_diag(*parts), persistent=False)
        self.register_buffer("conserved", torch.cat(kept).float(), persistent=False)
        self.trunk = Stepper(
            arch,
            features=num_node_features(config.reads) + config.num_frame_features,
            frames=config.history * config.width,
            edge_features=num_edge_features(config.reads) if arch.message_passing else 0,
            conditions=num_condition_features(config.reads),
            outputs=config.width,
            memory=config.memory,
            differences=config.differences,
            attended=config.attended,
        )

    def forward(
        self,
        graph: Data,
        frames: Float[Tensor, "N T V"],
        *,
        state: RolloutState | None = None,
        rank: int | None = None,
        unrolled: Unrolled | None = None,
    ) -> tuple[Float[Tensor, "N T V"], RolloutState]:
        """For each given frame the one after it, as the frames so far tell it.

        Args:
            graph: what `build_graph` makes, or a PyG batch of it.
            frames: T frames one after another, in physical units.
            state: what is known from frames before these; None at the beginning. Gradients flow through it.
            rank: latents to use; None for all.
            unrolled: `Unrolled.of(graph, T, …)` where the same graph comes again.

        Returns:
            The frame after each of the given ones, and what is known after the last.
        """
        num_steps, back = frames.shape[1], self.config.history - 1
        if unrolled is None:
            unrolled = Unrolled.of(graph, num_steps, self.reads.architecture)
        recent = frames[:, :1].expand(-1, back, -1) if state is None else state.recent
        known = torch.cat([recent, frames], dim=1)
        seen = [self.frame_statistics(frames)]
        before = known.diff(dim=1) / self.change_scale
        seen += [before[:, back - 1 - j : back - 1 - j + num_steps] for j in range(back)]
        scale = self.change_scale
        if self.config.relative:
            # Frames themselves tell their size too, and that of next to nothing is as good as none: the logarithm of it
            # would be news in all times beyond those that were learned from.
            size = self._sizes(frames, graph, unrolled.meshes)
            seen = [*seen, *(each / size for each in seen)]
            scale = scale * size
        x = torch.cat([self._standardised_inputs(graph.x)[unrolled.nodes], unrolled.points(torch.cat(seen, 2))], 1)
        anchors = None if unrolled.cost is None else self._anchors(unrolled.cost, unrolled.tokens)
        condition = self.condition_statistics(graph.condition)
        memories = None if state is None else state.memories or None
        found, memories = self.trunk(x, condition, unrolled, anchors=anchors, state=memories, rank=rank)
        change = scale * unrolled.frames(found.to(frames.dtype))
        if "twin_index" in graph:
            change = change.index_select(0, graph.twin_index)
        if self.config.conserved:
            change = change - self.conserved * _means(change, graph, unrolled.meshes)
        after = frames + (change.masked_fill(graph.held[:, None], 0.0) if self.config.held else change)
        return after, RolloutState(known[:, known.shape[1] - back :], memories)

    def build_graph(self, mesh: Mesh, *, with_targets: bool = False, cache: MeshCache | None = None) -> Data:
        """What the model reads of a mesh; with targets also its `frames` [N, T, V]; `held` [N, V] where values are."""
        graph = super().build_graph(mesh, cache=cache)
        if self.config.held:
            graph.held = self._held(mesh)
        if with_targets:
            graph.frames = self.frames_of(mesh.point_data)
            copy_to_unused(mesh, graph.frames)
        return graph

    def frames_of(self, fields: Mapping[str, Tensor]) -> Float[Tensor, "N T V"]:
        """Fields as frames.

        Args:
            fields: name → [N, T, width], or [N, T] of one component; one frame is [N, width] or [N].

        Raises:
            InputError: if a field is missing, of another width, or of other frames than the rest.
        """
        columns = []
        for name, width in self.config.fields.items():
            if name not in fields:
                known = ", ".join(map(repr, fields)) or "none"
                raise InputError(f"the model steps {name!r}, which is not among the fields given: {known}")
            values = fields[name]
            series = values.unsqueeze(-1) if width == 1 and values.dim() < 3 else values
            series = series.unsqueeze(1) if series.dim() == 2 else series
            if series.dim() != 3 or series.shape[2] != width:
                raise InputError(
                    f"{name!r} must be [N, T, {width}], or [N, {width}] for one frame, got {list(values.shape)}"
                )
            columns.append(series.float())
        if len({each.shape[:2] for each in columns}) > 1:
            sizes = {name: list(each.shape[:2]) for name, each in zip(self.config.fields, columns, strict=True)}
            raise InputError(f"fields must have the same nodes and frames, got {sizes}")
        return torch.cat(columns, dim=2)

    def fit_statistics(self, graphs: Iterable[Data]) -> None:
        """Set the standardisation from the graphs of the training split, which have `frames`, and of no other.

        Raises:
            InputError: if no graph has two frames.
        """
        graphs = list(graphs)
        self.fit_inputs(graphs)
        self.frame_statistics.fit(graph.frames.flatten(0, 1) for graph in graphs)
        moving = [graph for graph in graphs if graph.frames.shape[1] > 1]
        if not moving:
            raise InputError("the training split holds no two frames in a row: there is no change to learn")
        changes = Standardiser(self.config.width)
        changes.fit((self._own_changes(graph).flatten(0, 1) for graph in moving), scaled=range(self.config.width))
        self.change_scale.copy_(changes.std)

    def frames_after(
        self,
        mesh: Mesh,
        initial: Mapping[str, Tensor] | None = None,
        *,
        boundary: Boundary | None = None,
        rank: int | None = None,
        captured: bool | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """The next frames one by one, without end; memory does not grow.

        Args:
            mesh: a mesh with the inputs and sets that the configuration names.
            initial: the frames so far, as `frames_of` takes them; None for those of the mesh.
            boundary: as in `FlareConnect.predict`.
            rank: latents to use; None for all.
            captured: whether steps after the first few are one CUDA graph, which reads the weights where they are when
                it is made; None for where there is a GPU.

        Yields:
            Output name → [N] or [N, width], float32, on the CPU.

        Raises:
            InputError: if mesh or frames do not fit the model, or a graph is asked for where there is no GPU.
        """
        if captured and self.device.type != "cuda":
            raise InputError(f"`captured` wants the model on a GPU, it is on {self.device}: move it, or give None")
        if boundary is not None:
            mesh = with_boundary(mesh, self.reads, boundary)
        given = self.frames_of(mesh.point_data if initial is None else initial)
        if len(given) != mesh.num_nodes or not given.shape[1]:
            raise InputError(
                f"frames must be of the mesh's {mesh.num_nodes} nodes and at least one, got {list(given.shape[:2])}"
            )
        if not torch.isfinite(given).all():
            raise InputError("the initial frames hold numbers that are not finite: mend them, or leave nodes out")
        graph = self.build_graph(mesh).to(self.device)
        with torch.no_grad():
            known, state = self(graph, given.to(self.device), rank=rank)
        first, unrolled = known[:, -1:].clone(), Unrolled.of(graph, 1, self.reads.architecture)
        del known  # all steps of the first call

        def step(frame: Tensor, state: RolloutState) -> tuple[Tensor, RolloutState]:
            return self(graph, frame, state=state, rank=rank, unrolled=unrolled)

        for frame in successive(step, first, state, captured=captured):
            yield self.split_fields(frame[:, 0].cpu())

    def rollout(
        self,
        mesh: Mesh,
        initial: Mapping[str, Tensor] | None,
        steps: int,
        *,
        boundary: Boundary | None = None,
        rank: int | None = None,
        every: int = 1,
        progress: bool = False,
        captured: bool | None = None,
    ) -> dict[str, Tensor]:
        """Frames that follow on those given, in physical units.

        Args:
            mesh: a mesh with the inputs and sets that the configuration names.
            initial: the frames so far, as `frames_of` takes them; None for those of the mesh.
            steps: frames to come.
            boundary: as in `FlareConnect.predict`.
            rank: latents to use; None for all.
            every: keep one frame of so many, the last of them; for all without keeping any, see `frames_after`.
            progress: show a bar.
            captured: as in `frames_after`.

        Returns:
            Field name → [N, T] or [N, T, width], float32, on the CPU, with T = steps // every.

        Raises:
            InputError: if a number is not positive, or mesh or frames do not fit the model.
        """
        for name, value in (("steps", steps), ("every", every)):
            if value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value}")
        kept: dict[str, list[Tensor]] = {name: [] for name in self.config.fields}
        coming = self.frames_after(mesh, initial, boundary=boundary, rank=rank, captured=captured)
        bounds: dict[str, float] | None = None
        for count in tqdm(range(1, steps + 1), desc="rollout", unit="step", disable=not progress, leave=False):
            frame = next(coming)
            if count == 1:
                bounds = self._bounds(mesh.point_data if initial is None else initial)
            lost = [n for n, values in frame.items() if bounds and not values.abs().max() <= bounds[n]]  # NaN is too
            if lost:
                bounds = None  # said once
                warnings.warn(
                    f"frame {count} of the rollout is lost: {lost[0]!r} is not finite, or over {LOST:g} times what was "
                    "given and learned from; train with more noise or on its own predictions (`UnrollConfig`), or roll "
                    "out for fewer steps",
                    stacklevel=2,
                )
            if count % every == 0:
                for name, values in frame.items():
                    kept[name].append(values)
        empty = torch.zeros(mesh.num_nodes, 0)
        return {name: torch.stack(each, 1) if each else empty for name, each in kept.items()}

    def _bounds(self, initial: Mapping[str, Tensor]) -> dict[str, float]:
        """Field → the largest value of a rollout that may still be right."""
        seen = self.frame_statistics.mean.abs() + self.frame_statistics.std
        usual = torch.maximum(self.frames_of(initial).abs().amax((0, 1)), seen.cpu())
        return {name: LOST * float(part.max()) for name, part in self.split_fields(usual).items()}

    def split_fields(self, frame: Float[Tensor, "... V"]) -> dict[str, Tensor]:
        """Columns of frames by name; a field of one component has no axis of its own."""
        parts = frame.split(list(self.config.fields.values()), dim=-1)
        return {
            name: part.squeeze(-1) if part.shape[-1] == 1 else part
            for name, part in zip(self.config.fields, parts, strict=True)
        }

    def usual_change(self, frames: Float[Tensor, "N T V"], graph: Data, meshes: Segments) -> Tensor:
        """The root mean square by which frames change, in their units: what noise is measured by.

        Args:
            frames: in physical units.
            graph: what `build_graph` makes, or a PyG batch of it.
            meshes: where each mesh starts in the nodes.

        Returns:
            [V]; [N, T, V] where it goes with the size of a frame (`relative`).
        """
        if not self.config.relative:
            return self.change_scale
        with torch.no_grad():
            return self.change_scale * self._sizes(frames, graph, meshes)

    def _sizes(self, frames: Float[Tensor, "N T V"], graph: Data, meshes: Segments) -> Float[Tensor, "N T V"]:
        """Root mean square over each mesh of the fields, standardised."""
        squares = _means(self.frame_statistics(frames).square(), graph, meshes)
        # No product of matrices, which would be of few digits under autocast.
        return ((squares[..., None] * self.of_fields).sum(-2) + _LEAST).sqrt()

    def _own_sizes(self, graph: Data) -> Float[Tensor, "N T V"]:
        """Of the frames of one mesh."""
        whole = Segments.from_lengths([len(graph.frames)], graph.frames.device)
        with torch.no_grad():
            return self._sizes(graph.frames, graph, whole)

    def _own_changes(self, graph: Data) -> Float[Tensor, "N T1 V"]:
        """From each frame of one mesh to the next, as they are told."""
        changes = graph.frames.diff(dim=1)
        return changes / self._own_sizes(graph)[:, :-1] if self.config.relative else changes

    def _held(self, mesh: Mesh) -> Bool[Tensor, "N V"]:
        columns = []
        for name, width in self.config.fields.items():
            held = torch.zeros(mesh.num_nodes, 1, dtype=torch.bool)
            for each in self.config.held.get(name, ()):
                if each not in mesh.sets:
                    known = ", ".join(map(repr, mesh.sets)) or "none"
                    raise InputError(f"{name!r} is held on the set {each!r}, which the mesh lacks; its sets: {known}")
                held[mesh.set_nodes(each)] = True
            columns.append(held.expand(-1, width))
        return torch.cat(columns, dim=1)

    @classmethod
    def _of(cls, config: dict[str, Any]) -> "FlareRollout":
        return cls(RolloutConfig.from_dict(config))


def _means(values: Float[Tensor, "N T V"], graph: Data, meshes: Segments) -> Float[Tensor, "N T V"]:
    """Mean over the mesh of each node, by volume."""
    weighted = (values * graph.log_weight.exp()[:, None, None]).flatten(1)
    found = torch.segment_reduce(weighted, "mean", offsets=meshes.ptr, axis=0, unsafe=True)
    return found.unflatten(1, values.shape[1:]).index_select(0, meshes.batch)
