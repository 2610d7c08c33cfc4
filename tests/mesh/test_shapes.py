"""Shapes whose numbers are known: holes, handles, cavities and boundary parts, on meshes nobody structured."""

import itertools

import numpy as np
import pytest
import torch
from mesh.meshes import grid
from scipy.spatial import Delaunay

from flare_connect.mesh import Mesh, find_periodic_pairs
from flare_datasets.meshing import leave_broken_pipes_to_python


def betti_by_rank(mesh):
    """Betti numbers over the field of two elements: ranks of the boundary matrices of the simplicial complex."""
    ((kind, cells),) = mesh.cells.items()
    assert kind in ("triangle", "tetra")
    top = [tuple(sorted(cell)) for cell in cells.tolist()]
    simplices = {len(top[0]) - 1: sorted(set(top))}
    for size in range(len(top[0]) - 1, 0, -1):
        simplices[size - 1] = sorted({face for s in simplices[size] for face in itertools.combinations(s, size)})
    ranks = {0: 0, len(top[0]): 0}
    for size in range(1, len(top[0])):
        place = {face: i for i, face in enumerate(simplices[size - 1])}
        ranks[size] = rank_mod_2([sum(1 << place[f] for f in itertools.combinations(s, size)) for s in simplices[size]])
    found = [len(simplices[d]) - ranks[d] - ranks[d + 1] for d in range(len(top[0]))]
    return tuple(found[:3] + [0] * (3 - len(found)))


def rank_mod_2(rows):
    """Rank of a matrix whose rows are the bits of integers."""
    pivots = {}
    for row in rows:
        while row:
            high = row.bit_length()
            if high not in pivots:
                pivots[high] = row
                break
            row ^= pivots[high]
    return len(pivots)


def numbers(mesh):
    found = mesh.topology
    return found.betti, found.genus, found.num_boundary_components, mesh.num_components


def planar(inside, num=900, seed=0):
    """Scattered points in the unit square, meshed, and the triangles that lie inside with all corners."""
    rng = np.random.default_rng(seed)
    n = round(num**0.5)
    x = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2) / (n - 1)
    free = ((x > 0) & (x < 1)).all(1)
    x = x + free[:, None] * rng.uniform(-0.3, 0.3, x.shape) / n
    cells = Delaunay(x).simplices
    cells = cells[inside(x[cells].mean(1)) & inside(x)[cells].all(1)]
    used, index = np.unique(cells, return_inverse=True)
    order = rng.permutation(len(used))
    mesh = Mesh.from_arrays(x[used][np.argsort(order)], {"triangle": order[index.reshape(-1, 3)]})
    return mesh


def disc(x):
    return np.linalg.norm(x - 0.5, axis=1) < 0.45


def ring(x):
    return disc(x) & (np.linalg.norm(x - 0.5, axis=1) > 0.2)


def test_disc_and_annulus():
    assert numbers(planar(disc)) == ((1, 0, 0), 0, 1, 1)
    assert numbers(planar(ring)) == ((1, 1, 0), 0, 2, 1)
    assert betti_by_rank(planar(disc, 200)) == (1, 0, 0)
    assert betti_by_rank(planar(ring, 300)) == (1, 1, 0)


@pytest.mark.parametrize("holes", range(21))
def test_a_plate_with_holes(holes):
    centres = np.stack(np.meshgrid((np.arange(5) + 0.5) / 5, (np.arange(4) + 0.5) / 4), -1).reshape(-1, 2)
    centres = centres[np.random.default_rng(holes).permutation(20)[:holes]]
    plate = planar(lambda x: (np.abs(x[:, None] - centres).max(2) > 0.05).all(1), 3600, seed=holes)
    assert numbers(plate) == ((1, holes, 0), 0, holes + 1, 1)
    assert plate.topology.euler == 1 - holes
    label = plate.boundary_component
    for number in range(holes + 1):  # each hole is a ring round its own centre; the outer skin comes first
        spread = np.ptp(plate.pos[label == number].numpy(), axis=0).max()
        assert (spread == 1) if number == 0 else spread < 0.3


