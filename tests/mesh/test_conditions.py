"""Conditions by name and by node: shapes, order, contradictions, and the messages of what is wrong."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, NamedSet, find_periodic_pairs
from flare_connect.mesh.conditions import boundary_measure
from flare_connect.mesh.harmonic import harmonic_extension


def square():
    """Sets of nodes, facets and cells on a square of 3 × 3 quads; node 16 is an orphan."""
    mesh = grid("quad", (3, 3))
    return Mesh.from_arrays(
        torch.cat([mesh.pos, torch.tensor([[9.0, 9.0]]).double()]),
        mesh.cells,
        sets={
            "left": [3, 2, 1, 0],
            "right": [12, 13, 14, 15],
            "bottom": [0, 4, 8, 12],
            "empty": np.zeros(0, dtype=np.int64),
            "corner": [0],
            "orphan": [16],
            "inside": NamedSet("facet", torch.tensor([[0, 1], [5, 6]])),
            "region": NamedSet("cell", torch.tensor([0, 3])),
        },
    )


def test_values_a_number_a_column_or_a_node():
    mesh = square()
    left, right = mesh.set_nodes("left"), mesh.set_nodes("right")
    assert left.tolist() == [0, 1, 2, 3]
    each = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    table = torch.randn(4, 2)
    found = harmonic_extension(mesh, {"left": each, "right": table})
    torch.testing.assert_close(found[left], each.double().expand(4, 2))
    torch.testing.assert_close(found[right], table.double())
    found = harmonic_extension(mesh, {"left": [1, 2], right.flip(0): table.flip(0)})
    assert (found[left] == torch.tensor([1, 2])).all()
    torch.testing.assert_close(found[right], table.double())
    with_orphan = harmonic_extension(mesh, {torch.tensor([0, 16, 5]): torch.tensor([[1.0], [7.0], [2.0]])})
    assert with_orphan[[0, 16, 5], 0].tolist() == [1, 0, 2]


def test_columns_are_problems_of_their_own():
    mesh = square()
    table = torch.randn(17, 3).double()
    flux = torch.randn(4, 3).double()
    together = harmonic_extension(mesh, {"left": [1.0, 2.0, 3.0]}, {"right": flux}, source=table)
    for k in range(3):
        alone = harmonic_extension(mesh, {"left": k + 1.0}, {"right": flux[:, [k]]}, source=table[:, k])
        torch.testing.assert_close(together[:, [k]], alone, rtol=0, atol=1e-12)


def test_sets_may_meet_where_they_agree():
    mesh = square()
    found = harmonic_extension(mesh, {"left": 2.0, "bottom": 2.0})
    torch.testing.assert_close(found[:16], torch.full((16, 1), 2.0).double())
    with pytest.raises(MeshError, match=r"node 0 must have two values at once: \[2.0\] by `fixed` on set 'left' and"):
        harmonic_extension(mesh, {"left": 2.0, "bottom": 1.0})


def test_periodic_partners_may_not_be_torn_apart():
    mesh = grid("quad", (4, 3))
    mesh.periodic_pairs = find_periodic_pairs(mesh, axes=[0])
    low, high = mesh.periodic_pairs
    found = harmonic_extension(mesh, {low: 1.0, high: 1.0}, source=torch.ones(mesh.num_nodes))
    torch.testing.assert_close(found[low], found[high])
    with pytest.raises(MeshError, match=r"node 16 and its periodic partner 0 must have two values at once"):
        harmonic_extension(mesh, {low: 1.0, high: 0.0})


@pytest.mark.parametrize("kind", ["triangle", "triangle6", "tetra", "hexahedron20", "wedge15"])
def test_measures_of_the_boundary_sum_to_it(kind):
    mesh = grid(kind, (3, 2) if kind.startswith("triangle") else (3, 2, 2))
    sizes = {2: (2, 3), 3: (4, 6, 6)}[mesh.dim]
    for axis, size in enumerate(sizes):
        nodes = (mesh.pos[:, axis] == 0).nonzero()[:, 0]
        weight = boundary_measure(mesh, "flux", nodes)
        assert float(weight.sum()) == pytest.approx(size)
        middle = (mesh.pos[nodes].amin(0) + mesh.pos[nodes].amax(0)) / 2
        torch.testing.assert_close(weight @ mesh.pos / size, middle)
    whole = boundary_measure(mesh, "flux", mesh.boundary_nodes)
    assert float(whole.sum()) == pytest.approx(2 * sum(sizes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: harmonic_extension(m), "nothing is given to extend; pass `fixed`, `flux` or `source`"),
        (lambda m: harmonic_extension(m, {"clamp": 0.0}), "the mesh has no set 'clamp'; its sets: 'left', 'right'"),
        (lambda m: harmonic_extension(m, {"empty": 0.0}), "`fixed` names set 'empty', which is empty"),
        (lambda m: harmonic_extension(m, {torch.zeros(0).long(): 0.0}), "`fixed` lists no nodes"),
        (lambda m: harmonic_extension(m, {torch.tensor([3, 17]): 0.0}), r"between 0 and 16, got 3 … 17"),
        (lambda m: harmonic_extension(m, {torch.tensor([3, 3]): 0.0}), "`fixed` lists node 3 more than once"),
        (lambda m: harmonic_extension(m, {torch.tensor([0.5]): 0.0}), "`fixed` has dtype torch.float32; indices must"),
        (
            lambda m: harmonic_extension(m, {"left": torch.ones(3, 1)}),
            r"'left' has values of shape \(3, 1\) for 4 nodes; give a number, \[K\] \(one a column\), or \[4, 1\]",
        ),
        (lambda m: harmonic_extension(m, {"left": torch.ones(1, 1, 1)}), r"of shape \(1, 1, 1\) for 4 nodes"),
        (
            lambda m: harmonic_extension(m, {"left": [0.0, 1.0]}, {"right": [1.0, 2.0, 3.0]}),
            r"`flux` on set 'right' has 3 columns and `fixed` on set 'left' has 2; give each 1 or 2",
        ),
        (lambda m: harmonic_extension(m, {"left": torch.nan}), "values that are not finite, the first at node 0"),
        (
            lambda m: harmonic_extension(m, {"right": np.array([[0.0], [0.0], [np.inf], [0.0]])}),
            "`fixed` on set 'right' has values that are not finite, the first at node 14",
        ),
        (lambda m: harmonic_extension(m, {"orphan": 1.0}), "`fixed` on set 'orphan': no 2-D cell uses its nodes"),
        (lambda m: harmonic_extension(m, {}, {"corner": 1.0}), "`flux` on set 'corner': no facet of the boundary has"),
        (
            lambda m: harmonic_extension(m, {}, {"inside": 1.0}),
            r"1 of its 2 facets are not on the boundary, the first has nodes \[5, 6\]; a flux passes the boundary",
        ),
        (lambda m: harmonic_extension(m, source=torch.ones(5)), r"one value a node, \[17, K\], got \[5\]"),
        (lambda m: harmonic_extension(m, source=torch.full((17,), torch.nan)), "`source` is not finite at node 0"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(MeshError, match=message):
        call(square())


def test_a_region_of_cells_passes_its_flux_by_its_own_boundary_facets():
    mesh = square()
    assert float(boundary_measure(mesh, "flux", "region").sum()) == pytest.approx(3)  # two cells of one side, one end


def test_a_batch_is_one_mesh_of_many_parts_but_for_fluxes():
    from torch_geometric.data import Batch

    meshes = [plate(6), plate(8, seed=1)]
    batch = Batch.from_data_list(meshes)
    found = harmonic_extension(batch, {"left": 1.0}, source=batch.pos[:, 0])
    for i, mesh in enumerate(meshes):
        alone = harmonic_extension(mesh, {"left": 1.0}, source=mesh.pos[:, 0])
        torch.testing.assert_close(found[batch.ptr[i] : batch.ptr[i + 1]], alone, rtol=0, atol=1e-12)
    with pytest.raises(MeshError, match="set 'left' is one of a batch; take fluxes of one mesh at a time"):
        harmonic_extension(batch, {}, {"left": 1.0})
