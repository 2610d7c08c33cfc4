import numpy as np
import pytest
import torch
from mesh.meshes import CORNERS, MEASURES, MIDS, corner_kind, grid, points_of, single

from flare_connect.mesh import CELL_KINDS, Mesh, NamedSet
from flare_connect.mesh.geometry import facet_vectors

GRIDS = [
    *((kind, (3, 2)) for kind in ("triangle", "triangle6", "quad", "quad8", "quad9")),
    *(
        (kind, (3, 2, 2))
        for kind in ("tetra", "tetra10", "hexahedron", "hexahedron20", "hexahedron27", "wedge", "wedge15")
    ),
]
SOLIDS = [kind for kind, known in CELL_KINDS.items() if known.dim == 3]
# linear maps of determinant 1.5, one of them a mirror image
SHEAR = np.array([[1.5, 0.3, 0.1], [0.0, 1.0, 0.4], [0.0, 0.0, 1.0]])
MIRROR = SHEAR @ np.diag([-1.0, 1.0, 1.0])


def test_measure_of_one_cell(kind):
    mesh = single(kind)
    assert mesh.total_measure == pytest.approx(MEASURES[corner_kind(kind)], rel=1e-14)
    assert float(mesh.cell_measure[kind][0]) == pytest.approx(MEASURES[corner_kind(kind)], rel=1e-14)
    assert mesh.num_inverted_cells == 0


@pytest.mark.parametrize("kind", SOLIDS)
@pytest.mark.parametrize("matrix", [SHEAR, MIRROR], ids=["upright", "inverted"])
def test_facets_close_and_point_outward(kind, matrix):
    """Sum of area vectors is 0, and the divergence theorem gives the volume: V = 1/3 ∮ x·n."""
    mesh = single(kind, corners=np.array(CORNERS[corner_kind(kind)]) @ matrix.T)
    pos = mesh.pos.numpy()
    total, volume = np.zeros(3), 0.0
    for facet_kind, nodes in mesh.boundary_facets.items():
        vectors = facet_vectors(pos, nodes.numpy(), CELL_KINDS[facet_kind])
        total += vectors.sum((0, 1))
        volume += np.einsum("fd,fd->", vectors.sum(1), pos[nodes.numpy()].mean(1)) / 3
    np.testing.assert_allclose(total, 0, atol=1e-14)
    if set(mesh.boundary_facets) <= {"triangle", "quad", "quad9", "quad8", "triangle6"}:
        assert volume == pytest.approx(1.5 * MEASURES[corner_kind(kind)], rel=1e-12)
    assert mesh.total_measure == pytest.approx(1.5 * MEASURES[corner_kind(kind)], rel=1e-12)
    assert mesh.num_inverted_cells == (0 if matrix is SHEAR else 1)


