import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from flare_connect.errors import ConfigError, MeshError
from flare_connect.mesh import Mesh, geodesic_distance
from flare_datasets.meshing import element_width
from flare_datasets.slit_plates import PlateMesh, Slit, SlitPlateConfig, draw_slits, mesh_plate
from flare_datasets.slit_plates.config import SPLITS
from flare_datasets.slit_plates.geometry import gap, self_gap, side_gap
from flare_datasets.slit_plates.meshing import split_along

CONFIG = SlitPlateConfig(physics="heat")
OPENINGS = (0.0, 0.25 * element_width(5_000), 3.0 * element_width(5_000))


def layouts(split: str, opening: float, count: int) -> list[list[Slit]]:
    return [draw_slits(CONFIG, np.random.default_rng([3, i]), split, opening) for i in range(count)]


def as_mesh(mesh: PlateMesh) -> Mesh:
    return Mesh.from_arrays(mesh.pos, {"triangle": mesh.triangles})


def samples_of(slit: Slit) -> np.ndarray:
    """Points along the line of a slit, 0.002 or less apart."""
    steps = [np.linspace(a, b, math.ceil(math.dist(a, b) / 0.002) + 1) for a, b in itertools.pairwise(slit.points)]
    return np.concatenate(steps)


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("split", SPLITS)
def test_slits_keep_their_distance_and_touch_a_side_only_where_meant(split, opening):
    for slits in layouts(split, opening, 6):
        assert CONFIG.slits_of(split)[0] <= len(slits) <= CONFIG.slits_of(split)[1]
        for first, second in itertools.combinations(slits, 2):
            apart = KDTree(samples_of(first)).query(samples_of(second))[0].min()
            assert apart - opening >= CONFIG.min_gap - 1e-9
            assert gap(first, second) == pytest.approx(apart - opening, abs=2e-3)
        for slit in slits:
            assert sum(slit.mouths) == (1 if split in ("serpentine", "comb") else 0)
            inside = samples_of(slit)[1:] if slit.mouths[0] else samples_of(slit)
            if not slit.mouths[0]:
                assert np.minimum(inside, 1 - inside).min() - opening / 2 >= CONFIG.min_gap - 1e-9
            assert side_gap(slit) >= CONFIG.min_gap - opening / 2 - 1e-9
            least, most = CONFIG.long_slit if slit.mouths[0] else CONFIG.slit_length
            assert split == "spiral" or least - 1e-9 <= slit.length <= most + 1e-9
            assert self_gap(slit) >= CONFIG.min_gap


@pytest.mark.parametrize("opening", [0.0, 0.02])
def test_every_split_has_its_kind_of_topology(opening):
    loops = {"serpentine": lambda count: 0, "comb": lambda count: 0, "spiral": lambda count: 1}
    for split in ("train", "more", "serpentine", "comb", "spiral"):
        (slits,) = layouts(split, opening, 1)
        mesh = as_mesh(mesh_plate(slits, 2_500))
        expected = loops.get(split, lambda count: count)(len(slits))
        assert mesh.num_components == 1
        assert mesh.topology.betti == (1, expected, 0), split
        assert mesh.topology.num_boundary_components == expected + 1


@pytest.mark.parametrize("opening", [0.0, 0.01])
def test_mesh_of_a_layout_is_sound(opening):
    for split in ("more", "serpentine", "spiral"):
        (slits,) = layouts(split, opening, 1)
        plate = mesh_plate(slits, 2_500)
        assert abs(len(plate.pos) / 2_500 - 1) < 0.15
        assert set(np.unique(plate.triangles)) == set(range(len(plate.pos)))
        u, v = (plate.pos[plate.triangles[:, i]] - plate.pos[plate.triangles[:, 0]] for i in (1, 2))
        area = 0.5 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
        assert area.min() > 0
        assert area.sum() == pytest.approx(1 - sum(slit.area for slit in slits if opening), abs=1e-9)
        longest = np.max([np.sum((u - v) ** 2, 1), np.sum(u**2, 1), np.sum(v**2, 1)], axis=0)
        quality = 4 / np.sqrt(3) * area / longest  # 1 for equilateral triangles
        assert np.median(quality) > 0.8
        assert quality.min() > 0.1
        for axis, at, name in ((0, 0, "left"), (0, 1, "right"), (1, 0, "bottom"), (1, 1, "top")):
            assert np.array_equal(getattr(plate, name), np.flatnonzero(plate.pos[:, axis] == at))
        nearest = KDTree(np.concatenate([samples_of(slit) for slit in slits])).query(plate.pos)[0]
        assert nearest[plate.slits].max() < opening + 2e-3
        assert set(np.flatnonzero(nearest < 0.4 * opening + 1e-9)) <= set(plate.slits)
        assert not crossings(plate, slits)


