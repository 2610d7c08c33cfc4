import re

import pytest
from mesh.formats import PAGE, SAMPLES, readers, row
from mesh.meshes import grid

from flare_connect.errors import MeshReadError
from flare_connect.mesh import EXTENSIONS, load_mesh


@pytest.mark.parametrize("title", SAMPLES)
def test_what_the_page_says_of_each_format(title):
    """Written anew by `python tests/mesh/formats.py`."""
    assert row(title, SAMPLES[title]) in PAGE.read_text()


def test_the_page_lists_all_extensions_and_no_other_format():
    text = PAGE.read_text()
    assert readers() in text
    assert len(re.findall(r"^\| .* \| (exact|to 32 bits|no) \|", text, flags=re.MULTILINE)) == len(SAMPLES)
    assert set(re.findall(r"`(\.\w+)`", " ".join(SAMPLES))) <= set(EXTENSIONS)


def test_the_real_bracket(shared_data):
    mesh = load_mesh(shared_data / "bracket_fea.vtu")
    assert (mesh.num_nodes, mesh.cells["tetra10"].shape) == (102578, (56786, 10))
    assert list(mesh.cell_data) == ["Equivalent (von-Mises) Stress (psi)"]


def test_duplicates_are_merged_on_request(tmp_path):
    mesh = grid("triangle", (2, 1))
    loose = type(mesh).from_arrays(mesh.pos[mesh.cells["triangle"].reshape(-1)], {"triangle": [[0, 1, 2], [3, 4, 5]]})
    loose.save(tmp_path / "x.vtu")
    assert load_mesh(tmp_path / "x.vtu").num_nodes == 12
    assert load_mesh(tmp_path / "x.vtu", merge_duplicates=True).num_nodes == 6


def test_a_folder_that_is_no_case(tmp_path):
    with pytest.raises(MeshReadError, match=r"is a folder, and no OpenFOAM case \(constant/polyMesh\)"):
        load_mesh(tmp_path)
