"""Shortest paths through cells: straight sight, rings, corners, spheres, slits; errors and how fast they fall."""

import itertools

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid
from scipy.spatial import Delaunay

from flare_connect.errors import MeshError
from flare_connect.mesh import CELL_KINDS, Mesh, geodesic_distance
from flare_connect.mesh.distances import distance_from


def scattered(count, dim, seed=0):
    """A box of scattered nodes, meshed by Delaunay; the corners are among them."""
    rng = np.random.default_rng(seed)
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=dim)))
    points = np.concatenate([corners, rng.uniform(size=(count, dim))])
    return Mesh.from_arrays(points, {"triangle" if dim == 2 else "tetra": Delaunay(points).simplices})


def jittered(n):
    """The unit square of triangles, inner nodes moved about, but for those on the middle line x = 1/2."""
    mesh = grid("triangle", (n, n))
    pos = mesh.pos / n
    inner = ((pos > 0) & (pos < 1)).all(1) & (pos[:, 0] != 0.5)
    moved = torch.from_numpy(np.random.default_rng(0).uniform(-0.25, 0.25, size=pos.shape) / n)
    return Mesh.from_arrays(torch.where(inner[:, None], pos + moved, pos), mesh.cells)


def ring(n, inner=0.5):
    """A ring between radius `inner` and 1, n cells across, triangles cut along alternating diagonals."""
    around = round(2 * np.pi * 0.75 / 0.5 * n)
    r, a = np.meshgrid(np.linspace(inner, 1, n + 1), 2 * np.pi * np.arange(around) / around, indexing="ij")
    pos = np.stack([r * np.cos(a), r * np.sin(a)], axis=-1).reshape(-1, 2)
    cells = []
    for i, j in itertools.product(range(n), range(around)):
        k = (j + 1) % around
        a, b, c, d = i * around + j, (i + 1) * around + j, (i + 1) * around + k, i * around + k
        cells += [(a, b, c), (a, c, d)] if (i + j) % 2 else [(a, b, d), (b, c, d)]
    return Mesh.from_arrays(pos, {"triangle": cells})


def round_the_hole(pos, source, inner=0.5):
    """Straight where the hole is not in the way, else along two tangents and the rim between them."""
    r, r0 = np.linalg.norm(pos, axis=1), np.linalg.norm(source)
    angle = np.abs(np.angle(np.exp(1j * (np.arctan2(*pos.T[::-1]) - np.arctan2(*source[::-1])))))
    free = np.arccos(np.clip(inner / r, -1, 1)) + np.arccos(inner / r0)
    tangents = np.sqrt(np.maximum(r**2 - inner**2, 0)) + np.sqrt(r0**2 - inner**2)
    return np.where(angle <= free, np.linalg.norm(pos - source, axis=1), tangents + inner * (angle - free))


def sphere(n):
    """The unit sphere: the skin of a cube of n³ cells, blown up, cut into triangles."""
    cube = grid("hexahedron", (n, n, n))
    nodes, index = np.unique(cube.boundary_facets["quad"].numpy(), return_inverse=True)
    quads = index.reshape(-1, 4)
    # equal angles, not equal steps: cells of nearly one size
    points = np.tan((cube.pos.numpy()[nodes] / n - 0.5) * np.pi / 2)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Mesh.from_arrays(points, {"triangle": np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])})


@pytest.mark.parametrize("dim", [2, 3])
def test_straight_sight_is_exact_on_any_mesh(dim, device):
    mesh = scattered(400, dim)
    sources = torch.tensor([0, 37, 200])
    found = geodesic_distance(mesh, sources, device=device)
    torch.testing.assert_close(found, torch.cdist(mesh.pos[sources], mesh.pos), rtol=1e-6, atol=1e-6)
    edges = geodesic_distance(mesh, sources, through="edges")
    assert (edges - found).max() > 0.02  # along edges is farther


