import dataclasses
import itertools

import numpy as np
import pytest
from scipy.spatial import KDTree

from flare_connect.errors import ConfigError, MeshError
from flare_datasets.unit_cells import Hole, UnitCellConfig, draw_holes, mesh_cell
from flare_datasets.unit_cells.geometry import FineSpot, crosses, gap, self_gap
from flare_datasets.unit_cells.layouts import draw_spots
from flare_datasets.unit_cells.meshing import CellMesh, num_components

CONFIG = UnitCellConfig(porosity=(0.1, 0.3), num_nodes=1_000)


def layouts(config: UnitCellConfig, num_holes: tuple[int, int], count: int) -> list[list[Hole]]:
    return [draw_holes(config, np.random.default_rng([7, i]), num_holes) for i in range(count)]


def brute_gap(first: Hole, second: Hole) -> float:
    """Least distance of two finely sampled outlines on the torus."""
    tree = KDTree(wrapped(first.outline(0.001)), boxsize=1.0)
    return float(tree.query(wrapped(second.outline(0.001)))[0].min())


def wrapped(points: np.ndarray) -> np.ndarray:
    return points % 1.0 % 1.0  # twice: -1e-17 % 1.0 is 1.0


@pytest.mark.parametrize("num_holes", [(1, 4), (5, 12)])
def test_holes_keep_their_distance_and_void_fraction(num_holes):
    for holes in layouts(CONFIG, num_holes, 12):
        assert num_holes[0] <= len(holes) <= num_holes[1]
        assert 0.1 - 1e-12 <= sum(h.area for h in holes) <= 0.3 + 1e-12
        for first, second in itertools.combinations(holes, 2):
            assert brute_gap(first, second) >= 0.98 * CONFIG.min_gap
            for hole, other in ((first, second), (second, first)):  # nor is one inside the other
                assert other.periodic_distance(np.array([[hole.x, hole.y]]))[0] > 0
        for hole in holes:
            assert self_gap(hole, 0.003) >= CONFIG.min_gap


def test_distances_agree_with_brute_force():
    rng = np.random.default_rng(3)
    points = rng.random((200, 2))
    for shape, b in (("circle", 0.2), ("ellipse", 0.1), ("slot", 0.08)):
        hole = Hole(shape, 0.1, 0.9, 0.2, b, 0.0 if shape == "circle" else 0.9)
        outline = hole.outline(0.0005)
        brute = KDTree(wrapped(outline), boxsize=1.0).query(points)[0]
        assert np.abs(np.abs(hole.periodic_distance(points)) - brute).max() < 1e-4
        grid = np.stack(np.meshgrid(*[(np.arange(200) + 0.5) / 200] * 2), -1).reshape(-1, 2)
        assert (hole.periodic_distance(grid) < 0).mean() == pytest.approx(hole.area, rel=0.02)


def test_gap_of_circles_is_known():
    first, second = Hole("circle", 0.1, 0.5, 0.1, 0.1), Hole("circle", 0.9, 0.5, 0.05, 0.05)
    assert gap(first, second, 0.001) == pytest.approx(0.05, rel=1e-3)
    assert gap(first, dataclasses.replace(second, x=0.08), 0.001) < 0  # one inside the other
    assert gap(dataclasses.replace(second, x=0.08), first, 0.001) < 0


def test_probabilities_of_near_pairs_and_crossings_hold():
    always = dataclasses.replace(CONFIG, close_pair_probability=1.0, crossing_probability=1.0)
    never = dataclasses.replace(CONFIG, close_pair_probability=0.0, crossing_probability=0.0)
    for holes in layouts(always, (2, 4), 15):
        assert any(crosses(hole) for hole in holes)
        nearest = min(brute_gap(a, b) for a, b in itertools.combinations(holes, 2))
        assert nearest <= 1.02 * always.close_gap[1]
    apart = layouts(never, (2, 2), 30)
    assert not any(crosses(hole) for holes in apart for hole in holes)
    assert np.mean([brute_gap(*holes) > never.close_gap[1] for holes in apart]) > 0.6


def test_crowded_cell_falls_back_to_a_lattice_that_keeps_its_word():
    config = UnitCellConfig(porosity=(0.4, 0.45), num_holes=(16, 16), min_gap=0.06, close_gap=(0.06, 0.1), num_shift=0)
    (holes,) = layouts(config, (16, 16), 1)
    assert {h.shape for h in holes} == {"circle"}
    assert sum(h.area for h in holes) == pytest.approx(0.4)
    assert min(brute_gap(a, b) for a, b in itertools.combinations(holes, 2)) >= 0.06
    assert num_components(mesh_cell(holes, 2_000)) == 1


