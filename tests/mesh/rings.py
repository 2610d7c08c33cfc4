"""Meshes round a circle, whose fields are known: a ring, and a periodic cell with a hole."""

import numpy as np

from flare_connect.mesh import Mesh, find_periodic_pairs


def ring(n, kind="triangle", radii=(1.0, 2.0)):
    """A ring of n layers with sets of its two sides."""
    around = np.arange(6 * n) * 2 * np.pi / (6 * n)
    out = np.stack([np.cos(around), np.sin(around)], 1)
    layers = np.linspace(*radii, n + 1)[:, None, None]
    return _mesh(layers * out, kind)


def perforated_cell(n, radius, kind="triangle"):
    """A periodic unit cell, its hole at the origin: 8n nodes around, layers that grow outward, sets of the hole."""
    around = (np.arange(8 * n) - n) * 2 * np.pi / (8 * n)
    out = np.stack([np.cos(around), np.sin(around)], 1)
    sides = out / np.abs(out).max(1, keepdims=True) / 2
    share = np.linspace(0, 1, 2 * n + 1)
    share = (np.exp(np.log(0.5 / radius) * share) - 1) / (0.5 / radius - 1)
    mesh = _mesh(radius * out + share[:, None, None] * (sides - radius * out), kind)
    mesh.periodic_pairs = find_periodic_pairs(mesh)
    return mesh


def _mesh(layers, kind):
    """Layers of nodes `[layers, around, 2]` joined by cells."""
    num_layers, around = layers.shape[:2]
    ids = np.arange(num_layers * around).reshape(num_layers, around)
    inner, outer = ids[:-1], ids[1:]
    quads = np.stack([inner, outer, np.roll(outer, -1, 1), np.roll(inner, -1, 1)], -1).reshape(-1, 4)
    cells = quads if kind == "quad" else np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh.from_arrays(layers.reshape(-1, 2), {kind: cells}, sets={"inner": ids[0], "outer": ids[-1]})
