"""A data set of the topology study survives being packed, but for 16 bits."""

import importlib
import sys

import numpy as np
import pytest
import torch
from fixtures_meshes import square

import flare_connect as fc
from flare_connect.mesh import write_store


@pytest.fixture
def packing(repository, monkeypatch):
    """The module of the study."""
    monkeypatch.syspath_prepend(repository / "examples/studies/topology")
    for name in ("packing", "sets"):
        sys.modules.pop(name, None)
    yield importlib.import_module("packing")
    for name in ("packing", "sets"):
        sys.modules.pop(name, None)


def cell(seed):
    """A periodic square with fields as the set `cells` has them, its nodes in any order."""
    rng = np.random.default_rng(seed)
    side = 13
    x, y, triangles, pairs = square(side)
    place = rng.permutation(side * side)
    order = np.argsort(place)
    stress = np.stack([1e3 * np.sin(3 * x) + 7, np.full_like(x, -2.5), x * y], 1)
    return fc.Mesh.from_arrays(
        np.stack([x, y], 1)[order], {"triangle": place[triangles]},
        point_data={"stress": stress[order].astype(np.float32), "von_mises": x[order].astype(np.float32),
                    "unread": y[order].astype(np.float32)},
        global_data={"macro_strain": rng.normal(size=3).astype(np.float32)},
        sets={"holes": place[rng.permutation(20)]}, periodic_pairs=place[pairs], units={"stress": "Pa", "pos": "m"},
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """Three cells in two splits."""
    write_store(
        tmp_path / "cells.h5", [cell(i) for i in range(3)], splits={"train": [0, 2], "test": [1]}, generator="made",
        generator_version=3, seed=5, parameters={"nodes": 169},
    )  # fmt: skip
    with fc.MeshStore(tmp_path / "cells.h5") as opened:
        yield opened


def by_position(mesh):
    """Node numbers in the order of rounded positions."""
    return np.lexsort(np.round(mesh.pos.numpy(), 3).T)


@pytest.mark.parametrize("part_bytes", [1, 10**6])
def test_what_was_packed_comes_back(packing, store, tmp_path, part_bytes):
    parts = packing.pack(store, packing.SETS["cells"], tmp_path / "packed", part_bytes, 2)
    assert len(parts) == (4 if part_bytes == 1 else 1)
    with fc.MeshStore(packing.unpack(reversed(parts), tmp_path / "elsewhere", 2)) as back:
        assert {name: ids.tolist() for name, ids in back.splits.items()} == {"train": [0, 2], "test": [1]}
        assert {k: v for k, v in back.attrs.items() if k != "units"} == {
            k: v for k, v in store.attrs.items() if k != "units"
        }
        assert back.attrs["units"]["stress"] == "Pa"
        for mesh, found in zip(store, back, strict=True):
            here, there = by_position(mesh), by_position(found)
            assert np.abs(mesh.pos.numpy()[here] - found.pos.numpy()[there]).max() <= 0.51 / 65535
            assert set(found.point_data) == {"stress", "von_mises"}
            for name in found.point_data:
                one, other = mesh.point_data[name].numpy()[here], found.point_data[name].numpy()[there]
                span = np.ptp(one, axis=0) + 1e-3
                assert (np.abs(one - other) <= 0.51 / 65535 * span + 1e-6 * np.abs(one)).all()
            rank = np.empty(len(here), dtype=np.int64)
            rank[here] = np.arange(len(here))
            rank_there = np.empty(len(here), dtype=np.int64)
            rank_there[there] = np.arange(len(here))

            def triangles(mesh, rank):
                corners = rank[mesh.cells["triangle"].numpy()]
                first = corners.argmin(1)[:, None]
                return set(map(tuple, np.take_along_axis(corners, (first + np.arange(3)) % 3, 1).tolist()))

            assert triangles(mesh, rank) == triangles(found, rank_there)  # turned the same way, too
            assert set(rank[mesh.sets["holes"].ids]) == set(rank_there[found.sets["holes"].ids])
            assert (rank[mesh.periodic_pairs] == rank_there[found.periodic_pairs]).all()
            assert torch.equal(mesh.global_data["macro_strain"], found.global_data["macro_strain"])


def test_missing_and_damaged_parts_are_told(packing, store, tmp_path):
    parts = packing.pack(store, packing.SETS["cells"], tmp_path / "packed", 1, 1)
    with pytest.raises(SystemExit, match="hold 2 of 3 meshes"):
        packing.unpack(parts[:-1], tmp_path, 1)
    with pytest.raises(SystemExit, match="first part is missing"):
        packing.unpack(parts[1:], tmp_path, 1)
    parts[-1].write_bytes(parts[-1].read_bytes()[:-3])
    with pytest.raises(SystemExit, match="cut off"):
        packing.unpack(parts, tmp_path, 1)
