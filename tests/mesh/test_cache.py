"""Kept results: found by content, never stale, never half-written."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fixtures_meshes import plate

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, MeshCache, anchors, cache, diffusion_cost, geodesic_distance, laplacian_modes


@pytest.fixture
def counted(monkeypatch):
    """`laplacian_modes` that counts its calls, under its own name."""
    calls = []

    def laplacian_modes_(mesh, count, *, device=None):
        calls.append(count)
        return laplacian_modes(mesh, count)

    laplacian_modes_.__name__ = "laplacian_modes"
    monkeypatch.setitem(cache._VERSIONS, laplacian_modes_, 1)
    return laplacian_modes_, calls


def test_a_result_is_computed_once_and_read_back_whole(tmp_path, counted):
    modes, calls = counted
    keep, mesh = MeshCache(tmp_path / "c"), plate(6)
    assert (modes, mesh, 4) not in keep
    first, again = keep(modes, mesh, 4), MeshCache(tmp_path / "c")(modes, plate(6), count=4)
    assert calls == [4]
    assert (modes, mesh, 4) in keep
    for a, b, c in zip(first, again, laplacian_modes(mesh, 4), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    at, _ = keep(anchors, mesh, 5)
    cost = keep(diffusion_cost, mesh, at, (1.0,))
    assert torch.equal(keep(diffusion_cost, mesh, at, (1.0,), device="cpu"), cost)
    assert len(list(keep.folder.iterdir())) == 3
    keep.clear()
    keep(modes, mesh, 4)
    assert calls == [4, 4]


def test_whatever_changes_the_result_changes_the_key(tmp_path, counted, monkeypatch):
    modes, calls = counted
    keep, mesh = MeshCache(tmp_path), plate(6)
    keep(modes, mesh, 4)
    moved = Mesh.from_arrays(mesh.pos * torch.tensor([1.0, 1 + 1e-15]) + 1e-15, mesh.cells)
    turned = Mesh.from_arrays(mesh.pos, {"triangle": mesh.cells["triangle"][:, [1, 2, 0]]})
    paired = Mesh.from_arrays(mesh.pos, mesh.cells, periodic_pairs=[[0], [6]])
    for number, (other, count) in enumerate([(moved, 4), (turned, 4), (paired, 4), (mesh, 5)]):
        keep(modes, other, count)
        assert len(calls) == number + 2
    mesh.pos[3, 0] += 1e-9  # in place: what the mesh has derived does not know, the cache does
    keep(modes, mesh, 4)
    assert len(calls) == 6
    monkeypatch.setitem(cache._VERSIONS, modes, 2)
    keep(modes, mesh, 4)
    assert len(calls) == 7
    labelled = Mesh.from_arrays(mesh.pos, mesh.cells, point_data={"u": mesh.pos[:, 0]}, sets={"left": [0]})
    keep(modes, labelled, 4)  # fields and sets have no say
    assert len(calls) == 7


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_computed_again(tmp_path, counted, damage):
    modes, calls = counted
    keep, mesh = MeshCache(tmp_path), plate(6)
    whole = keep(modes, mesh, 4)
    (path,) = keep.folder.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-40], "flipped": data, "empty": b"", "text": b"no archive"}[damage])
    again = keep(modes, mesh, 4)
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    keep(modes, mesh, 4)
    assert len(calls) == 2


def test_a_pickle_is_not_loaded(tmp_path, counted):
    modes, calls = counted
    keep, mesh = MeshCache(tmp_path), plate(6)
    keep(modes, mesh, 4)
    (path,) = keep.folder.iterdir()
    with path.open("wb") as file:
        np.savez(file, a0=np.array([{"not": "numbers"}], dtype=object))
    keep(modes, mesh, 4)
    assert len(calls) == 2


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path):
    """Killed at some moment while it writes again and again: what is found afterwards is whole, or not there."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from fixtures_meshes import plate\n"
        "from flare_connect.mesh import MeshCache, geodesic_distance; import torch\n"
        "mesh, keep = plate(12), MeshCache(sys.argv[1]); print('go', flush=True)\n"
        "while True: keep(geodesic_distance, mesh, torch.arange(80)); keep.clear()\n"
    )
    folder = os.path.dirname(os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    time.sleep(0.7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    mesh, keep = plate(12), MeshCache(tmp_path)
    assert all(path.suffix == ".tmp" or path.suffix == ".npz" for path in tmp_path.iterdir())
    found = keep(geodesic_distance, mesh, torch.arange(80))
    assert torch.equal(found, geodesic_distance(mesh, torch.arange(80)))


def test_threads_may_keep_the_same_result(tmp_path, monkeypatch):
    """As training does that builds the graphs of equal meshes at once: each writes beside the others."""
    gate = threading.Barrier(2, timeout=20)
    replace = os.replace

    def slow(source, target):
        gate.wait()  # both have written before either is done
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    mesh, keep = plate(6), MeshCache(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: keep(geodesic_distance, mesh, torch.arange(3)), range(2)))
    assert torch.equal(*found)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(MeshError, match=r"results of 'plate' cannot be kept; those of .*anchors, clusters"):
        MeshCache(tmp_path)(plate, plate(4))
    assert MeshCache.beside("a/b.vtk").folder.as_posix() == "a/b.vtk.cache"
