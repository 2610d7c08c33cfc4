"""From a mesh to what the model reads: a PyG graph of numbers in units of the domain size.

Everything here follows from the mesh alone, so it is computed once a mesh, not once a step.
"""

import copy
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import Batch, Data

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, MeshCache, anchor_costs, find_periodic_pairs
from flare_kernels import Segments

from .boundary import (
    boundary_values,
    harmonic_inputs,
    num_boundary_values,
    num_harmonic_features,
    role_nodes,
    tensor_of,
)
from .config import Architecture, FlareConnectConfig
from .twins import closed_edges, first_twins, pairs_of

# Neighbours on the boundary whose normals are blended; the farthest one has weight zero, so that ties do not matter.
_NUM_BLENDED = 8
# Decay length of the near-boundary feature in units of the domain's half size: a few elements of a usual mesh.
_BOUNDARY_LAYER = 0.05


def num_node_features(config: FlareConnectConfig) -> int:
    """Width F of the node features that `build_graph` makes, inputs included."""
    geometry = config.dim * (1 + 2 * config.architecture.num_frequencies)
    boundary = max(len(config.boundary), 1) + 2 + config.dim
    return geometry + boundary + num_standardised_features(config)


def num_standardised_features(config: FlareConnectConfig) -> int:
    """How many of the node features, the last ones, have physical units and are to be standardised."""
    projections = sum(num_projections(config, name) for name in config.directional)
    return projections + num_boundary_values(config) + num_harmonic_features(config) + sum(config.inputs.values())


def num_projections(config: FlareConnectConfig, name: str) -> int:
    """How many of them are projections of this condition on the normal."""
    return 1 if config.conditions[name] == config.dim else config.dim + 1


def num_edge_features(config: FlareConnectConfig) -> int:
    """Width E of the edge features: direction, log length, both ends on the boundary, periodic."""
    return config.dim + 3


def num_condition_features(config: FlareConnectConfig) -> int:
    """Width G of the per-mesh features: the conditions and the log of the mesh's size."""
    return sum(config.conditions.values()) + 1


def build_graph(
    mesh: Mesh, config: FlareConnectConfig, *, with_targets: bool = False, cache: MeshCache | None = None
) -> Data:
    """Features of one mesh for one model.

    Args:
        mesh: the mesh, with the fields and sets that the configuration names.
        config: what the model reads.
        with_targets: also collect the outputs, as `y`.
        cache: where anchors and costs are kept, and taken from if they are there.

    Returns:
        A graph with `x [N, F]` (positions as sines and cosines, boundary type, distance and normal, projections of
        directional conditions, values given at the boundary, harmonic inputs, inputs),
        `edge_index [2, E]`, `edge_attr [E, dim + 3]`, `boundary_index [Nb]`, `log_weight [N]`, `condition [1, G]` and,
        if asked for, `y [N, Cout]`; all float32, inputs and targets not normalised. With anchors also `cost [N, S, M]`
        in half precision; closed, on a periodic mesh, also `twin_index [N]`, the first of a node's twins.

    Raises:
        InputError: if the mesh has another dimension, lacks a field or a set, its conditions leave the harmonic
            inputs open, or it does not repeat where the model wants it to.
    """
    _check(mesh, config, with_targets)
    mesh = _with_pairs(mesh, config)
    pos, used = mesh.pos.double().numpy(), (mesh.component >= 0).numpy()
    low, high = pos[used].min(0), pos[used].max(0)
    half_size = float((high - low).max()) / 2
    scaled = torch.from_numpy((pos - (low + high) / 2) / half_size)
    at = role_nodes(mesh, config.roles)
    boundary, flags = _boundary(mesh, at)
    layer = _boundary_layer(mesh, boundary, half_size)
    normals = layer[:, -config.dim :]
    graph = Data(
        x=torch.cat(
            [
                _positions(scaled, config.architecture.num_frequencies),
                flags,
                layer,
                *(_projections(mesh.global_data[name].double(), normals) for name in config.directional),
                boundary_values(mesh, config, at),
                *([harmonic_inputs(mesh, config)] if config.harmonic else []),
                *(_columns(mesh.point_data[name]) for name in config.inputs),
            ],
            dim=1,
        ).float(),
        boundary_index=boundary,
        log_weight=_log_weights(mesh),
        condition=_condition(mesh, config, half_size),
        num_nodes=len(pos),
    )
    if config.architecture.message_passing:
        graph.edge_index, graph.edge_attr = _edges(mesh, flags.any(1), half_size, config.closed)
    if config.closed and (pairs := pairs_of(mesh)) is not None:
        graph.twin_index = first_twins(pairs, mesh.num_nodes)
    if config.architecture.anchors != "none":
        graph.cost = _costs(mesh, config.architecture, cache)
    if with_targets:
        graph.y = torch.cat([_columns(mesh.point_data[name]) for name in config.outputs], dim=1).float()
    copy_to_unused(mesh, *(graph[name] for name in ("x", "y") if name in graph))
    return graph