@pytest.mark.parametrize("kind", [kind for kind in CELL_KINDS if CELL_KINDS[kind].dim > 1 and "pyramid" not in kind])
def test_straight_sight_is_exact_through_cells_of_every_kind(kind):
    mesh = grid(kind, (4, 3, 3)[: CELL_KINDS[kind].dim])
    sources = torch.tensor([0, mesh.num_nodes // 2])
    found = geodesic_distance(mesh, sources)
    torch.testing.assert_close(found, torch.cdist(mesh.pos[sources], mesh.pos), rtol=1e-6, atol=1e-6)


def test_a_square_folded_in_space_keeps_its_distances():
    mesh = jittered(10)
    x, y = mesh.pos.T.numpy()
    bent = np.stack([np.minimum(x, 0.5), y, np.maximum(x - 0.5, 0)], axis=1)  # a right angle along x = 1/2
    folded = Mesh.from_arrays(bent, mesh.cells)
    found = geodesic_distance(folded, torch.tensor([0]))[0]
    torch.testing.assert_close(found, mesh.pos.sub(mesh.pos[0]).norm(dim=1), rtol=1e-6, atol=1e-6)


def test_round_a_hole_the_error_falls_with_the_size_of_a_cell():
    errors = []
    for n in (4, 8, 16, 32):
        mesh = ring(n)
        source = n * (mesh.num_nodes // (n + 1))  # on the outer rim
        found = geodesic_distance(mesh, torch.tensor([source]))[0].numpy()
        errors.append(np.abs(found - round_the_hole(mesh.pos.numpy(), mesh.pos[source].numpy())).max())
    assert errors[-1] < 5e-3
    assert all(a > 1.5 * b for a, b in itertools.pairwise(errors))


def test_round_a_corner_the_error_falls_with_the_size_of_a_cell():
    """A wave starts anew at the corner, and so the error falls as the size of a cell times its logarithm."""

    def ell(n):
        mesh = grid("triangle", (2 * n, 2 * n))
        middle = mesh.pos[mesh.cells["triangle"]].mean(1)
        keep = ~((middle[:, 0] < n) & (middle[:, 1] > n))
        return Mesh.from_arrays(mesh.pos / n, {"triangle": mesh.cells["triangle"][keep]})

    errors = []
    for n in (5, 10, 20, 40):
        mesh = ell(n)
        used = mesh.component >= 0
        source = int((mesh.pos - torch.tensor([0.4, 0.0])).norm(dim=1).argmin())
        pos, corner, s = mesh.pos[used], torch.tensor([1.0, 1.0]), mesh.pos[source]
        side = (corner - s)[0] * (pos - s)[:, 1] - (corner - s)[1] * (pos - s)[:, 0]
        hidden = (side > 1e-9) & (pos[:, 1] > 1 + 1e-9)
        exact = (pos - s).norm(dim=1)
        exact[hidden] = ((corner - s).norm() + (pos - corner).norm(dim=1))[hidden]
        found = geodesic_distance(mesh, torch.tensor([source]))[0, used]
        assert (found[~hidden] - exact[~hidden]).abs().median() < 1e-9
        errors.append(float((found - exact).abs().max()))
    assert errors[-1] < 6e-3
    assert all(a > 1.35 * b for a, b in itertools.pairwise(errors))


def test_on_a_sphere_the_error_falls_with_the_size_of_a_cell():
    """A wave that runs together again is the hard case: at the far pole the error is largest."""
    errors = []
    for n in (4, 8, 16, 32):
        mesh = sphere(n)
        exact = torch.arccos((mesh.pos @ mesh.pos[0]).clamp(-1, 1))
        errors.append(float((geodesic_distance(mesh, torch.tensor([0]))[0] - exact).abs().mean()))
    assert errors[-1] < 0.005
    assert all(a > 1.9 * b for a, b in itertools.pairwise(errors))
    edges = geodesic_distance(mesh, torch.tensor([0]), through="edges")[0] - exact
    assert edges.abs().mean() > 0.1


def test_a_slit_and_a_gap():
    mesh = grid("quad", (8, 8))
    upper = mesh.pos[:, 1] == 4
    cut = upper & (
        mesh.pos[:, 0] > 0
    )  # the slit goes from the right side to x = 0: its upper side has nodes of its own
    twin = torch.arange(mesh.num_nodes)
    twin[cut] = mesh.num_nodes + torch.arange(int(cut.sum()))
    cells = mesh.cells["quad"].clone()
    above = mesh.pos[cells].mean(1)[:, 1] > 4
    cells[above] = twin[cells[above]]
    slit = Mesh.from_arrays(torch.cat([mesh.pos, mesh.pos[cut]]), {"quad": cells})
    below = int((mesh.pos - torch.tensor([8.0, 4.0])).norm(dim=1).argmin())
    found = geodesic_distance(slit, torch.tensor([below]))[0]
    assert float(found[twin[below]]) == pytest.approx(16)  # to the tip and back, not zero
    two = Mesh.from_arrays([[0, 0], [1, 0], [0, 1], [1.01, 0], [2, 0], [1.5, 1]], {"triangle": [[0, 1, 2], [3, 4, 5]]})
    assert torch.isinf(geodesic_distance(two, torch.tensor([0]))[0, 3:]).all()


def test_fronts_from_a_straight_side_are_exact_and_corners_are_not_cut():
    mesh = jittered(16)
    facets = mesh.boundary_facets["line"].numpy()
    found = distance_from(mesh, [mesh.boundary_nodes.numpy()], facets=[facets])[0]
    nearest = torch.stack([*mesh.pos.T, *(1 - mesh.pos).T]).sort(dim=0).values
    error = (found - nearest[0]).abs()
    # Where two sides are about equally near their fronts meet, inside a cell; beyond that the error dies out.
    assert error[nearest[1] - nearest[0] > 0.35].max() < 1e-3
    assert error.max() < 0.5 / 16
    square = grid("quad", (4, 4))
    found = distance_from(square, [square.boundary_nodes.numpy()], facets=[square.boundary_facets["line"].numpy()])[0]
    inner = (square.pos - 2).abs().amax(1) == 1
    assert (found[inner] == 1).all()  # a chord between two sides is no source


def test_lines_join_what_they_join():
    """A bar between two plates: the only way leads along it."""
    a, b = plate(5, hole=False), plate(5, hole=False)
    count = a.num_nodes
    pos = torch.cat([a.pos, b.pos + torch.tensor([3.0, 0.0])])
    end = int((a.pos - torch.tensor([1.0, 0.5])).norm(dim=1).argmin())
    start = int((b.pos - torch.tensor([0.0, 0.5])).norm(dim=1).argmin())
    mesh = Mesh.from_arrays(
        pos,
        {
            "triangle": torch.cat([a.cells["triangle"], b.cells["triangle"] + count]),
            "line": [[end, count + start]],
        },
    )
    bar = float((pos[end] - pos[count + start]).norm())
    found = geodesic_distance(mesh, torch.tensor([end]))[0]
    torch.testing.assert_close(found[:count], (a.pos - a.pos[end]).norm(dim=1), rtol=1e-6, atol=1e-6)
    exact = bar + (b.pos - b.pos[start]).norm(dim=1)
    assert float(found[count + start]) == pytest.approx(bar)
    assert (found[count:] - exact).abs().max() < 0.4 / 5  # the wave starts anew: a share of an element


def test_degenerate_cells_and_no_source():
    mesh = Mesh.from_arrays([[0, 0], [1, 0], [2, 0], [0, 1]], {"triangle": [[0, 1, 2], [0, 1, 3], [1, 1, 3]]})
    assert geodesic_distance(mesh, torch.tensor([3]))[0].tolist() == pytest.approx([1, 2**0.5, 1 + 2**0.5, 0])
    assert geodesic_distance(mesh, torch.tensor([], dtype=torch.long)).shape == (0, 4)
    with pytest.raises(MeshError, match="nodes must be between 0 and 3, got 4"):
        geodesic_distance(mesh, torch.tensor([4]))
