"""Plates of triangles with a crack or a slit, periodic cells and rings: meshes whose lips are known node by node."""

import numpy as np
import torch

from flare_connect.mesh import Mesh

DIAGONALS = [(0, 1, 2), (0, 2, 3)]


def quads(nx, ny):
    """Nodes `[nx + 1, ny + 1]` and cells `[nx, ny, 4]` of a grid, counter-clockwise."""
    node = np.arange((nx + 1) * (ny + 1)).reshape(nx + 1, ny + 1)
    return node, np.stack([node[:-1, :-1], node[1:, :-1], node[1:, 1:], node[:-1, 1:]], axis=2)


def plate(nx, ny=None, *, without=None, pairs=None, spacing=None):
    """A plate of unit squares cut in two, but for the squares marked in `without [nx, ny]`; and its grid of nodes."""
    ny = nx if ny is None else ny
    node, cell = quads(nx, ny)
    kept = cell[np.ones((nx, ny), dtype=bool) if without is None else ~without]
    triangles = kept[:, DIAGONALS].reshape(-1, 3)
    x, y = np.meshgrid(np.arange(nx + 1.0), np.arange(ny + 1.0), indexing="ij")
    pos = np.stack([x.ravel(), y.ravel()], 1) * (1.0 if spacing is None else spacing)
    return Mesh.from_arrays(pos, {"triangle": triangles}, periodic_pairs=pairs), node


def cracked(nx, ny, row, start, stop):
    """A plate with a crack without opening along a row from a tip at column `start` to one at `stop`.

    A column outside the plate is a mouth instead of a tip. Returns the mesh and the two nodes of each place on the
    crack `[2, columns]`, from the left to the right.
    """
    mesh, node = plate(nx, ny)
    columns = np.arange(max(start + 1, 0), min(stop, nx + 1))
    old = node[columns, row]
    new = np.arange(len(old)) + mesh.num_nodes
    rename = np.arange(mesh.num_nodes)
    rename[old] = new
    triangles = mesh.cells["triangle"].numpy().copy()
    above = mesh.pos.numpy()[triangles].mean(1)[:, 1] > row
    triangles[above] = rename[triangles[above]]
    pos = np.concatenate([mesh.pos.numpy(), mesh.pos.numpy()[old]])
    return Mesh.from_arrays(pos, {"triangle": triangles}), np.stack([old, new])


def slit(nx, ny, row, start, stop):
    """A plate without the squares of a row from column `start` to `stop`, and the lips `[2, stop - start + 1]`."""
    without = np.zeros((nx, ny), dtype=bool)
    without[max(start, 0) : stop, row] = True
    mesh, node = plate(nx, ny, without=without)
    columns = np.arange(max(start, 0), stop + 1)
    return mesh, np.stack([node[columns, row], node[columns, row + 1]])


def ring(inner, num_around, num_across):
    """A ring from radius `inner` to 1."""
    node, cell = quads(num_around, num_across)
    node = node % ((num_across + 1) * num_around)
    angle = 2 * np.pi * np.arange(num_around) / num_around
    radius = np.linspace(inner, 1, num_across + 1)
    pos = np.stack([np.outer(np.cos(angle), radius).ravel(), np.outer(np.sin(angle), radius).ravel()], 1)
    triangles = node.ravel()[cell.reshape(-1, 4)][:, DIAGONALS].reshape(-1, 3)
    return Mesh.from_arrays(pos, {"triangle": triangles})


def renumbered(mesh, seed=0):
    """The mesh with its nodes and cells in another order, and the new number of each node."""
    random = np.random.default_rng(seed)
    order = random.permutation(mesh.num_nodes)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    cells = {kind: number[random.permutation(nodes.numpy())] for kind, nodes in mesh.cells.items()}
    pairs = None if mesh.periodic_pairs is None else number[mesh.periodic_pairs.numpy()]
    return Mesh.from_arrays(mesh.pos.numpy()[order], cells, periodic_pairs=pairs), torch.from_numpy(number)


def moved(mesh, factor, shift=0.0, turn=0.0):
    """The mesh turned, scaled and shifted."""
    c, s = np.cos(turn), np.sin(turn)
    pos = factor * mesh.pos.numpy() @ np.array([[c, s], [-s, c]]) + shift
    return Mesh.from_arrays(pos, mesh.cells, periodic_pairs=mesh.periodic_pairs)
