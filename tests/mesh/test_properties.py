"""What must hold on any mesh: numbering, place and size do not matter; counts and sums agree with one another."""

import itertools

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mesh.meshes import grid
from mesh.test_shapes import betti_by_rank
from scipy.spatial import Delaunay

from flare_connect.mesh import (
    CELL_KINDS,
    Mesh,
    anchors,
    component_distances,
    diffusion_cost,
    geodesic_distance,
    local_thickness,
)
from flare_connect.mesh.operators import laplacian

common = settings(max_examples=60, deadline=None, derandomize=True, database=None)
KINDS = [kind for kind, known in CELL_KINDS.items() if known.dim > 1 and known.corners != "pyramid"]
seeds = st.integers(0, 2**32 - 1)


@st.composite
def simplicial(draw, max_nodes=40):
    """Scattered nodes in the plane or in space, meshed by Delaunay, some cells taken out."""
    dim = draw(st.integers(2, 3))
    rng = np.random.default_rng(draw(seeds))
    pos = rng.uniform(size=(draw(st.integers(dim + 2, max_nodes)), dim))
    cells = Delaunay(pos).simplices.astype(np.int64)
    keep = rng.uniform(size=len(cells)) < draw(st.sampled_from([0.3, 0.7, 1.0]))
    keep[0] = True
    # slivers at the hull have next to no volume, and what divides by it has no digits
    sides = pos[cells[:, 1:]] - pos[cells[:, :1]]
    keep &= np.abs(np.linalg.det(sides)) > 1e-4
    assume(keep.any())
    return Mesh.from_arrays(pos, {"triangle" if dim == 2 else "tetra": cells[keep]})


@st.composite
def structured(draw):
    """A box of cells of any kind, all nodes moved about a little, some cells taken out."""
    kind = draw(st.sampled_from(KINDS))
    dim = CELL_KINDS[kind].dim
    mesh = grid(kind, [draw(st.integers(1, 3)) for _ in range(dim)])
    rng = np.random.default_rng(draw(seeds))
    pos = mesh.pos + torch.from_numpy(rng.uniform(-0.04, 0.04, mesh.pos.shape))
    keep = torch.from_numpy(rng.uniform(size=mesh.num_cells) < draw(st.sampled_from([0.6, 1.0])))
    keep[0] = True
    return Mesh.from_arrays(pos, {kind: mesh.cells[kind][keep]})


meshes = st.one_of(simplicial(), structured())


def renumbered(mesh, seed):
    """The same mesh with nodes and cells in another order; `order[i]` is the old number of node i."""
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(mesh.num_nodes))
    new = torch.argsort(order)
    cells = {kind: new[nodes][torch.from_numpy(rng.permutation(len(nodes)))] for kind, nodes in mesh.cells.items()}
    return Mesh.from_arrays(mesh.pos[order], dict(reversed(cells.items()))), order


def partition_of(labels):
    return {frozenset(torch.nonzero(labels == value).flatten().tolist()) for value in labels.unique() if value >= 0}


def used_nodes(mesh):
    return torch.nonzero(mesh.component >= 0).flatten()


@common
@given(meshes, seeds)
def test_numbering_does_not_matter(mesh, seed):
    other, order = renumbered(mesh, seed)
    assert other.topology == mesh.topology
    assert partition_of(other.component) == partition_of(mesh.component[order])
    assert partition_of(other.boundary_component) == partition_of(mesh.boundary_component[order])
    torch.testing.assert_close(other.node_volume, mesh.node_volume[order])
    on = mesh.boundary_nodes
    assert sorted(order[other.boundary_nodes].tolist()) == on.tolist()
    torch.testing.assert_close(other.normals_on(torch.argsort(order)[on]), mesh.normals_on(on), rtol=1e-6, atol=1e-9)
    assert {tuple(edge) for edge in order[other.edge_index].T.tolist()} == {
        tuple(e) for e in mesh.edge_index.T.tolist()
    }


@common
@given(meshes, seeds)
def test_distances_and_costs_do_not_depend_on_numbering(mesh, seed):
    other, order = renumbered(mesh, seed)
    new = torch.argsort(order)
    source = used_nodes(mesh)[:3]
    for through in ("cells", "edges"):
        torch.testing.assert_close(
            geodesic_distance(other, new[source], through=through),
            geodesic_distance(mesh, source, through=through)[:, order],
            rtol=1e-6, atol=1e-9,
        )  # fmt: skip
    torch.testing.assert_close(
        diffusion_cost(other, new[source]), diffusion_cost(mesh, source)[order], rtol=1e-6, atol=1e-6
    )
    count = min(5, len(used_nodes(mesh)))
    nearest = anchors(mesh, count)[1]
    torch.testing.assert_close(anchors(other, count)[1], nearest[order], rtol=1e-9, atol=1e-9)