def _costs(mesh: Mesh, arch: Architecture, cache: MeshCache | None) -> Float[Tensor, "N S M"]:
    options: dict[str, Any] = {"kind": arch.anchors, "scales": arch.anchor_scales}
    kept = partial(cache, anchor_costs) if cache else anchor_costs
    return kept(mesh, arch.num_latents, **options)[1]


def copy_to_unused(mesh: Mesh, *values: Tensor) -> None:
    """Give nodes that no cell uses the values `[N, …]` of one that is used, in place.

    They may lie anywhere and hold anything. So they tell nothing new to whoever takes a mean or a norm over nodes.
    """
    unused = mesh.component < 0
    if unused.any():
        first = int(torch.nonzero(~unused)[0])
        for each in values:
            each[unused] = each[first].clone()


def collate(graphs: Sequence[Data]) -> Batch:
    """A batch of graphs that knows the size of each on the host, so that no layer waits for the device to tell."""
    batch = Batch.from_data_list(list(graphs))
    batch.lengths = tuple(graph.num_nodes for graph in graphs)
    batch.boundary_lengths = tuple(len(graph.boundary_index) for graph in graphs)
    return batch


def segments_of(graph: Data) -> Segments:
    """Where each mesh of a batch starts; a single graph is one segment."""
    if not isinstance(graph, Batch):
        return Segments.from_lengths([graph.num_nodes], graph.x.device)
    if "lengths" in graph:
        return Segments(graph.ptr, tuple(graph.lengths))
    return Segments.from_ptr(graph.ptr)


def _check(mesh: Mesh, config: FlareConnectConfig, with_targets: bool) -> None:
    dim = mesh.pos.shape[1]
    if dim != config.dim:
        raise InputError(f"the mesh has dimension {dim}, the model was made for dimension {config.dim}")
    wanted = {"input": config.inputs} | ({"output": config.outputs} if with_targets else {})
    for role, fields in wanted.items():
        for name, width in fields.items():
            _check_field(role, name, width, mesh.point_data, "point field")
    for name, width in config.conditions.items():
        _check_field("condition", name, width, mesh.global_data, "global field")


def _check_field(role: str, name: str, width: int, present: dict[str, Tensor], kind: str) -> None:
    if name not in present:
        raise InputError(f"the model's {role} {name!r} is no {kind} of the mesh; it has: {_listed(present)}")
    values = present[name]
    actual = values.numel() if kind == "global field" else values[0].numel()
    if actual != width:
        raise InputError(f"the model's {role} {name!r} has {width} components, the mesh's {kind} {actual}")


def _listed(names: dict) -> str:
    return ", ".join(map(repr, names)) or "none"


def _columns(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).double()


def _positions(scaled: Float[Tensor, "N dim"], num_frequencies: int) -> Float[Tensor, "N F"]:
    octaves = torch.pi * 2.0 ** torch.arange(num_frequencies, dtype=torch.float64)
    angles = (scaled[:, :, None] * octaves).flatten(1)
    return torch.cat([scaled, angles.sin(), angles.cos()], dim=1)