def wrapped(num_around, num_tube, twist=0):
    """Cell corners on a torus of quads; a twist shifts the last ring against the first."""
    i, j = np.meshgrid(np.arange(num_around), np.arange(num_tube), indexing="ij")
    ids = i * num_tube + j
    last = i + 1 == num_around
    ahead = np.where(last, (j + twist) % num_tube, (i + 1) * num_tube + j)
    ahead_up = np.where(last, (j + 1 + twist) % num_tube, (i + 1) * num_tube + (j + 1) % num_tube)
    return np.stack([ids, ahead, ahead_up, i * num_tube + (j + 1) % num_tube], -1).reshape(-1, 4)


@pytest.mark.parametrize("kind", ["quad", "triangle"])
@pytest.mark.parametrize("twist", [0, 3])
def test_the_surface_of_a_torus(kind, twist):
    a, b = np.meshgrid(2 * np.pi * np.arange(18) / 18, 2 * np.pi * np.arange(9) / 9, indexing="ij")
    pos = np.stack([(2 + np.cos(b)) * np.cos(a), (2 + np.cos(b)) * np.sin(a), np.sin(b)], -1).reshape(-1, 3)
    quads = wrapped(18, 9, twist)
    cells = quads if kind == "quad" else np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    mesh = Mesh.from_arrays(pos, {kind: cells})
    assert numbers(mesh) == ((1, 2, 1), 1, 0, 1)
    assert mesh.topology.euler == 0
    if kind == "triangle":
        assert betti_by_rank(mesh) == (1, 2, 1)


@pytest.mark.parametrize("half_turns", [0, 1, 2, 3])
def test_a_band_of_paper(half_turns):
    """An even number of half turns is a cylinder with two rims, an odd one a Möbius band with one."""
    n = 24
    t = 2 * np.pi * np.arange(n) / n
    width = np.array([-0.3, 0.0, 0.3])
    turn = half_turns * t / 2
    r = 1 + width * np.cos(turn)[:, None]
    pos = np.stack([r * np.cos(t)[:, None], r * np.sin(t)[:, None], width * np.sin(turn)[:, None]], -1).reshape(-1, 3)
    cells = []
    for i, j in itertools.product(range(n), range(2)):
        low, high = (3 * i + j, 3 * i + j + 1)
        ends = (3 * (i + 1) + j, 3 * (i + 1) + j + 1) if i + 1 < n else (
            (2 - j, 1 - j) if half_turns % 2 else (j, j + 1))  # fmt: skip
        cells += [(low, ends[0], ends[1]), (low, ends[1], high)]
    band = Mesh.from_arrays(pos, {"triangle": cells})
    assert numbers(band) == ((1, 1, 0), 0, 1 if half_turns % 2 else 2, 1)
    assert betti_by_rank(band) == (1, 1, 0)


def solid(build, size):
    """Tetrahedra that gmsh puts into a shape; nodes numbered from 0, those that no cell uses left out."""
    gmsh = pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    gmsh.initialize(interruptible=False)
    leave_broken_pipes_to_python()
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.option.setNumber("General.NumThreads", 1)
        gmsh.option.setNumber("Mesh.MeshSizeMin", size)
        gmsh.option.setNumber("Mesh.MeshSizeMax", size)
        build(gmsh.model.occ)
        gmsh.model.occ.synchronize()
        gmsh.model.mesh.generate(3)
        tags, points, _ = gmsh.model.mesh.getNodes()
        _, _, (cells,) = gmsh.model.mesh.getElements(3)
    finally:
        gmsh.finalize()
    place = np.zeros(int(tags.max()) + 1, dtype=np.int64)
    place[tags.astype(np.int64)] = np.arange(len(tags))
    used, index = np.unique(place[cells.astype(np.int64)], return_inverse=True)
    return Mesh.from_arrays(points.reshape(-1, 3)[used], {"tetra": index.reshape(-1, 4)})