@common
@given(meshes, seeds, st.sampled_from([1e-3, 0.7, 50.0]))
def test_place_and_size_do_not_matter(mesh, seed, size):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(mesh.dim, mesh.dim)))[0]
    if np.linalg.det(turn) < 0:
        turn[0] *= -1
    turn = torch.from_numpy(turn)
    other = Mesh.from_arrays(size * (mesh.pos @ turn.T + torch.from_numpy(rng.normal(size=mesh.dim))), mesh.cells)
    assert other.topology == mesh.topology
    dim = mesh.topological_dim
    torch.testing.assert_close(other.node_volume, size**dim * mesh.node_volume, rtol=1e-7, atol=1e-10 * size**dim)
    torch.testing.assert_close(other.boundary_normals, mesh.boundary_normals @ turn.T, rtol=1e-6, atol=1e-6)
    source = used_nodes(mesh)[:2]
    torch.testing.assert_close(
        geodesic_distance(other, source), size * geodesic_distance(mesh, source), rtol=1e-6, atol=1e-9 * size
    )
    # costs are in units of the box's diagonal, which a turn changes: compare without one
    moved = Mesh.from_arrays(size * mesh.pos + 3, mesh.cells)
    torch.testing.assert_close(diffusion_cost(moved, source), diffusion_cost(mesh, source), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(local_thickness(moved), size * local_thickness(mesh), rtol=1e-6, atol=1e-9 * size)


@common
@given(meshes)
def test_sums(mesh):
    assert float(mesh.node_volume.min()) >= 0
    torch.testing.assert_close(mesh.node_volume.sum(), sum(v.sum() for v in mesh.cell_measure.values()))
    matrix = laplacian(mesh.pos.numpy(), {kind: nodes.numpy() for kind, nodes in mesh.cells.items()})
    size = abs(matrix).max()
    assert abs(matrix - matrix.T).max() == 0
    assert np.abs(matrix.sum(1)).max() <= 1e-11 * size
    assert np.linalg.eigvalsh(matrix.toarray()).min() >= -1e-9 * size
    slope = np.arange(1.0, mesh.dim + 1)
    field = mesh.pos.numpy() @ slope
    if mesh.cells.keys() <= {"triangle", "tetra"}:  # energy of a linear field: slope² times the measure
        np.testing.assert_allclose(field @ matrix @ field, slope @ slope * mesh.total_measure, rtol=1e-6)


@common
@given(simplicial())
def test_the_boundary_has_no_boundary_and_points_outward(mesh):
    ((_, facets),) = mesh.boundary_facets.items()
    rims = {}
    for facet in facets.tolist():
        for rim in itertools.combinations(sorted(facet), len(facet) - 1):
            rims[rim] = rims.get(rim, 0) + 1
    assert all(times % 2 == 0 for times in rims.values())
    points = mesh.pos[facets]
    if mesh.dim == 2:
        along = points[:, 1] - points[:, 0]
        vector = torch.stack([along[:, 1], -along[:, 0]], dim=1)
    else:
        vector = torch.linalg.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]) / 2
    torch.testing.assert_close(vector.sum(0), torch.zeros(mesh.dim).double(), rtol=0, atol=1e-12)
    # the divergence theorem for the field x: the flux through the skin is dim times the volume
    flux = (vector * points.mean(1)).sum()
    torch.testing.assert_close(
        flux, torch.tensor(mesh.dim * mesh.total_measure, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@common
@given(simplicial(24))
def test_euler_characteristic_two_ways(mesh):
    """Alternating sums of cells and of Betti numbers; the latter by rank, where the fast count leaves its ground."""
    betti = betti_by_rank(mesh)
    assert mesh.topology.euler == betti[0] - betti[1] + betti[2]
    if mesh.dim == 2 or not touches_itself(mesh):
        assert mesh.topology.betti == betti


def touches_itself(mesh):
    """Whether the skin of a solid has an edge of more than two facets."""
    ((_, facets),) = mesh.boundary_facets.items()
    pairs = [pair for facet in facets.tolist() for pair in itertools.combinations(sorted(facet), 2)]
    return any(pairs.count(pair) > 2 for pair in set(pairs))


@common
@given(meshes)
def test_distances_are_distances(mesh):
    nodes = used_nodes(mesh)[:8]
    through, along = geodesic_distance(mesh, nodes), geodesic_distance(mesh, nodes, through="edges")
    straight = torch.cdist(mesh.pos[nodes], mesh.pos)
    slack = 1e-6 * mesh.length_scale
    assert (through <= along + slack).all()
    # a wave behind a corner may run ahead by a share of an element; no more
    edge = (mesh.pos[mesh.edge_index[0]] - mesh.pos[mesh.edge_index[1]]).norm(dim=1).max()
    assert (through >= straight - edge).all()
    assert torch.equal(torch.isinf(through), torch.isinf(along))
    assert (through[torch.arange(len(nodes)), nodes] == 0).all()
    distance, which = component_distances(mesh, 2)
    assert (distance[:, 0] <= distance[:, 1]).all()
    assert (distance[mesh.boundary_nodes, 0] == 0).all()
    assert torch.equal(which[mesh.boundary_nodes, 0], mesh.boundary_component[mesh.boundary_nodes])
