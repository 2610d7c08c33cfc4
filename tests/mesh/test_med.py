"""MED files, as Gmsh writes them: groups, and solid cells in MED's own order of nodes."""

import pytest
from mesh.meshes import single

from flare_connect.mesh import CELL_KINDS, load_mesh
from flare_connect.mesh.files.med import med_order

SOLIDS = [kind for kind, known in CELL_KINDS.items() if known.dim == 3]
# names and numbers that Gmsh gives its cells
GMSH = {"tetra": 4, "hexahedron": 5, "wedge": 6, "pyramid": 7, "triangle": 2, "quad": 3}


@pytest.mark.parametrize("kind", GMSH)
def test_gmsh_cells_are_upright(kind, gmsh, tmp_path):
    mesh = single(kind)
    dim = CELL_KINDS[kind].dim
    gmsh.model.addDiscreteEntity(dim, 1)
    pos = mesh.pos.numpy()
    flat = [value for point in pos.tolist() for value in (*point, 0.0)[:3]]
    gmsh.model.mesh.addNodes(dim, 1, list(range(1, len(pos) + 1)), flat)
    gmsh.model.mesh.addElementsByType(1, GMSH[kind], [1], (mesh.cells[kind].reshape(-1) + 1).tolist())
    gmsh.write(str(tmp_path / "x.med"))  # without any group
    back = load_mesh(tmp_path / "x.med")
    assert back.num_inverted_cells == 0
    assert back.total_measure == pytest.approx(mesh.total_measure)


def test_gmsh_groups_and_quadratic_cells(gmsh, tmp_path):
    box = gmsh.model.occ.addBox(0, 0, 0, 1, 1, 1)
    gmsh.model.occ.synchronize()
    gmsh.model.addPhysicalGroup(3, [box], name="steel")
    gmsh.model.addPhysicalGroup(2, [1, 2], name="both ends")
    gmsh.model.addPhysicalGroup(2, [2], name="übrig")  # a face in two groups
    gmsh.option.setNumber("Mesh.ElementOrder", 2)
    gmsh.option.setNumber("Mesh.MeshSizeMin", 0.5)
    gmsh.model.mesh.generate(3)
    gmsh.write(str(tmp_path / "x.med"))
    mesh = load_mesh(tmp_path / "x.med")
    assert mesh.num_inverted_cells == 0
    assert mesh.total_measure == pytest.approx(1.0)
    nodes = mesh.cells["tetra10"]
    for middle, (a, b) in enumerate([(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)], start=4):
        assert (mesh.pos[nodes[:, middle]] - mesh.pos[nodes[:, [a, b]]].mean(1)).abs().max() < 1e-9
    assert set(mesh.sets) == {"steel", "both ends", "übrig"}
    assert len(mesh.sets["steel"].ids) == len(nodes)
    assert set(mesh.pos[mesh.set_nodes("both ends")][:, 0].tolist()) == {0.0, 1.0}
    assert set(mesh.pos[mesh.set_nodes("übrig")][:, 0].tolist()) == {1.0}
    assert mesh.point_data == {}
    assert mesh.cell_data == {}


@pytest.mark.parametrize("kind", [kind for kind in SOLIDS if med_order(kind)])
def test_the_order_is_its_own_inverse(kind):
    order = med_order(kind)
    assert sorted(order) == [*range(CELL_KINDS[kind].num_nodes)]
    assert [order[i] for i in order] == [*range(len(order))]


@pytest.mark.parametrize("kind", ["tetra", "tetra10", "hexahedron", "hexahedron20", "wedge", "pyramid"])
def test_round_trip_in_either_order(kind, tmp_path):
    mesh = single(kind)
    mesh.to_meshio().write(tmp_path / "meshio.med")  # in the order in which meshio holds them
    mesh.save(tmp_path / "ours.med")
    for name in ("meshio.med", "ours.med"):
        assert load_mesh(tmp_path / name).cells[kind].tolist() == mesh.cells[kind].tolist()
