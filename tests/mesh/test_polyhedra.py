import time

import numpy as np
import pytest
import pyvista
import torch
from mesh.meshes import CORNERS, grid

from flare_connect.errors import MeshError
from flare_connect.mesh import CELL_KINDS, Mesh
from flare_connect.mesh.files.polyhedra import Loops, cut_loops, cut_polygons, cut_polyhedra

L_SHAPE = np.array([[0, 0], [3, 0], [3, 1], [1, 1], [1, 3], [0, 3]], dtype=float)
HEXAGON = np.array([[np.cos(a), np.sin(a)] for a in np.arange(6) * np.pi / 3])
HEXAGON_AREA = 1.5 * 3**0.5


def prism(outline, layers=1):
    """Points, and the faces of `layers` prisms that stand on each other, caps shared."""
    size = len(outline)
    points = np.concatenate([np.column_stack([outline, np.full(size, z)]) for z in range(layers + 1)])
    ring = np.arange(size)
    cells = []
    for low in range(0, layers * size, size):
        sides = [np.array([i, (i + 1) % size, (i + 1) % size + size, i + size]) + low for i in range(size)]
        cells.append([ring[::-1] + low, ring + low + size, *sides])
    return points, cells


def mesh_of(points, polyhedra):
    pieces = cut_polyhedra(points, polyhedra)
    centres = [points[ids].mean(0, keepdims=True) for ids in pieces.centres]
    return Mesh.from_arrays(np.concatenate([points, *centres]), pieces.cells), pieces


def faces_of(kind):
    return [np.array(local) for _, local in CELL_KINDS[kind].facets]


def dodecahedron():
    solid = pyvista.PlatonicSolid("dodecahedron")
    return np.asarray(solid.points, dtype=float), [np.array(face) for face in solid.regular_faces], solid.volume


def areas(points, triangles):
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


@pytest.mark.parametrize("kind", ["tetra", "pyramid", "wedge", "hexahedron"])
def test_simple_kinds_are_recognised_upright(kind):
    points = np.array(CORNERS[kind], dtype=float)
    rng = np.random.default_rng(0)
    for turn in (False, True):
        faces = [np.roll(face[::-1] if turn else face, rng.integers(4)) for face in faces_of(kind)]
        faces = [faces[i] for i in rng.permutation(len(faces))]
        mesh, pieces = mesh_of(points, [faces])
        assert list(mesh.cells) == [kind]
        assert not pieces.centres
        assert mesh.num_inverted_cells == 0
        assert mesh.total_measure == pytest.approx(
            Mesh.from_arrays(points, {kind: [list(range(len(points)))]}).total_measure
        )


def test_mixed_kinds_keep_their_rows():
    """Two cubes around a dodecahedron and a tetrahedron, apart from each other."""
    cube, tetra = np.array(CORNERS["hexahedron"], dtype=float), np.array(CORNERS["tetra"], dtype=float)
    solid, faces, volume = dodecahedron()
    points = np.concatenate([cube, solid + 9, tetra + 20, cube + 30])
    cells = [
        faces_of("hexahedron"),
        [face + 8 for face in faces],
        [face + 28 for face in faces_of("tetra")],
        [face + 32 for face in faces_of("hexahedron")],
    ]
    mesh, pieces = mesh_of(points, cells)
    assert list(pieces.cells) == ["hexahedron", "tetra"]
    assert pieces.rows["hexahedron"].tolist() == [0, 3]
    assert pieces.rows["tetra"].tolist() == [1] * 36 + [2]
    assert [ids.tolist() for ids in pieces.centres] == [list(range(8, 28))]
    assert mesh.cell_measure["tetra"][:36].sum() == pytest.approx(volume, rel=1e-6)
    assert mesh.num_inverted_cells == 0


