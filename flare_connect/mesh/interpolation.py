"""Moving fields between cells and nodes."""

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.mesh import Mesh


def cell_to_point(mesh: Mesh, name: str) -> Float[Tensor, "N ..."]:
    """Averages a cell field to the nodes: `f_n = Σ_c |c| f_c / Σ_c |c|` over the cells c that use node n.

    Args:
        mesh: a mesh with the cell field.
        name: the field.

    Returns:
        Values at the nodes `[N]` or `[N, c]`; zero at a node that no cell with the field uses.

    Raises:
        MeshError: there is no such cell field.
    """
    if name not in mesh.cell_data:
        known = ", ".join(map(repr, mesh.cell_data)) or "none"
        raise MeshError(f"the mesh has no cell field {name!r}; its cell fields: {known}")
    measures = mesh.cell_measure
    total, weight = None, torch.zeros(mesh.num_nodes, dtype=torch.float64)
    for kind, values in mesh.cell_data[name].items():
        nodes = mesh.cells[kind]
        # A cell of measure zero still says something about its nodes, if nothing else does.
        size = measures[kind].double().abs().clamp_min(1e-300)
        share = (size[:, None] * values.double().reshape(len(values), -1)).repeat_interleave(nodes.shape[1], 0)
        if total is None:
            total = torch.zeros(mesh.num_nodes, share.shape[1], dtype=torch.float64)
        total.index_add_(0, nodes.flatten(), share)
        weight.index_add_(0, nodes.flatten(), size.repeat_interleave(nodes.shape[1]))
    assert total is not None
    shape = next(iter(mesh.cell_data[name].values())).shape[1:]
    return (total / weight.masked_fill(weight == 0, 1.0)[:, None]).reshape(mesh.num_nodes, *shape).float()