@pytest.mark.parametrize("count", [1_000, 4_000])
def test_mesh_of_a_layout_is_sound(count):
    for holes in layouts(CONFIG, (1, 10), 5):
        mesh = mesh_cell(holes, count)
        assert abs(len(mesh.pos) / count - 1) < 0.15
        assert set(np.unique(mesh.triangles)) == set(range(len(mesh.pos)))
        assert num_components(mesh) == 1

        offset = mesh.pos[mesh.periodic_pairs[1]] - mesh.pos[mesh.periodic_pairs[0]]
        axis = np.argmax(offset, axis=1)
        assert np.abs(offset - np.eye(2)[axis]).max() < 1e-12
        on_side = np.flatnonzero(((mesh.pos == 0) | (mesh.pos == 1)).any(axis=1))
        assert np.array_equal(np.unique(mesh.periodic_pairs), on_side)
        assert np.array_equal(mesh.sides, on_side)

        at_hole = np.min([np.abs(hole.periodic_distance(mesh.pos)) for hole in holes], axis=0)
        assert at_hole[mesh.holes].max() < 1e-6
        assert np.array_equal(mesh.holes, np.flatnonzero(at_hole < 1e-6))

        u, v = (mesh.pos[mesh.triangles[:, i]] - mesh.pos[mesh.triangles[:, 0]] for i in (1, 2))
        area = 0.5 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
        assert area.min() > 0
        void = sum(h.area for h in holes)
        assert area.sum() == pytest.approx(1 - void, abs=0.03 * void)
        longest = np.max([np.sum((u - v) ** 2, 1), np.sum(u**2, 1), np.sum(v**2, 1)], axis=0)
        quality = 4 / np.sqrt(3) * area / longest  # 1 for equilateral triangles
        assert np.median(quality) > 0.8
        assert quality.min() > 0.1


def test_thin_ligament_holds_several_elements():
    space = 0.015
    holes = [Hole("circle", 0.35, 0.5, 0.14, 0.14), Hole("circle", 0.63 + space, 0.5, 0.14, 0.14)]
    mesh = mesh_cell(holes, 1_500)
    middle = np.array([0.49 + 0.5 * space, 0.5])
    near = np.sqrt(((mesh.pos[mesh.triangles].mean(axis=1) - middle) ** 2).sum(axis=1)) < 0.7 * space
    corners = mesh.pos[mesh.triangles[near]]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    assert np.median(edges) < space / 2


def test_mesh_repeats_bit_for_bit_whatever_came_before():
    one, other = layouts(CONFIG, (2, 6), 2)
    first = mesh_cell(one, 1_000)
    between = mesh_cell(other, 1_000)
    again = mesh_cell(one, 1_000)
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))
    assert len(between.pos) != len(first.pos) or not np.array_equal(between.pos, first.pos)


