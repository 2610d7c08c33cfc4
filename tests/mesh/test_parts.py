import os
import signal

import pytest
import torch

from flare_connect.errors import StoreError
from flare_connect.mesh import MeshParts


def test_round_trip_and_missing(tmp_path, rich_mesh):
    parts = MeshParts(tmp_path / "parts", {"seed": 0, "sizes": (1, 2)})
    assert parts.missing(3) == [0, 1, 2]
    parts.write(1, rich_mesh)
    assert MeshParts(tmp_path / "parts", {"seed": 0, "sizes": [1, 2]}).missing(3) == [0, 2]
    back = parts.read(1)
    assert back.to_dict().keys() == rich_mesh.to_dict().keys()
    assert torch.equal(back.pos, rich_mesh.pos)
    assert torch.equal(back.cells["triangle"], rich_mesh.cells["triangle"])
    assert back.point_data["temperature"].dtype == torch.float32
    assert back.cell_data["stress"]["triangle"].tolist() == [2.5, 3.5]
    assert back.global_data["load"].tolist() == [1, -2]
    assert back.set_nodes("left").tolist() == [0, 3]
    assert back.units == {"temperature": "K"}
    assert torch.equal(back.periodic_pairs, rich_mesh.periodic_pairs)
    parts.remove()
    assert not (tmp_path / "parts").exists()


def test_other_parameters_are_named(tmp_path):
    MeshParts(tmp_path, {"seed": 0, "size": 2})
    with pytest.raises(
        StoreError, match=r"other parameters: new \(there 'absent', here 1\), seed \(there 0, here 5\); re"
    ):
        MeshParts(tmp_path, {"seed": 5, "size": 2, "new": 1})


def test_damaged_parts_count_as_missing(tmp_path, rich_mesh):
    parts = MeshParts(tmp_path, {})
    for i in range(3):
        parts.write(i, rich_mesh)
    whole = (tmp_path / "000000.npz").read_bytes()
    (tmp_path / "000000.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[200] ^= 255
    (tmp_path / "000001.npz").write_bytes(flipped)
    assert parts.missing(4) == [0, 1, 3]
    with pytest.raises(StoreError, match=r"000000\.npz is damaged .* generate part 0 again"):
        parts.read(0)
    with pytest.raises(StoreError, match=r"000003\.npz does not exist"):
        parts.read(3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_writer_leaves_no_part(tmp_path, rich_mesh, monkeypatch):
    """A process killed in the middle of a write leaves a temporary file, which the next start removes."""
    parts = MeshParts(tmp_path, {})
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        parts.write(0, rich_mesh)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert parts.missing(1) == [0]
    assert list(tmp_path.glob(".*.tmp"))
    again = MeshParts(tmp_path, {})
    assert not list(tmp_path.glob(".*.tmp"))
    again.write(0, rich_mesh)
    assert again.missing(1) == []


def test_parts_without_a_manifest(tmp_path):
    (tmp_path / "000000.npz").write_text("")
    with pytest.raises(StoreError, match=r"holds meshes but no manifest\.json"):
        MeshParts(tmp_path, {})
