"""Mesh files become a data set; what does not fit is told with the name of its file."""

import re

import pytest
import torch
from fixtures_meshes import plate

from flare_connect.errors import StoreError
from flare_connect.mesh import Mesh, MeshStore, prepare_meshes


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "parts"
    made.mkdir()
    for i in range(4):
        mesh = plate(4 + i, hole=False)
        with_stress(mesh.pos, mesh.cells, i).save(made / f"part{i}.vtu")
    return made


def with_stress(pos, cells, scale):
    return Mesh.from_arrays(pos, cells, point_data={"stress": scale + pos[:, 0]})


def test_files_are_samples_in_the_order_of_their_names(folder, tmp_path):
    out = prepare_meshes(folder, tmp_path / "parts.h5", fields=["stress"], progress=False)
    with MeshStore(out) as store:
        assert [float(store[i].point_data["stress"].min()) for i in range(4)] == [0, 1, 2, 3]
        assert sorted(i for ids in store.splits.values() for i in ids.tolist()) == [0, 1, 2, 3]


def test_a_file_unlike_the_others_is_named(folder, tmp_path):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with_stress(corners, {"tetra": torch.tensor([[0, 1, 2, 3]])}, 0).save(folder / "part2.vtu")
    told = f"{folder / 'part2.vtu'}: sample 2 has 3 coordinates, sample 0 has 2"
    with pytest.raises(StoreError, match=re.escape(told)) as error:
        prepare_meshes(folder, tmp_path / "parts.h5", fields=["stress"], progress=False)
    assert str(error.value).endswith("sample 0 is part0.vtu")
    assert not (tmp_path / "parts.h5").exists()