@pytest.mark.parametrize("kind", ["triangle", "triangle6", "quad", "quad8", "quad9"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_planar_facets_close_and_point_outward(kind, sign):
    mesh = single(kind, dim=2, corners=np.array(CORNERS[corner_kind(kind)]) * [sign, 1.0, 0.0])
    pos = mesh.pos.numpy()
    ((facet_kind, nodes),) = mesh.boundary_facets.items()
    vectors = facet_vectors(pos, nodes.numpy(), CELL_KINDS[facet_kind]).sum(1)
    np.testing.assert_allclose(vectors.sum(0), 0, atol=1e-15)
    area = np.einsum("fd,fd->", vectors, pos[nodes.numpy()].mean(1)) / 2
    assert area == pytest.approx(MEASURES[corner_kind(kind)])
    assert mesh.num_inverted_cells == (sign < 0)


@pytest.mark.parametrize("kind", ["hexahedron", "quad"])
def test_bilinear_measure_is_exact(kind):
    """Against Gauss quadrature of the Jacobian with the (tri)linear shape functions."""
    dim = 3 if kind == "hexahedron" else 2
    corners = np.array(CORNERS[kind], dtype=float)[:, :dim]
    bent = corners + 0.25 * np.random.default_rng(0).uniform(-1, 1, corners.shape)
    g = (1 + np.array([-1, 1]) / np.sqrt(3)) / 2
    reference = 0.0
    for xi in np.stack(np.meshgrid(*[g] * dim), -1).reshape(-1, dim):
        factors = np.where(corners > 0, xi, 1 - xi)
        slopes = np.where(corners > 0, 1.0, -1.0)
        gradient = [
            np.prod([slopes[:, j] if j == i else factors[:, j] for j in range(dim)], axis=0) for i in range(dim)
        ]
        reference += np.linalg.det(np.array(gradient) @ bent) / 2**dim
    mesh = Mesh.from_arrays(bent, {kind: [list(range(len(bent)))]})
    assert mesh.total_measure == pytest.approx(reference, rel=1e-12)


@pytest.mark.parametrize("kind", [k for k in MIDS if CELL_KINDS[k].dim == 3 or k in ("triangle6", "quad8", "quad9")])
def test_straight_quadratic_cell_measures_as_its_corner_cell(kind):
    dim = CELL_KINDS[kind].dim
    corners = np.array(CORNERS[corner_kind(kind)], dtype=float)
    corners[:, :dim] += 0.15 * np.random.default_rng(1).uniform(-1, 1, (len(corners), dim))
    quadratic, linear = single(kind, dim, corners), single(corner_kind(kind), dim, corners)
    assert quadratic.total_measure == pytest.approx(linear.total_measure, rel=1e-12)


@pytest.mark.parametrize(("kind", "shape"), GRIDS)
def test_grid_volumes_and_normals(kind, shape):
    mesh = grid(kind, shape)
    volume = mesh.node_volume
    assert volume.dtype == torch.float64
    assert float(volume.sum()) == pytest.approx(np.prod(shape), rel=1e-12)
    assert (volume > 0).all()
    # linear functions are integrated exactly: the lumped volumes have the right first moment
    moment = (volume[:, None] * mesh.pos).sum(0) / volume.sum()
    np.testing.assert_allclose(moment, np.array(shape) / 2, rtol=1e-12)
    pos, normal = mesh.pos[mesh.boundary_nodes], mesh.boundary_normals
    np.testing.assert_allclose(normal.norm(dim=1), 1.0, rtol=1e-12)
    size = torch.tensor(shape, dtype=torch.float64)
    outside = pos + 1e-3 * normal
    assert ((outside < 0) | (outside > size)).any(1).all()
    faces = (pos == 0).int() + (pos == size).int()
    inner = faces.sum(1) == 1  # on one face only: the normal is that face's
    assert inner.any()
    expected = (pos == size).double() - (pos == 0).double()
    np.testing.assert_allclose(normal[inner], expected[inner], atol=1e-12)


def test_node_volume_of_linear_simplices_is_an_equal_share():
    mesh = grid("tetra", (2, 2, 2))
    volume = torch.zeros(len(mesh.pos), dtype=torch.float64)
    for cell in mesh.cells["tetra"].tolist():
        a, b, c, d = mesh.pos[cell]
        volume[cell] += abs(float(torch.linalg.det(torch.stack([b - a, c - a, d - a])))) / 24
    np.testing.assert_allclose(mesh.node_volume, volume, rtol=1e-13)


def test_distorted_cell_keeps_measure_and_positive_volumes():
    points = points_of("quad8")
    points[4] = [0.5, 0.9, 0]  # a side pushed nearly through the cell
    mesh = Mesh.from_arrays(points[:, :2], {"quad8": [list(range(8))]})
    assert (mesh.node_volume >= 0).all()
    assert float(mesh.node_volume.sum()) == pytest.approx(float(mesh.cell_measure["quad8"][0]), rel=1e-14)
    concave = Mesh.from_arrays([[0, 0], [1, 0], [0.2, 0.2], [0, 1]], {"quad": [[0, 1, 2, 3]]})
    assert concave.total_measure == pytest.approx(0.2)  # shoelace
    assert float(concave.cell_quality()["quad"][0]) == 0.0
    assert concave.num_inverted_cells == 0


def test_vtk_measures_the_same(kind):
    """VTK's own cell sizes through our conversion: node orders agree."""
    if CELL_KINDS[kind].dim == 0:
        pytest.skip("a vertex has no size in VTK")
    rng = np.random.default_rng(3)
    corners = np.array(CORNERS[corner_kind(kind)]) @ (np.eye(3) + 0.2 * rng.uniform(-1, 1, (3, 3)))
    mesh = single(kind, corners=corners)
    name = {1: "Length", 2: "Area", 3: "Volume"}[CELL_KINDS[kind].dim]
    size = abs(mesh.to_pyvista().compute_cell_sizes()[name][0])
    assert mesh.total_measure == pytest.approx(size, rel=1e-6)


def test_surface_in_space():
    """The upper half of a cube's faces: boundary normals lie in the surface and point away from it."""
    flat = grid("quad", (2, 2))
    pos = np.pad(flat.pos.numpy(), ((0, 0), (0, 1)), constant_values=0.0)
    pos = pos @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    mesh = Mesh.from_arrays(pos, flat.cells)
    assert mesh.topological_dim == 2
    assert mesh.total_measure == pytest.approx(4.0)
    assert torch.equal(mesh.boundary_nodes, flat.boundary_nodes)
    away = mesh.pos[mesh.boundary_nodes] - mesh.pos.mean(0)
    assert ((away * mesh.boundary_normals).sum(1) > 0.9).all()
    np.testing.assert_allclose(mesh.boundary_normals.norm(dim=1), 1.0)


def test_closed_surface_has_no_boundary():
    solid = single("tetra")
    mesh = Mesh.from_arrays(solid.pos, solid.boundary_facets)
    assert mesh.boundary_facets == {}
    assert mesh.boundary_nodes.shape == (0,)
    assert mesh.boundary_normals.shape == (0, 3)
    assert torch.isinf(mesh.boundary_distance).all()


def test_line_ends():
    mesh = Mesh.from_arrays([[0, 0], [1, 0], [3, 0]], {"line": [[0, 1], [1, 2]]})
    assert mesh.boundary_nodes.tolist() == [0, 2]
    assert mesh.boundary_normals.tolist() == [[-1, 0], [1, 0]]
    assert mesh.node_volume.tolist() == [0.5, 1.5, 1.0]


def test_thin_sheet_normals_are_unit():
    """Two triangles on the same three nodes seen from both sides meet with opposite normals at every node."""
    pos = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1.0]]
    mesh = Mesh.from_arrays(pos, {"tetra": [[0, 1, 2, 3], [0, 2, 1, 4]]})
    assert mesh.boundary_facets["triangle"].shape == (6, 3)
    np.testing.assert_allclose(mesh.boundary_normals.norm(dim=1), 1.0)