def test_cube_with_split_faces():
    """A face in two triangles, and one with a node on an edge: no hexahedron any more, but the same cube."""
    cube = np.concatenate([np.array(CORNERS["hexahedron"], dtype=float), [[0.5, 0, 0]]])
    faces = faces_of("hexahedron")
    split = [*faces[:-1], np.array([4, 5, 6]), np.array([4, 6, 7])]
    split[2], split[4] = np.array([0, 8, 1, 5, 4]), np.array([0, 3, 2, 1, 8])
    mesh, pieces = mesh_of(cube, [split])
    assert {kind: len(nodes) for kind, nodes in mesh.cells.items()} == {"tetra": 8, "pyramid": 3}
    assert mesh.total_measure == pytest.approx(1.0)
    assert mesh.num_inverted_cells == 0
    assert pieces.centres[0].tolist() == list(range(9))


@pytest.mark.parametrize(("outline", "area"), [(HEXAGON, HEXAGON_AREA), (L_SHAPE[:, ::-1] * 0.5, 1.25)])
def test_prisms_on_each_other_share_their_cap(outline, area):
    points, cells = prism(outline, layers=3)
    mesh, _ = mesh_of(points, cells)
    assert {kind: len(nodes) for kind, nodes in mesh.cells.items()} == {"tetra": 24, "pyramid": 18}
    assert {kind: len(nodes) for kind, nodes in mesh.boundary_facets.items()} == {"triangle": 8, "quad": 18}
    caps = mesh.boundary_facets["triangle"].numpy()
    assert areas(mesh.pos.numpy(), caps).sum() == pytest.approx(2 * area)
    if area == HEXAGON_AREA:  # the centre of the other one does not see all of its faces
        assert mesh.total_measure == pytest.approx(3 * area)
        assert mesh.num_inverted_cells == 0


def test_polyhedron_beside_a_hexahedron_keeps_the_quad_between_them():
    points, cells = prism(HEXAGON)
    outer = points[[0, 1, 7, 6]] + [np.cos(np.pi / 6), np.sin(np.pi / 6), 0]
    points = np.concatenate([points, outer])
    beside = [[0, 1, 7, 6], [12, 13, 14, 15], [0, 1, 13, 12], [6, 7, 14, 15], [0, 6, 15, 12], [1, 7, 14, 13]]
    mesh, _ = mesh_of(points, [cells[0], [np.array(face) for face in beside]])
    assert {kind: len(nodes) for kind, nodes in mesh.boundary_facets.items()} == {"triangle": 8, "quad": 10}
    assert mesh.total_measure == pytest.approx(HEXAGON_AREA + 1)


@pytest.mark.parametrize("outline", [HEXAGON, L_SHAPE], ids=["convex", "L"])
def test_cut_does_not_depend_on_where_a_loop_starts(outline):
    rng = np.random.default_rng(1)
    ids = rng.permutation(len(outline))
    points = np.empty((len(outline), 3))
    points[ids] = np.pad(outline, ((0, 0), (0, 1))) @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 5
    loops = np.array([np.roll(way, i) for way in (ids, ids[::-1]) for i in range(len(ids))])
    triangles, rows = cut_polygons(points, loops)
    assert rows.tolist() == np.repeat(np.arange(len(loops)), len(ids) - 2).tolist()
    found = {frozenset(frozenset(t) for t in triangles[rows == i].tolist()) for i in range(len(loops))}
    assert len(found) == 1
    area = 5.0 if outline is L_SHAPE else HEXAGON_AREA
    np.testing.assert_allclose(np.bincount(rows, areas(points, triangles)), area)
    # each triangle turns as its loop does
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    normals = np.cross(b - a, c - a)
    forward = rows < len(ids)
    assert (normals[forward] @ normals[0] > 0).all()
    assert (normals[~forward] @ normals[0] < 0).all()


def test_cut_of_a_comb():
    """Many reflex corners; the fan would leave the outline."""
    x = np.arange(41.0)
    comb = np.concatenate([np.column_stack([x, np.where(np.arange(41) % 2, 1, 9)]), [[40, 0], [0, 0]]])
    triangles, _ = cut_polygons(comb, np.arange(43)[None])
    area = abs(np.sum(comb[:, 0] * np.roll(comb[:, 1], -1) - comb[:, 1] * np.roll(comb[:, 0], -1))) / 2
    assert areas(np.pad(comb, ((0, 0), (0, 1))), triangles).sum() == pytest.approx(area)