def _boundary(mesh: Mesh, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Nodes of the boundary that conditions live on, and a column for each type."""
    flags = torch.zeros(mesh.num_nodes, len(groups), dtype=torch.float64)
    for column, nodes in enumerate(groups):
        flags[nodes, column] = 1.0
    return flags.any(1).nonzero().squeeze(1), flags


def _boundary_layer(mesh: Mesh, boundary: Tensor, half_size: float) -> Float[Tensor, "N F"]:
    """Distance to the boundary, its decay, and the outward normal of the boundary nearby."""
    dim = mesh.pos.shape[1]
    if len(boundary) == 0:
        far = torch.ones(mesh.num_nodes, 1, dtype=torch.float64)
        return torch.cat([far, torch.zeros(mesh.num_nodes, 1 + dim, dtype=torch.float64)], dim=1)
    points = mesh.pos[boundary].double().numpy()
    images, image_normals = _periodic_images(mesh, points, mesh.normals_on(boundary).numpy())
    count = min(_NUM_BLENDED, len(images))
    distance, nearest = cKDTree(images).query(mesh.pos.double().numpy(), k=[*range(1, count + 1)])
    reach = distance[:, -1:] + 1e-12
    # Shepard weights, zero at the farthest neighbour: continuous, and the same however the nodes are numbered.
    weights = (reach - distance) / (distance + 1e-3 * reach)
    blended = np.einsum(
        "nk,nkd->nd", weights / np.maximum(weights.sum(1, keepdims=True), 1e-12), image_normals[nearest]
    )
    scaled = distance[:, :1] / half_size
    return torch.from_numpy(np.concatenate([scaled, np.exp(-scaled / _BOUNDARY_LAYER), blended], axis=1))


def _projections(values: Float[Tensor, " W"], normals: Float[Tensor, "N dim"]) -> Float[Tensor, "N P"]:
    """A vector f as n·f; a symmetric tensor E as E·n and n·E·n."""
    rows = tensor_of(values.reshape(-1), normals.shape[1])
    acting = normals @ rows.T
    return acting if len(rows) == 1 else torch.cat([acting, (acting * normals).sum(1, keepdim=True)], dim=1)


def _periodic_images(mesh: Mesh, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boundary points and, on a periodic mesh, their neighbours across the sides."""
    pairs = pairs_of(mesh)
    if pairs is None:
        return points, normals
    jumps = (mesh.pos[pairs[1]] - mesh.pos[pairs[0]]).double().numpy()
    size = np.abs(jumps).max()
    axes = np.unique(np.round(np.abs(jumps) / size, 6), axis=0) * size
    periods = [axis for axis in axes if np.count_nonzero(axis > 1e-6 * size) == 1]
    shifts = [sum(np.multiply(c, p) for c, p in zip(combo, periods, strict=True))
              for combo in itertools.product((-1, 0, 1), repeat=len(periods))]  # fmt: skip
    return np.concatenate([points + shift for shift in shifts]), np.tile(normals, (len(shifts), 1))


def _with_pairs(mesh: Mesh, config: FlareConnectConfig) -> Mesh:
    """The mesh, or a shallow copy that has periodic pairs where the model wants them and the mesh names none."""
    if not config.periodic or pairs_of(mesh) is not None:
        return mesh
    pairs = find_periodic_pairs(mesh)
    if not pairs.numel():
        raise InputError(
            "the model was trained on meshes that repeat, and no two opposite sides of this one have the same nodes: "
            "mesh both sides alike, or name the nodes that are one in `mesh.periodic_pairs`"
        )
    found = copy.copy(mesh)
    found.periodic_pairs = pairs
    return found


def _log_weights(mesh: Mesh) -> Float[Tensor, " N"]:
    """Log of the node volume relative to the mean; −inf for a node that no cell uses."""
    volume = mesh.node_volume.double()
    return torch.log(volume / volume[volume > 0].mean()).float()


def _condition(mesh: Mesh, config: FlareConnectConfig, half_size: float) -> Float[Tensor, "1 G"]:
    numbers = [mesh.global_data[name].reshape(-1).double() for name in config.conditions]
    return torch.cat([*numbers, torch.tensor([half_size]).double().log()]).float()[None]


def _edges(mesh: Mesh, on_boundary: Tensor, half_size: float, closed: bool) -> tuple[Tensor, Tensor]:
    edge_index = mesh.edge_index
    vectors = (mesh.pos[edge_index[1]] - mesh.pos[edge_index[0]]).double()
    lengths = vectors.norm(dim=1, keepdim=True)
    both = on_boundary[edge_index].all(0)[:, None].double()
    attr = torch.cat([vectors / lengths, (lengths / half_size).log(), both, torch.zeros_like(both)], dim=1)
    pairs = pairs_of(mesh)
    if pairs is not None and closed:
        edge_index, rows = closed_edges(edge_index, first_twins(pairs, mesh.num_nodes))
        attr = attr[rows]
    elif pairs is not None:
        # The two ends are one material point: an edge without direction or length, and a flag that says so.
        across = torch.cat([pairs, pairs.flip(0)], dim=1)
        same = torch.zeros(across.shape[1], attr.shape[1], dtype=attr.dtype)
        same[:, -1] = 1.0
        edge_index, attr = torch.cat([edge_index, across], dim=1), torch.cat([attr, same])
    return edge_index, attr.float()
