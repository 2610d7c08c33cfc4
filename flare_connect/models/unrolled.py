"""A batch of meshes once for each time step: what does not change from step to step, laid out for all of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Data

from flare_kernels import EdgePlan, JointSegments, Segments

from .config import Architecture
from .features import segments_of
from .mesh_model import token_segments


@dataclass(frozen=True, eq=False, kw_only=True)
class Unrolled:
    """Meshes at T time steps: the steps of a mesh one after another, then the next mesh. N nodes become T·N points.

    Attributes:
        num_steps: T.
        meshes: where each mesh starts in the nodes.
        nodes: the node that each point is.
        rows: the row of each point among the nodes at their steps, flattened.
        places: the point of each node at each step.
        steps: where each step of each mesh starts in the points.
        sequences: where each mesh starts in the steps.
        tokens: points that are boundary tokens; None without these.
        joint: the points joined with the tokens.
        log_weights: log weight of each point in the gather.
        edge_index: edges within each step; None without message passing.
        edge_attr: their features.
        plan: the edges sorted.
        cost: of each point, in the layout of graphs; None without anchors.
    """

    num_steps: int
    meshes: Segments
    nodes: Int[Tensor, " TN"]
    rows: Int[Tensor, " TN"]
    places: Int[Tensor, "N T"]
    steps: Segments
    sequences: Segments
    tokens: Int[Tensor, " Nt"] | None
    joint: JointSegments | None
    log_weights: Float[Tensor, " TN"] | None
    edge_index: Int[Tensor, "2 TE"] | None
    edge_attr: Float[Tensor, "TE E"] | None
    plan: EdgePlan | None
    cost: Tensor | None

    @classmethod
    def of(cls, graph: Data, num_steps: int, arch: Architecture) -> "Unrolled":
        """Lay a graph or a batch of graphs out; with one step nothing is copied.

        Every index is made here: a CUDA graph of a step that made one would leave it empty until its first replay.

        Args:
            graph: what `build_graph` makes, or a batch of it.
            num_steps: T.
            arch: of the model.
        """
        meshes = segments_of(graph).with_indices()
        steps, nodes = repeated(meshes, num_steps)
        steps = steps.with_indices()
        device = nodes.device
        rows = nodes * num_steps + steps.batch % num_steps
        places = rows.new_empty(len(rows)).index_copy(0, rows, torch.arange(len(rows), device=device))
        sequences = Segments.uniform(meshes.num_segments, num_steps, device)
        _ = sequences.batch
        tokens = joint = None
        if arch.boundary_tokens:
            each, index = repeated(token_segments(graph, meshes), num_steps)
            of_mesh = graph.boundary_index[index]
            tokens = of_mesh - meshes.ptr[meshes.batch[of_mesh]] + steps.ptr[:-1][each.batch]
            joint = steps.interleave(each)
            joint.segments.with_indices()
            joint.token_segments.with_indices()
        edges = attr = plan = None
        if arch.message_passing:
            edges, attr = graph.edge_index, graph.edge_attr
            if num_steps > 1:
                mesh = meshes.batch[edges[0]]
                first = meshes.ptr[:-1][mesh]
                size = (meshes.ptr[1:] - meshes.ptr[:-1])[mesh]
                later = torch.arange(num_steps, device=device)[:, None] * size
                edges = (edges - first + num_steps * first)[:, None] + later
                edges, attr = edges.flatten(1), attr.repeat(num_steps, 1)
            plan = EdgePlan.from_edges(edges, steps.num_rows)
        own = num_steps > 1
        weights = graph.log_weight if arch.quadrature else None
        cost = graph.cost if arch.num_scales else None
        return cls(
            num_steps=num_steps, meshes=meshes, nodes=nodes, rows=rows, places=places.view(-1, num_steps),
            steps=steps, sequences=sequences, tokens=tokens, joint=joint,
            log_weights=weights[nodes] if own and weights is not None else weights,
            edge_index=edges, edge_attr=attr, plan=plan,
            cost=cost[nodes] if own and cost is not None else cost,
        )  # fmt: skip

    def points(self, values: Float[Tensor, "N T W"]) -> Float[Tensor, "TN W"]:
        """Values of nodes at steps as those of points."""
        return values.flatten(0, 1).index_select(0, self.rows)

    def frames(self, values: Float[Tensor, "TN W"]) -> Float[Tensor, "N T W"]:
        """Values of points as those of nodes at steps."""
        return values.index_select(0, self.places.flatten()).unflatten(0, (-1, self.num_steps))


def repeated(segments: Segments, times: int) -> tuple[Segments, Int[Tensor, " R"]]:
    """Each segment so many times in a row, and which row each of the new rows is."""
    if times == 1:
        return segments, torch.arange(segments.num_rows, device=segments.ptr.device)
    lengths = [length for length in segments.lengths for _ in range(times)]
    all_of_them = Segments.from_lengths(lengths, segments.ptr.device)
    first = segments.ptr[:-1][all_of_them.batch // times] - all_of_them.ptr[:-1][all_of_them.batch]
    return all_of_them, torch.arange(all_of_them.num_rows, device=first.device) + first