def test_crossing_and_huge_loops_end_soon():
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    triangles, _ = cut_polygons(rng.normal(size=(300, 3)), np.arange(300)[None])
    assert triangles.shape == (298, 3)
    with pytest.raises(MeshError, match=r"has 5000 corners, more than 4096; triangulate it first"):
        cut_polygons(rng.normal(size=(5000, 3)), np.arange(5000)[None])
    assert time.perf_counter() - start < 5


def test_what_is_no_polyhedron():
    points = np.array(CORNERS["tetra"], dtype=float)
    faces = faces_of("tetra")
    with pytest.raises(MeshError, match="polyhedron 1 has 3 faces; it needs four or more"):
        cut_polyhedra(points, [faces, faces[:3]])
    with pytest.raises(MeshError, match=r"polyhedron 0 has 4 faces; .* of three corners or more"):
        cut_polyhedra(points, [[*faces[:3], np.array([0, 1])]])
    assert not cut_loops(points, Loops.none()).cells


def test_polyhedra_of_vtk_with_fields_and_sets():
    points, cells = prism(HEXAGON, layers=2)
    stream = [[len(faces), *(v for face in faces for v in (len(face), *face))] for faces in cells]
    vtk = pyvista.UnstructuredGrid(
        np.concatenate([[len(cell), *cell] for cell in stream]), [pyvista.CellType.POLYHEDRON] * 2, points
    )
    vtk.point_data["x"] = points[:, 0]
    vtk.point_data["height"] = points[:, 2].astype(np.float32)
    vtk.point_data["number"] = np.arange(18)
    vtk.point_data["set:bottom"] = (points[:, 2] == 0).astype(np.uint8)
    vtk.cell_data["p"] = [5.0, 7.0]
    vtk.cell_data["set:top"] = np.array([0, 1], dtype=np.uint8)
    with pytest.warns(UserWarning, match="2 polyhedra were cut into tetrahedra and pyramids"):
        mesh = Mesh.from_pyvista(vtk)
    assert mesh.total_measure == pytest.approx(2 * HEXAGON_AREA)
    torch.testing.assert_close(mesh.point_data["x"], mesh.pos[:, 0])
    torch.testing.assert_close(mesh.point_data["height"].double(), mesh.pos[:, 2])
    assert mesh.point_data["number"][18:].tolist() == [6, 12]  # means, rounded: 5.5 and 11.5
    assert mesh.set_nodes("bottom").tolist() == list(range(6))
    for kind, measure in mesh.cell_measure.items():
        pressure = mesh.cell_data["p"][kind]
        assert measure[pressure == 5].sum() == pytest.approx(float(measure[pressure == 7].sum()))
    assert set(mesh.set_nodes("top").tolist()) == {*range(6, 18), 19}
    # joined with another data set
    blocks = pyvista.MultiBlock({"poly": vtk.copy(), "box": grid("hexahedron", (1, 1, 1)).to_pyvista()})
    for block in blocks:
        block.clear_data()
    with pytest.warns(UserWarning, match="2 polyhedra"):
        mesh = Mesh.from_pyvista(blocks)
    assert mesh.total_measure == pytest.approx(2 * HEXAGON_AREA + 1)
    assert mesh.set_nodes("poly").tolist() == [*range(18), 26, 27]


def test_speed():
    """A million hexahedra as polyhedra take about 3 s; a guard against a loop over cells."""
    nodes = grid("hexahedron", (1, 1, 1)).cells["hexahedron"].numpy()[0]
    num = 20000
    faces = np.concatenate([nodes[face] for face in faces_of("hexahedron")])
    loops = Loops(
        (np.arange(num)[:, None] * 8 + faces).reshape(-1),
        np.arange(0, 24 * num + 1, 4),
        np.repeat(np.arange(num), 6),
        num,
    )
    points = np.tile(grid("hexahedron", (1, 1, 1)).pos.numpy(), (num, 1))
    start = time.perf_counter()
    pieces = cut_loops(points, loops)
    assert time.perf_counter() - start < 2
    assert pieces.cells["hexahedron"].shape == (num, 8)
