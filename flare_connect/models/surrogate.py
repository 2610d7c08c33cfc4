"""FlareConnect: from a mesh and its conditions to the fields on it."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.mesh import Mesh
from flare_kernels import EdgePlan, spread

from .boundary import Boundary, with_boundary
from .config import FlareConnectConfig
from .features import num_edge_features, segments_of
from .loads import load_columns
from .mesh_model import MeshModel, token_segments
from .rank import rank_for
from .statistics import Standardiser
from .trunk import Trunk


class FlareConnect(MeshModel):
    """A surrogate: mesh in, fields out.

    Encoder → hybrid blocks → decoder. Statistics of the training data are buffers, so they travel with the weights
    and `predict` takes and gives physical units.

    Args:
        config: what the model reads and predicts, and its architecture.

    Good values: see `Architecture`.
    Source: FLARE (arXiv 2508.12594) with message passing and boundary tokens.
    """

    kind = "FlareConnect"
    config: FlareConnectConfig

    def __init__(self, config: FlareConnectConfig) -> None:
        super().__init__(config, config)
        arch = config.architecture
        self.output_statistics = Standardiser(sum(config.outputs.values()))
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
        if arch.message_passing:
            plan = EdgePlan.from_edges(graph.edge_index, segments.num_rows)
        boundary = graph.boundary_index if arch.boundary_tokens else None
        joint = segments.interleave(token_segments(graph, segments)) if arch.boundary_tokens else None
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
            "boundary_index": boundary,
            "segments": segments,
            "joint": joint,
            "log_weights": graph.log_weight if arch.quadrature else None,
            "edge_index": graph.edge_index if arch.message_passing else None,
            "edge_attr": graph.edge_attr if arch.message_passing else None,
            "plan": plan,
            "anchors": self._anchors(graph.cost, boundary) if arch.num_scales else None,
        }

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
        self.fit_inputs(graphs, self.columns.nodes, self.columns.meshes)
        in_proportion = range(len(self.output_statistics.mean)) if self.columns.count else ()
        self.output_statistics.fit((graph.y for graph in graphs), scaled=in_proportion)

    @classmethod
    def _of(cls, config: dict[str, Any]) -> "FlareConnect":
        return cls(FlareConnectConfig.from_dict(config))
