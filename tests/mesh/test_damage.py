"""Damaged files of every format: an error that says so, or a mesh that is sound. Nothing hangs, crashes or eats memory.

A file that is cut short gives an error, or what stands before the cut: nothing that was not in the file.

More of them: `FLARE_CONNECT_DAMAGE=100 python -m pytest tests/mesh/test_damage.py` (files of each format).
"""

import os
import resource
import time
import warnings
from contextlib import suppress

import pytest
from mesh.damage import damaged
from mesh.formats import SAMPLES

from flare_connect.errors import MeshReadError
from flare_connect.mesh import load_mesh

EACH = int(os.environ.get("FLARE_CONNECT_DAMAGE", "10"))
# Read in a process of its own each time, which takes a second: fewer of them.
SLOW, SHARE = ("VTK", "ParaView", "CGNS"), 0.5

CUTS = (0.7, 0.95)  # where files are cut


def peak_mib():
    return [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


@pytest.mark.timeout(60 + 30 * EACH)
@pytest.mark.parametrize("title", SAMPLES)
def test_damaged_files(title, tmp_path, capfd):
    path, _ = SAMPLES[title](tmp_path)
    # a format in several files keeps its numbers in one of them: that one is damaged
    parts = [file for file in tmp_path.rglob("*") if file.is_file()]
    before, slowest, refused, unnamed = peak_mib(), 0.0, 0, 0
    for seed in range(count_of(title)):
        victim = parts[seed % len(parts)]
        sound = victim.read_bytes()
        victim.write_bytes(damaged(sound, hash_of(title, seed)))
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_mesh(path).validate()
        except MeshReadError as error:
            refused += str(path) in str(error)
            unnamed += str(path) not in str(error)
        slowest = max(slowest, time.perf_counter() - start)
        victim.write_bytes(sound)
    own, children = (now - then for now, then in zip(peak_mib(), before, strict=True))
    assert unnamed == 0
    assert own < 1024
    assert children < 1024 + 300  # what an interpreter with PyVista takes before it reads anything
    assert slowest < 30
    assert capfd.readouterr() == ("", "")
    load_mesh(path)  # the sound file again: nothing was left behind
    told = f"{refused} of {count_of(title)} refused, slowest {slowest:.1f} s, peak +{own:.0f} and {children:.0f} MiB"
    print(f"{title}: {told}")


def count_of(title):
    """How many files of a format are damaged."""
    return round(EACH * (SHARE if title.startswith(SLOW) else 1))


def hash_of(title, seed):
    """Different damage to each format, the way of it in turn."""
    return sum(map(ord, title)) % 97 * 1000 + seed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("title", SAMPLES)
def test_cut_files_hold_nothing_else(title, tmp_path):
    path, _ = SAMPLES[title](tmp_path)
    intact = load_mesh(path)
    parts = [file for file in tmp_path.rglob("*") if file.is_file()]
    for i, part in enumerate(CUTS):
        victim = max(parts, key=lambda file: file.stat().st_size) if i else parts[0]
        sound = victim.read_bytes()
        victim.write_bytes(sound[: int(len(sound) * part)])
        with warnings.catch_warnings(), suppress(MeshReadError):
            warnings.simplefilter("ignore")
            assert strangers(intact, load_mesh(path)) <= 1  # the number that the cut goes through
        victim.write_bytes(sound)


def strangers(intact, found):
    """Numbers of a mesh that are not those in the same place of the intact one."""
    pairs = [(intact.pos, found.pos)]
    pairs += [(intact.cells[kind], nodes) for kind, nodes in found.cells.items()]
    pairs += [(intact.point_data[name], values) for name, values in found.point_data.items()]
    for name, blocks in found.cell_data.items():
        pairs += [(intact.cell_data[name][kind], values) for kind, values in blocks.items()]
    return sum(int((whole[: len(part)] != part).sum()) for whole, part in pairs)


def test_there_are_enough_of_them():
    assert sum(map(count_of, SAMPLES)) >= 300