def test_distances():
    mesh = grid("quad", (4, 4))
    x, y = mesh.pos.T
    expected = torch.stack([x, y, 4 - x, 4 - y]).amin(0)
    np.testing.assert_allclose(mesh.boundary_distance, expected)
    mesh.sets = {"corner": NamedSet("node", torch.tensor([0]))}
    np.testing.assert_allclose(mesh.distance_to_set("corner"), mesh.pos.norm(dim=1))
    assert mesh.length_scale == pytest.approx(np.sqrt(32))


def test_quality():
    equilateral = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    assert float(Mesh.from_arrays(equilateral, {"triangle": [[0, 1, 2]]}).cell_quality()["triangle"]) == pytest.approx(
        1
    )
    regular = np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1.0]])
    tetra = Mesh.from_arrays(regular, {"tetra": [[0, 1, 2, 3]]})
    inverted = Mesh.from_arrays(regular, {"tetra": [[1, 0, 2, 3]]})
    values = {float(m.cell_quality()["tetra"]): m.num_inverted_cells for m in (tetra, inverted)}
    assert {round(k, 12): v for k, v in values.items()} == {1.0: 0, 0.0: 1}
    assert float(single("hexahedron").cell_quality()["hexahedron"]) == pytest.approx(1)
    assert float(single("tetra").cell_quality()["tetra"]) == pytest.approx(12 * 0.5 ** (2 / 3) / 9)
    sheared = single("quad", 2, np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [1, 1, 0]]))
    assert float(sheared.cell_quality()["quad"]) == pytest.approx(np.sqrt(0.5))
    flat = Mesh.from_arrays([[0, 0], [1, 0], [2, 0]], {"triangle": [[0, 1, 2]]})
    assert flat.num_inverted_cells == 1
    wedge = np.array(
        [*np.pad(equilateral, ((0, 0), (0, 1))), *np.pad(equilateral, ((0, 0), (0, 1)), constant_values=1)]
    )
    wedge[:, :2] = np.tile(equilateral, (2, 1))
    wedge[3:, 2], wedge[:3, 2] = 1.0, 0.0
    assert float(single("wedge", 3, wedge).cell_quality()["wedge"]) == pytest.approx(1)
    pyramid = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, np.sqrt(0.5)]])
    assert float(single("pyramid", 3, pyramid).cell_quality()["pyramid"]) == pytest.approx(1)
