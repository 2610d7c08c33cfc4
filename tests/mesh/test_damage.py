"""Damaged files of every format: an error that says so, or a mesh that is sound. Nothing hangs, crashes or eats memory.

More of them: `FLARE_CONNECT_DAMAGE=100 python -m pytest tests/mesh/test_damage.py` (files of each format).
"""

import os
import resource
import time
import warnings

import pytest
from mesh.damage import damaged
from mesh.formats import SAMPLES

from flare_connect.errors import MeshReadError
from flare_connect.mesh import load_mesh

EACH = int(os.environ.get("FLARE_CONNECT_DAMAGE", "10"))


def peak_mib():
    return [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


@pytest.mark.timeout(60 + 30 * EACH)
@pytest.mark.parametrize("title", SAMPLES)
def test_damaged_files(title, tmp_path, capfd):
    path, _ = SAMPLES[title](tmp_path)
    # a format in several files keeps its numbers in one of them: that one is damaged
    parts = [file for file in tmp_path.rglob("*") if file.is_file()]
    before, slowest, refused, unnamed = peak_mib(), 0.0, 0, 0
    for seed in range(EACH):
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
    print(f"{title}: {refused} of {EACH} refused, slowest {slowest:.1f} s, peak +{own:.0f} and {children:.0f} MiB")


def hash_of(title, seed):
    """Different damage to each format, the way of it in turn."""
    return sum(map(ord, title)) % 97 * 1000 + seed


def test_there_are_enough_of_them():
    assert len(SAMPLES) * EACH >= 300