def test_holes_that_touch_are_refused():
    with pytest.raises(MeshError, match="holes of area"):
        mesh_cell([Hole("circle", 0.4, 0.5, 0.15, 0.15), Hole("circle", 0.6, 0.5, 0.15, 0.15)], 500)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_train": -1}, "`num_train`.*-1"),
        ({"num_train": 0, "num_test": 0, "num_shift": 0, "num_val": 0}, "all 0"),
        ({"num_nodes": 10}, "`num_nodes`.*10"),
        ({"num_nodes": (3_000, 1_000)}, "`num_nodes`"),
        ({"num_holes": (0, 2)}, "`num_holes`"),
        ({"porosity": (0.2, 0.9)}, "`porosity`"),
        ({"porosity": (float("nan"), 0.3)}, "`porosity`"),
        ({"shapes": ("circle", "star")}, "`shapes`.*star"),
        ({"shapes": ()}, "`shapes`"),
        ({"min_gap": 0.0}, "`min_gap`"),
        ({"close_gap": (0.01, 0.03)}, "`close_gap`.*`min_gap`"),
        ({"crossing_probability": 1.5}, "`crossing_probability`.*1.5"),
        ({"poisson_ratio": 0.5}, "`poisson_ratio`"),
        ({"youngs_modulus": 0.0}, "`youngs_modulus`"),
        ({"strain_amplitude": float("nan")}, "`strain_amplitude`"),
        ({"seed": 1.5}, "`seed`"),
        ({"porosity": (0.45, 0.5), "shift_holes": (60, 64)}, "leave gaps"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    with pytest.raises(ConfigError, match=says):
        UnitCellConfig(**settings)


def test_settings_from_json_are_the_same():
    assert UnitCellConfig(**CONFIG.parameters()) == CONFIG


def edges_of(mesh: CellMesh) -> tuple[np.ndarray, np.ndarray]:
    """Middles and lengths of a mesh's edges, those inside twice."""
    edges = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    return mesh.pos[edges].mean(axis=1), np.linalg.norm(mesh.pos[edges[:, 0]] - mesh.pos[edges[:, 1]], axis=1)


@pytest.mark.parametrize(("grading", "reach"), [(1.0, 0.1), (0.5, 0.1), (0.2, 0.1), (0.2, 0.4)])
def test_edges_grow_away_from_holes_as_far_as_told(grading, reach):
    """Beside one hole in the middle, wide enough that nothing else limits them; everywhere alike with 1."""
    hole = Hole("circle", 0.5, 0.5, 0.12, 0.12, 0.0)
    mesh = mesh_cell([hole], 3_000, grading, reach)
    assert abs(len(mesh.pos) / 3_000 - 1) < 0.15
    middle, length = edges_of(mesh)
    distance = hole.periodic_distance(middle)

    def at(place):
        return np.median(length[abs(distance - place) < 0.02])

    far = at(0.95 * reach) if reach > 0.1 else at(0.25)
    half = 0.5 * (grading + 1.0)
    assert at(0.0) / far == pytest.approx(grading, rel=0.3)
    assert at(0.5 * reach) / far == pytest.approx(half, rel=0.25)


def test_grading_is_drawn_evenly_in_its_logarithm_and_not_at_all_where_there_is_no_choice():
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    assert CONFIG.draw_grading(rng) == (0.5, 0.1)
    assert rng.random() == same.random()
    config = dataclasses.replace(CONFIG, grading=(0.1, 1.0), grading_reach=(0.04, 0.4))
    drawn = np.log10([config.draw_grading(rng) for _ in range(400)])
    np.testing.assert_allclose(drawn.mean(axis=0), [-0.5, np.log10(0.04) + 0.5], atol=0.06)
    np.testing.assert_allclose(drawn.min(axis=0), [-1, np.log10(0.04)], atol=0.02)
    assert config.parameters() != CONFIG.parameters()
    assert "grading" not in CONFIG.parameters()  # files from before there was a choice are still known
    with pytest.raises(ConfigError, match="`grading`"):
        dataclasses.replace(CONFIG, grading=(0.05, 1.0))


def test_edges_are_shorter_at_fine_spots_also_across_the_sides():
    hole, spot = Hole("circle", 0.5, 0.5, 0.12, 0.12, 0.0), FineSpot(0.98, 0.02, least=0.3, reach=0.1)
    mesh = mesh_cell([hole], 4_000, 1.0, 0.1, [spot])
    middle, length = edges_of(mesh)
    away = middle - (spot.x, spot.y)
    distance = np.linalg.norm(away - np.round(away), axis=1)
    far = np.median(length[distance > 0.25])
    wanted = 1 - 0.7 * np.exp(-((distance / 0.1) ** 2))
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        near = np.linalg.norm(middle - corner, axis=1) < 0.06
        assert np.median(wanted[near]) < 0.6
        assert np.median(length[near] / wanted[near]) == pytest.approx(far, rel=0.2)


def test_fine_spots_are_drawn_anywhere_as_often_as_told():
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    assert draw_spots(CONFIG, rng) == []
    assert rng.random() == same.random()
    config = dataclasses.replace(CONFIG, grading=(0.2, 1.0), fine_spots=(0, 2))
    drawn = [draw_spots(config, rng) for _ in range(300)]
    counts = np.bincount([len(spots) for spots in drawn])
    assert len(counts) == 3
    assert counts.min() > 70
    every = [spot for spots in drawn for spot in spots]
    quarters = np.histogram2d([s.x for s in every], [s.y for s in every], bins=2, range=((0, 1), (0, 1)))[0]
    assert quarters.min() > 50
    assert min(s.least for s in every) < 0.25 < 0.8 < max(s.least for s in every)
    assert len({s.least for s in every}) == len(every)
    assert "fine_spots" not in CONFIG.parameters()
    with pytest.raises(ConfigError, match="`fine_spots`"):
        dataclasses.replace(CONFIG, fine_spots=(2, 1))