def crossings(plate: PlateMesh, slits: list[Slit]) -> int:
    """Edges of the mesh that cross the line of a slit: neither end on it, ends on both sides."""
    edges = np.unique(np.sort(np.concatenate([plate.triangles[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1), axis=0)
    p, q = plate.pos[edges[:, 0]], plate.pos[edges[:, 1]]

    def turn(a, b, c):
        return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])

    found = 0
    for slit in slits:
        for a, b in itertools.pairwise(slit.line):
            sides, ends = (turn(a, b, p), turn(a, b, q)), (turn(p, q, a), turn(p, q, b))
            apart = np.minimum(np.abs(sides[0]), np.abs(sides[1])) > 1e-9
            found += int((apart & (sides[0] * sides[1] < 0) & (ends[0] * ends[1] < 0)).sum())
    return found


def test_lips_of_a_crack_are_in_one_place_and_far_along_the_mesh():
    length = 0.4
    plate = mesh_plate([Slit(((0.3, 0.5), (0.3 + length, 0.5)))], 1_500)
    _, place, count = np.unique(plate.pos, axis=0, return_inverse=True, return_counts=True)
    assert set(np.flatnonzero(count[place] == 2)) < set(plate.slits)
    assert (count[place[plate.slits]] == 1).sum() == 2  # the tips
    middle = plate.slits[np.argsort(np.abs(plate.pos[plate.slits] - 0.5).max(axis=1))[:2]]
    assert np.array_equal(plate.pos[middle[0]], plate.pos[middle[1]])
    mesh = as_mesh(plate)
    way = float(geodesic_distance(mesh, torch.from_numpy(middle[:1]))[0, middle[1]])
    to_tip = length / 2 - abs(plate.pos[middle[0], 0] - 0.5)
    assert way == pytest.approx(2 * to_tip, rel=0.02)
    # No triangle holds nodes of both lips but for those at the tips.
    above = plate.pos[plate.triangles].mean(axis=1)[:, 1] > 0.5
    shared = np.intersect1d(plate.triangles[above], plate.triangles[~above])
    on_line = shared[(np.abs(plate.pos[shared, 1] - 0.5) < 1e-9) & (np.abs(plate.pos[shared, 0] - 0.5) < 0.49 * length)]
    assert len(on_line) == 0


def test_lips_of_an_open_slit_are_as_far_apart_as_asked():
    opening = 0.03
    plate = mesh_plate([Slit(((0.3, 0.5), (0.7, 0.5)), opening)], 1_500)
    flat = plate.slits[np.abs(plate.pos[plate.slits, 0] - 0.5) < 0.2 - opening - 1e-9]
    assert np.allclose(np.abs(plate.pos[flat, 1] - 0.5), opening / 2, atol=1e-12)
    assert {bool(side) for side in plate.pos[flat, 1] > 0.5} == {True, False}


@pytest.mark.parametrize("opening", [0.0, 0.01])
def test_the_way_through_a_pattern_is_long(opening):
    (serpentine,), (spiral,) = layouts("serpentine", opening, 1), layouts("spiral", opening, 1)
    plate = mesh_plate(serpentine, 2_000)
    across = geodesic_distance(as_mesh(plate), torch.from_numpy(plate.left[[len(plate.left) // 2]]))[0, plate.right]
    assert float(across.min()) > 1.3  # straight: about 1
    plate = mesh_plate(spiral, 2_000)
    centre = int(np.argmin(np.linalg.norm(plate.pos - 0.5, axis=1)))
    out = geodesic_distance(as_mesh(plate), torch.tensor([centre]))[0, np.concatenate([plate.left, plate.top])]
    assert float(out.min()) > 2.0  # straight: 0.5


def test_mouth_of_a_crack_opens_the_side():
    plate = mesh_plate([Slit(((0.5, 1.0), (0.5, 0.4)))], 800)
    mouth = np.flatnonzero((plate.pos == [0.5, 1.0]).all(axis=1))
    assert len(mouth) == 2
    assert set(mouth) <= set(plate.top) & set(plate.slits)
    way = float(geodesic_distance(as_mesh(plate), torch.from_numpy(mouth[:1]))[0, mouth[1]])
    assert way == pytest.approx(1.2, rel=0.02)


def test_area_of_a_slit_is_known():
    inside = Slit(((0.3, 0.4), (0.7, 0.7)), 0.04)
    assert inside.area == pytest.approx(0.04 * (0.5 - 0.04))  # points over the width of the opening at both ends
    assert Slit(((0.3, 0.0), (0.3, 0.5)), 0.04).area == pytest.approx(0.04 * (0.5 - 0.02))
    assert Slit(((0.3, 1.0), (0.3, 0.5)), 0.04).area == pytest.approx(0.04 * (0.5 - 0.02))
    corner = Slit(((0.2, 0.2), (0.6, 0.2), (0.6, 0.7)), 0.04)
    assert corner.area == pytest.approx(0.04 * (0.9 - 0.04))


def test_distance_of_slits_that_cross_is_none():
    first = Slit(((0.2, 0.2), (0.8, 0.8)))
    assert gap(first, Slit(((0.2, 0.8), (0.8, 0.2)))) == 0
    assert gap(first, Slit(((0.3, 0.2), (0.8, 0.7)), 0.02)) == pytest.approx(0.1 / math.sqrt(2) - 0.01)


def test_nodes_are_doubled_along_a_cut_only():
    # Five by three nodes, node 3 i + j at (i, j); a cut along the middle row from the side to the third node.
    quads = [(3 * i + j, 3 * i + j + 3, 3 * i + j + 4, 3 * i + j + 1) for i in range(4) for j in range(2)]
    triangles = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    cut, old = split_along(triangles, np.array([[1, 4], [7, 4]]), 15)
    assert np.array_equal(old[cut], triangles)
    assert sorted(old[15:]) == [1, 4]  # the mouth and the node inside; the tip is one
    below = np.array([j == 0 for _ in range(4) for j in range(2) for _ in range(2)])
    assert set(np.intersect1d(cut[below], cut[~below])) == {7, 10, 13}
    same, old = split_along(triangles, np.array([[4, 7]]), 15)
    assert np.array_equal(same, triangles)
    assert len(old) == 15


def test_pieces_are_refused():
    with pytest.raises(MeshError, match="slits cut the plate into 2 pieces"):
        mesh_plate([Slit(((0.5, 1.0), (0.5, 0.0)))], 400)
    with pytest.raises(MeshError, match="in 2 pieces"):
        mesh_plate([Slit(((0.5, 1.0), (0.5, 0.0)), 0.05)], 400)
    with pytest.raises(MeshError, match="slits meet"):
        mesh_plate([Slit(((0.3, 0.5), (0.7, 0.5)), 0.05), Slit(((0.5, 0.3), (0.5, 0.7)), 0.05)], 400)


def test_mesh_repeats_bit_for_bit_whatever_came_before():
    one, other = layouts("train", 0.0, 2)
    first, _, again = mesh_plate(one, 800), mesh_plate(other, 800), mesh_plate(one, 800)
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))


def test_crowded_plate_falls_back_to_a_lattice_that_keeps_its_word():
    config = dataclasses.replace(CONFIG, num_slits=(16, 16), slit_length=(0.15, 0.9), opening=(0.25, 0.5))
    slits = draw_slits(config, np.random.default_rng(0), "train", 0.007)
    assert [slit.length for slit in slits] == pytest.approx([0.15] * 16)
    assert min(gap(a, b) for a, b in itertools.combinations(slits, 2)) >= config.min_gap
    assert min(side_gap(slit) for slit in slits) >= config.min_gap


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"physics": "waves"}, "`physics`.*waves"),
        ({"num_train": -1}, "`num_train`.*-1"),
        ({f"num_{split}": 0 for split in SPLITS}, "all 0"),
        ({"num_nodes": 10}, "`num_nodes`.*10"),
        ({"num_slits": (0, 2)}, "`num_slits`"),
        ({"more_slits": (8, 6)}, "`more_slits`"),
        ({"min_gap": 0.5}, "`min_gap`"),
        ({"slit_length": (0.2, 1.5)}, "`slit_length`"),
        ({"opening": (0.0, 3.0)}, "`opening`"),
        ({"crack_probability": float("nan")}, "`crack_probability`"),
        ({"poisson_ratio": 0.4}, "`poisson_ratio` does nothing with physics='heat'"),
        ({"physics": "elasticity", "num_sources": (2, 3)}, "`num_sources` does nothing.*physics='heat'"),
        ({"physics": "elasticity", "poisson_ratio": 0.5}, "`poisson_ratio`"),
        ({"temperature": 0.0, "num_sources": (0, 1)}, "leaves plates cold"),
        ({"comb_slits": (3, 16)}, "16 slits in a comb leave"),
        ({"more_slits": (6, 16)}, "16 slits on a lattice leave"),
        ({"num_nodes": 500}, "leave a width|shorter than three"),
        ({"spiral_turns": (2.0, 6.0)}, "6 turns of a spiral leave"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    with pytest.raises(ConfigError, match=says):
        SlitPlateConfig(**({"physics": "heat"} | settings))


def test_openings_are_those_of_the_nodes_that_geometry_is_drawn_for():
    fine = dataclasses.replace(CONFIG, num_nodes=200, geometry_nodes=5_000)  # openings of 200 nodes would not fit
    assert fine.widest == CONFIG.widest
    with pytest.raises(ConfigError, match=r"`geometry_nodes`.*10"):
        SlitPlateConfig(physics="heat", geometry_nodes=10)
    with pytest.raises(ConfigError, match=r"`num_nodes` must be one number.*\(2000, 3000\)"):
        SlitPlateConfig(physics="heat", num_nodes=(2_000, 3_000), geometry_nodes=5_000)


def test_settings_from_json_are_the_same():
    assert SlitPlateConfig(**CONFIG.parameters()) == CONFIG
