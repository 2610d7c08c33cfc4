"""Small meshes that many tests share."""

import numpy as np
import torch

from flare_connect.mesh import Mesh, NamedSet, find_periodic_pairs


def plate(n=6, m=None, *, hole=True, seed=0, dim=2, stress=True):
    """A unit plate of triangles with a square hole, a smooth 'stress' field and a per-mesh load."""
    m = n if m is None else m
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.meshgrid(torch.linspace(0, 1, n + 1), torch.linspace(0, 1, m + 1), indexing="ij")
    pos = torch.stack([x.flatten(), y.flatten()], dim=1).double()
    quads = []
    for i in range(n):
        for j in range(m):
            inside = n // 3 <= i < 2 * n // 3 and m // 3 <= j < 2 * m // 3
            if not (hole and inside):
                a = i * (m + 1) + j
                quads.append([a, a + m + 1, a + m + 2, a + 1])
    quads = torch.tensor(quads)
    triangles = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    used, triangles = torch.unique(triangles, return_inverse=True)
    pos = pos[used]
    interior = (pos > 1e-9).all(1) & (pos < 1 - 1e-9).all(1)
    pos[interior] += 0.1 / n * (torch.rand(int(interior.sum()), 2, generator=generator).double() - 0.5)
    load = torch.rand(2, generator=generator) + 0.5
    field = load[0] * torch.sin(3 * pos[:, 0]) + load[1] * pos[:, 1] ** 2 + 1
    left = (pos[:, 0] < 1e-9).nonzero().squeeze(1)
    if dim == 3:
        pos = torch.cat([pos, 0.1 * pos[:, :1] ** 2], dim=1)
    return Mesh.from_arrays(
        pos,
        {"triangle": triangles},
        point_data={"stress": field.float(), "displacement": torch.stack([field, -field], 1).float()} if stress else {},
        global_data={"load": load},
        sets={"left": left},
        units={"stress": "MPa"},
    )


def square(side):
    """Coordinates `[N]` and `[N]`, triangles, and the pairs of left and right nodes of a unit square of side² nodes."""
    x, y = (grid.ravel() for grid in np.meshgrid(*[np.linspace(0, 1, side)] * 2, indexing="ij"))
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    triangles = np.concatenate(
        [np.stack([corner, corner + side, corner + side + 1], 1), np.stack([corner, corner + side + 1, corner + 1], 1)]
    )
    return x, y, triangles, np.stack([np.arange(side), np.arange(side) + side * (side - 1)])


def periodic_cell(n=12, strain=(0.01, -0.004, 0.003)):
    """A periodic unit cell with a square hole under a mean strain: what the shipped model "unit-cells" reads."""
    mesh = plate(n, stress=False)
    mesh.periodic_pairs = find_periodic_pairs(mesh)
    mesh.global_data = {"macro_strain": torch.tensor(strain)}
    rim = mesh.boundary_nodes
    inside = ((mesh.pos[rim] > 1e-9) & (mesh.pos[rim] < 1 - 1e-9)).all(1)
    mesh.sets = {"holes": NamedSet("node", rim[inside])}
    return mesh