def quadratic(mesh):
    """The same tetrahedra with midside nodes."""
    cells = mesh.cells["tetra"].numpy()
    pairs = cells[:, [[0, 1], [1, 2], [2, 0], [0, 3], [1, 3], [2, 3]]].reshape(-1, 2)
    edges, index = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    pos = np.concatenate([mesh.pos.numpy(), mesh.pos.numpy()[edges].mean(1)])
    return Mesh.from_arrays(pos, {"tetra10": np.concatenate([cells, len(mesh.pos) + index.reshape(-1, 6)], axis=1)})


def doughnut(occ):
    occ.addTorus(0, 0, 0, 1, 0.3)


def shell(occ):
    occ.cut([(3, occ.addSphere(0, 0, 0, 1))], [(3, occ.addSphere(0, 0, 0, 0.5))])


def linked(occ):
    occ.addTorus(0, 0, 0, 1, 0.25)
    occ.rotate([(3, occ.addTorus(1, 0, 0, 1, 0.25))], 1, 0, 0, 1, 0, 0, np.pi / 2)


def drilled(occ):
    occ.cut(
        [(3, occ.addBox(0, 0, 0, 3, 1, 1))],
        [(3, occ.addCylinder(x, -1, 0.5, 0, 3, 0, 0.25)) for x in (0.5, 1.5, 2.5)]
        + [(3, occ.addSphere(1, 0.5, 0.5, 0.15))],
    )


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (doughnut, ((1, 1, 0), 1, 1, 1)),
        (shell, ((1, 0, 1), 0, 2, 1)),
        (linked, ((2, 2, 0), 2, 2, 2)),  # that the rings are linked, no count of holes can tell
        (drilled, ((1, 3, 1), 3, 2, 1)),
    ],
    ids=["solid torus", "hollow sphere", "linked rings", "drilled block"],
)
def test_solids(build, expected):
    mesh = solid(build, 0.3)
    assert numbers(mesh) == expected
    assert numbers(quadratic(mesh)) == expected
    skin = Mesh.from_arrays(mesh.pos, {"triangle": mesh.boundary_facets["triangle"]})
    (parts, loops, cavities), genus, rims, _ = numbers(skin)
    # the skin has twice the loops of what it holds, and each part of it is closed
    assert (parts, loops, cavities, rims) == (expected[2], 2 * expected[1], expected[2], 0)
    assert genus == expected[1]


def test_small_solids_by_rank():
    mesh = solid(doughnut, 0.5)
    assert betti_by_rank(mesh) == mesh.topology.betti == (1, 1, 0)
    block = grid("tetra", (3, 3, 3))
    hollow = block.cells["tetra"][~((block.pos[block.cells["tetra"]].mean(1) - 1.5).abs().amax(1) < 0.5)]
    mesh = Mesh.from_arrays(block.pos, {"tetra": hollow})
    assert betti_by_rank(mesh) == mesh.topology.betti == (1, 0, 1)


def test_a_periodic_cell_with_holes_is_a_torus_with_holes():
    square = grid("triangle", (20, 20))
    middle = square.pos[square.cells["triangle"]].mean(1)
    centres = torch.tensor([[5.0, 5.0], [14.0, 6.0], [10.0, 15.0]])
    keep = ((middle[:, None] - centres).norm(dim=2) > 2).all(1)
    cell = Mesh.from_arrays(square.pos, {"triangle": square.cells["triangle"][keep]})
    cell.periodic_pairs = find_periodic_pairs(cell)
    found = cell.topology
    assert (found.betti, found.genus, found.num_boundary_components, found.euler) == ((1, 4, 0), 1, 3, -3)
    cell.periodic_pairs = find_periodic_pairs(cell, axes=[0])  # a tube with holes
    found = cell.topology
    assert (found.betti, found.genus, found.num_boundary_components, found.euler) == ((1, 4, 0), 0, 5, -3)
