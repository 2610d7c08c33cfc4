import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from mesh.meshes import grid
from torch_geometric.loader import DataLoader

from flare_connect.errors import StoreError
from flare_connect.mesh import Mesh, MeshStore, NamedSet, write_store

INFO = {"generator": "test", "generator_version": 3, "seed": 7, "parameters": {"size": [1, 2]}}


def sample(i, kind="triangle", **fields):
    mesh = grid(kind, (i + 1, 2))
    rng = np.random.default_rng(i)
    mesh.point_data = {
        "u": torch.from_numpy(100 + rng.normal(size=mesh.num_nodes)),
        "v/w": torch.from_numpy(rng.normal(size=(mesh.num_nodes, 2)).astype(np.float32)),
    } | fields
    mesh.global_data = {"load": torch.tensor([float(i), 1.0])}
    mesh.cell_data = {"s": {kind: torch.arange(mesh.num_cells)}}
    mesh.sets = {"left": NamedSet("node", torch.tensor([0, 1, 2]))} if i != 1 else {}
    mesh.units = {"u": "K"}
    if i == 2:
        mesh.periodic_pairs = torch.tensor([[0, 1], [2, 3]])
    return mesh


@pytest.fixture
def meshes():
    return [sample(0), sample(1, "quad"), sample(2), sample(3, "quad9")]


@pytest.fixture
def path(tmp_path, meshes):
    path = tmp_path / "set.h5"
    write_store(path, iter(meshes), splits={"train": [0, 2], "test": [3], "none": []}, **INFO)
    return path


def test_round_trip(path, meshes):
    with MeshStore(path) as store:
        assert len(store) == 4
        assert store.num_nodes.tolist() == [m.num_nodes for m in meshes]
        assert store.field_names == ["u", "v/w"]
        assert store.attrs == INFO | {"units": {"u": "K"}}
        assert {k: v.tolist() for k, v in store.splits.items()} == {"train": [0, 2], "test": [3], "none": []}
        for mesh, back in zip(meshes, store, strict=True):
            back.validate()
            assert torch.equal(mesh.pos, back.pos)
            assert list(mesh.cells) == list(back.cells)
            for kind in mesh.cells:
                assert torch.equal(mesh.cells[kind], back.cells[kind])
                assert torch.equal(mesh.cell_data["s"][kind], back.cell_data["s"][kind])
            for name, values in mesh.point_data.items():
                assert torch.equal(values, back.point_data[name])
                assert values.dtype == back.point_data[name].dtype
            assert torch.equal(mesh.global_data["load"], back.global_data["load"])
            assert {n: s.ids.tolist() for n, s in mesh.sets.items()} == {
                n: s.ids.tolist() for n, s in back.sets.items()
            }
            assert (mesh.periodic_pairs is None) == (back.periodic_pairs is None)
        assert store[2].periodic_pairs.tolist() == [[0, 1], [2, 3]]
        assert store[-1].num_nodes == meshes[3].num_nodes
    assert [file.name for file in path.parent.iterdir()] == ["set.h5"]


def test_compressed_files_hold_the_same(tmp_path):
    """Series with components too, which have a third axis."""
    mesh = sample(0)
    mesh.point_data["series"] = torch.arange(3.0).expand(mesh.num_nodes, 50, 3).contiguous()
    paths = [tmp_path / f"{compress}.h5" for compress in (False, True)]
    for each, compress in zip(paths, (False, True), strict=True):
        write_store(each, [mesh] * 20, splits={"train": [0]}, **INFO, compress=compress)
    with MeshStore(paths[0]) as plain, MeshStore(paths[1]) as small:
        assert plain.digest == small.digest
        for name, values in small[19].point_data.items():
            assert torch.equal(values, mesh.point_data[name])
            assert torch.equal(values, plain[19].point_data[name])
    assert paths[1].stat().st_size < 0.5 * paths[0].stat().st_size


def test_order_of_kinds_is_kept(tmp_path):
    pos = [[0, 0], [1, 0], [1, 1], [0, 1]]
    blocks = {"quad": [[0, 1, 2, 3]], "triangle": [[0, 1, 2]]}
    meshes = [Mesh.from_arrays(pos, blocks), Mesh.from_arrays(pos, dict(reversed(blocks.items())))]
    write_store(tmp_path / "x.h5", meshes, splits={}, **INFO)
    assert [list(m.cells) for m in MeshStore(tmp_path / "x.h5")] == [["quad", "triangle"], ["triangle", "quad"]]


