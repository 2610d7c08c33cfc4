"""FlareConnect: from a mesh and its conditions to the fields on it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data

from flare_connect.mesh import Mesh, MeshCache
from flare_connect.nn import Anchors
from flare_kernels import EdgePlan, Segments, spread

from .boundary import Boundary, with_boundary
from .config import FlareConnectConfig
from .features import (
    build_graph,
    num_condition_features,
    num_edge_features,
    num_node_features,
    num_standardised_features,
    segments_of,
)
from .loads import load_columns
from .pretrained import load_pretrained, save_pretrained
from .rank import rank_for
from .statistics import Standardiser, typical_cost
from .trunk import Trunk


class FlareConnect(nn.Module):
    """A surrogate: mesh in, fields out.

    Encoder → hybrid blocks → decoder. Statistics of the training data are buffers, so they travel with the weights
    and `predict` takes and gives physical units.

    Args:
        config: what the model reads and predicts, and its architecture.

    Good values: see `Architecture`.
    Source: FLARE (arXiv 2508.12594) with message passing and boundary tokens.
    """

    def __init__(self, config: FlareConnectConfig) -> None:
        super().__init__()
        self.config = config
        arch = config.architecture
        self.num_standardised = num_standardised_features(config)
        self.input_statistics = Standardiser(self.num_standardised)
        self.condition_statistics = Standardiser(num_condition_features(config))
        self.output_statistics = Standardiser(sum(config.outputs.values()))
        self.typical_cost: Tensor
        if arch.num_scales:
            self.register_buffer("typical_cost", torch.ones(arch.num_scales))
        self.columns = load_columns(config)
        self.trunk = Trunk(
            arch,
            features=len(self.columns.other_nodes),
            edge_features=num_edge_features(config) if arch.message_passing else 0,
            conditions=len(self.columns.other_meshes),
            outputs=sum(config.outputs.values()),
            loads=self.columns.count,
            homogeneous=config.response == "homogeneous",
        )

    def forward(self, graph: Data, rank: int | None = None) -> Float[Tensor, "N Cout"]:
        """Standardised outputs at the nodes of one graph or of a batch of graphs.

        Args:
            graph: what `build_graph` makes, or a PyG batch of it.
            rank: latents to use; None for all.
        """
        return self.trunk(**self.trunk_inputs(graph), rank=rank)

    def trunk_inputs(self, graph: Data) -> dict[str, Any]:
        """What the trunk reads of a batch: `model.trunk(**inputs)` is a forward pass without index bookkeeping.

        A loop that meets the same batch again, or replays a CUDA graph, makes them once a batch. Statistics must be
        fitted before.

        Args:
            graph: what `build_graph` makes, or a PyG batch of it.
        """
        segments = segments_of(graph).with_indices()
        arch = self.config.architecture
        plan = None
        if arch.message_passing and graph.x.is_cuda:  # fused there; sorting would not pay on a CPU
            plan = EdgePlan.from_edges(graph.edge_index, segments.num_rows)
        joint = segments.interleave(_token_segments(graph, segments)) if arch.boundary_tokens else None
        if joint is not None:
            joint.segments.with_indices()
        x, condition = self._standardised_inputs(graph.x), self.condition_statistics(graph.condition)
        loads = None
        if self.columns.count:
            x, condition, of_nodes, of_meshes = self.columns.split(x, condition)
            loads = torch.cat([of_nodes, spread(of_meshes, segments)], dim=1)
        return {
            "x": x,
            "condition": condition,
            "loads": loads,
            "boundary_index": graph.boundary_index if arch.boundary_tokens else None,
            "segments": segments,
            "joint": joint,
            "log_weights": graph.log_weight if arch.quadrature else None,
            "edge_index": graph.edge_index if arch.message_passing else None,
            "edge_attr": graph.edge_attr if arch.message_passing else None,
            "plan": plan,
            "anchors": self._anchors(graph) if arch.num_scales else None,
        }

    def build_graph(self, mesh: Mesh, *, with_targets: bool = False, cache: MeshCache | None = None) -> Data:
        """What the model reads of a mesh; see `features.build_graph`."""
        return build_graph(mesh, self.config, with_targets=with_targets, cache=cache)

    @torch.no_grad()
    def predict(self, mesh: Mesh, *, boundary: Boundary | None = None, rank: int | None = None) -> dict[str, Tensor]:
        """Fields on a mesh, in physical units.

        ```python
        model.predict(mesh, boundary={"clamp": "fixed", "load": fc.Traction([0.0, -2.0])})
        ```

        Args:
            mesh: a mesh with the fields and sets that the configuration names.
            boundary: what the mesh's own sets are, where they have other names than in training, and the values there:
                set → "free", "fixed", `Value`, `Flux` or `Traction`; see `boundary.with_boundary`.
            rank: latents to use; None for all.

        Returns:
            Output name → [N] or [N, width], float32, on the CPU.

        Raises:
            InputError: if the mesh does not fit the model.
        """
        if boundary is not None:
            mesh = with_boundary(mesh, self.config, boundary)
        graph = self.build_graph(mesh).to(self.device)
        was_training = self.training
        self.eval()
        try:
            outputs = self.output_statistics.inverse(self(graph, rank).float()).cpu()
        finally:
            self.train(was_training)
        return self.split_outputs(outputs)

    def rank_for(self, meshes: Iterable[Mesh], tolerance: float) -> int:
        """The lowest rank whose predictions are as good as those of all latents; see `rank.rank_for`."""
        return rank_for(self, meshes, tolerance)

    def split_outputs(self, outputs: Float[Tensor, "N Cout"]) -> dict[str, Tensor]:
        """Columns of the outputs by name; a field of one component is [N]."""
        parts = outputs.split(list(self.config.outputs.values()), dim=1)
        return {
            name: part.squeeze(1) if part.shape[1] == 1 else part
            for name, part in zip(self.config.outputs, parts, strict=True)
        }

    def fit_statistics(self, graphs: Iterable[Data]) -> None:
        """Set the standardisation from the graphs of the training split, and of no other."""
        graphs = list(graphs)
        # What is in proportion stays so: no load, no field.
        self.condition_statistics.fit((graph.condition for graph in graphs), scaled=self.columns.meshes)
        in_proportion = range(len(self.output_statistics.mean)) if self.columns.count else ()
        self.output_statistics.fit((graph.y for graph in graphs), scaled=in_proportion)
        if self.num_standardised:
            first = num_node_features(self.config) - self.num_standardised
            scaled = [column - first for column in self.columns.nodes]
            self.input_statistics.fit((graph.x[:, first:] for graph in graphs), scaled=scaled)
        if self.config.architecture.num_scales:
            self.typical_cost.copy_(typical_cost(graphs))

    def _anchors(self, graph: Data) -> Anchors:
        tokens = None
        if self.config.architecture.boundary_tokens:
            tokens = graph.cost[graph.boundary_index].transpose(1, 2)
        return Anchors(cost=graph.cost.transpose(1, 2), typical=self.typical_cost, token_cost=tokens)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_statistics.mean.device

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())

    def save_pretrained(self, folder: str | Path, *, provenance: dict[str, Any] | None = None) -> Path:
        """Write `model.safetensors` and `config.json`.

        Args:
            folder: made if absent.
            provenance: JSON data about the training (data set, error, command), kept beside the configuration.
        """
        return save_pretrained(self, self.config.to_dict(), folder, kind="FlareConnect", provenance=provenance)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> "FlareConnect":
        """Read what `save_pretrained` wrote, or a model that comes with the package; nothing read can run code.

        ```python
        FlareConnect.from_pretrained("runs/brackets")  # a folder
        FlareConnect.from_pretrained("unit-cells")     # one of `shipped_models()`
        ```

        Args:
            folder: where the model lies; or, if nothing is at that path, the name of a shipped model.
            device: where to put the weights.

        Raises:
            CheckpointError: if the folder is missing, incomplete, damaged or of a newer version.
        """
        config, weights = load_pretrained(folder, kind="FlareConnect")
        model = cls(FlareConnectConfig.from_dict(config))
        model.load_state_dict(weights)
        return model.to(device).eval()

    def _standardised_inputs(self, x: Tensor) -> Tensor:
        if not self.num_standardised:
            return x
        return torch.cat([x[:, : -self.num_standardised], self.input_statistics(x[:, -self.num_standardised :])], dim=1)


def _token_segments(graph: Data, segments: Segments) -> Segments:
    if "boundary_lengths" in graph:
        return Segments.from_lengths(graph.boundary_lengths, graph.x.device)
    if segments.num_segments == 1:
        return Segments.from_lengths([len(graph.boundary_index)], graph.x.device)
    # The boundary nodes of a batch are sorted by mesh, so each mesh's count is a search away.
    return Segments.from_ptr(torch.searchsorted(graph.boundary_index, segments.ptr))