@pytest.mark.parametrize(("split", "ids"), [("train", [0, 2]), ("test", [3])])
def test_statistics_of_one_split_only(path, meshes, split, ids):
    found = MeshStore(path).statistics(split)
    u = torch.cat([meshes[i].point_data["u"] for i in ids]).numpy()
    v = torch.cat([meshes[i].point_data["v/w"] for i in ids]).double().numpy()
    load = torch.stack([meshes[i].global_data["load"] for i in ids]).double().numpy()
    for name, values in {"u": u[:, None], "v/w": v, "load": load}.items():
        np.testing.assert_allclose(found[name]["mean"], values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found[name]["std"], values.std(0), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(found[name]["rms"], np.sqrt((values**2).mean(0)), rtol=1e-12)


def test_train_statistics_are_those_of_the_file(path):
    """They are read back, not computed again."""
    with h5py.File(path, "r+") as file:
        file["point_data/u/data"][:] = 0
    assert MeshStore(path).statistics()["u"]["mean"][0] == pytest.approx(100, abs=1)


def test_pickle_fork_and_loader(path, meshes):
    store = MeshStore(path)
    _ = store[0]
    other = pickle.loads(pickle.dumps(store))
    assert other[1].num_nodes == meshes[1].num_nodes
    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:  # the parent's handle must neither be used nor closed here
        os._exit(0 if torch.equal(store[3].pos, meshes[3].pos) and store._pid == os.getpid() else 1)
    assert child is None or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store[3].num_nodes == meshes[3].num_nodes
    (batch,) = DataLoader([store[2], store[2]], batch_size=2)
    assert batch.ptr.tolist() == [0, meshes[2].num_nodes, 2 * meshes[2].num_nodes]


def test_what_is_wrong_with_a_file(path, tmp_path):
    with pytest.raises(StoreError, match=r"no\.h5 does not exist"):
        MeshStore(tmp_path / "no.h5")
    whole = path.read_bytes()
    short = tmp_path / "short.h5"
    for content in (whole[: len(whole) // 2], b"text"):
        short.write_bytes(content)
        with pytest.raises(StoreError, match=r"is truncated or not an HDF5 file; generate it again or copy it again"):
            MeshStore(short)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a mesh store"):
        MeshStore(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(StoreError, match="has format version 99, this flare_connect reads up to 1"):
        MeshStore(path)


def test_unknown_sample_and_split(path):
    store = MeshStore(path)
    with pytest.raises(StoreError, match="has 4 samples, 0 to 3; there is no sample 4"):
        _ = store[4]
    with pytest.raises(IndexError):
        _ = store[-5]
    with pytest.raises(StoreError, match="no split 'val'; its splits: "):
        store.statistics("val")
    with pytest.raises(StoreError, match=r"split 'none' .* is empty"):
        store.statistics("none")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda: sample(1, extra=torch.zeros(6)), r"sample 1 has point_data 'extra', which sample 0 has not"),
        (
            lambda: sample(1, u=torch.zeros(6, 3)),
            r"sample 1: point_data 'u' has width \[3\] and type torch.float32, in",
        ),
        (lambda: Mesh.from_arrays([[0, 0], [1, 0]], {"line": [[0, 1]]}), r"sample 1 lacks point_data 'u'"),
    ],
)
def test_meshes_that_do_not_fit(tmp_path, second, message):
    old = tmp_path / "x.h5"
    old.write_text("old")
    with pytest.raises(StoreError, match=message):
        write_store(old, [sample(0), second()], splits={}, **INFO)
    assert [file.name for file in tmp_path.iterdir()] == ["x.h5"]
    assert old.read_text() == "old"


def test_wrong_splits(tmp_path, meshes):
    for splits, message in (
        ({"train": [0, 4]}, "split 'train' refers to sample 4, but there are 4"),
        ({"train": [0, 1], "test": [1]}, "1 samples are both in 'train' and in 'test'"),
        ({"train": [0, 0]}, "names a sample more than once"),
    ):
        with pytest.raises(StoreError, match=message):
            write_store(tmp_path / "x.h5", meshes, splits=splits, **INFO)
    with pytest.raises(StoreError, match="no meshes were given"):
        write_store(tmp_path / "x.h5", [], splits={}, **INFO)
    assert list(tmp_path.iterdir()) == []
