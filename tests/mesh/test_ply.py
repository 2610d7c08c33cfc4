from contextlib import suppress

import meshio
import numpy as np
import pytest
import pyvista
from mesh.damage import damaged
from mesh.meshes import grid

from flare_connect.errors import MeshError, MeshReadError
from flare_connect.mesh import load_mesh
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.ply import read_ply

MIXED = """ply
format ascii 1.0
comment three faces of different sizes
element vertex 7
property float x
property float y
property float z
property float nx
property float ny
property float nz
property uchar red
element face 3
property uchar flags
property list uchar int vertex_indices
element edge 0
property int vertex1
end_header
0 0 0 0 0 1 10
1 0 0 0 0 1 20
1 1 0 0 0 1 30
0 1 0 0 0 1 40
2 0 0 0 0 1 50
2.5 0.5 0 0 0 1 60
2 1 0 0 0 1 70
5 3 0 1 2
6 3 0 2 3
7 5 1 4 5 6 2
"""


@pytest.mark.parametrize("binary", [True, False])
def test_what_pyvista_and_meshio_write(binary, tmp_path):
    sphere = pyvista.Sphere(theta_resolution=8, phi_resolution=6)
    sphere.save(tmp_path / "a.ply", binary=binary)
    mesh = load_mesh(tmp_path / "a.ply")
    np.testing.assert_allclose(mesh.pos, sphere.points, rtol=1e-5, atol=1e-7)
    assert mesh.cells["triangle"].tolist() == sphere.faces.reshape(-1, 4)[:, 1:].tolist()
    theirs = grid("quad", (2, 1))
    meshio.Mesh(np.pad(theirs.pos, ((0, 0), (0, 1))), [("quad", theirs.cells["quad"])]).write(
        tmp_path / "b.ply", binary=binary
    )
    assert load_mesh(tmp_path / "b.ply").cells["quad"].tolist() == theirs.cells["quad"].tolist()


def binary_of(text, order):
    head, _, body = text.partition("end_header\n")
    rows = [line.split() for line in body.splitlines()]
    out = head.replace("ascii", f"binary_{order}_endian").encode() + b"end_header\n"
    mark = {"little": "<", "big": ">"}[order]
    for row in rows[:7]:
        out += np.array(row[:6], dtype=mark + "f4").tobytes() + bytes([int(row[6])])
    for row in rows[7:]:
        out += bytes([int(row[0]), int(row[1])]) + np.array(row[2:], dtype=mark + "i4").tobytes()
    return out


@pytest.mark.parametrize("order", ["text", "little", "big"])
def test_faces_of_all_sizes_and_their_fields(order, tmp_path):
    (tmp_path / "x.ply").write_bytes(MIXED.encode() if order == "text" else binary_of(MIXED, order))
    mesh = load_mesh(tmp_path / "x.ply")
    assert mesh.dim == 2
    assert mesh.total_measure == pytest.approx(2.25)
    assert mesh.point_data["red"].tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert mesh.point_data["normals"].tolist() == [[0, 0, 1]] * 7
    assert mesh.cell_data["flags"]["triangle"].tolist() == [5, 6, 7, 7, 7]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("vertex 7", "vertex 99999999", "is cut short: it announces 99999999 of element 'vertex'"),
        ("face 3", "face 9", "is cut short: it announces 9 of element 'face'"),
        ("face 3", "face 0", "holds no cells"),
        ("3 0 2 3", "3 0 2 8", "a face names a point outside 0 to 6"),
        ("property float x", "property blob x", "header is not understood: 'property blob x'"),
        ("ascii", "morse", "header is not understood: 'format morse 1.0'"),
    ],
)
def test_wrong_content(old, new, message, tmp_path):
    (tmp_path / "x.ply").write_text(MIXED.replace(old, new))
    with pytest.raises(MeshReadError, match=message):
        load_mesh(tmp_path / "x.ply")


def test_damage_is_found(tmp_path):
    for data in (MIXED.encode(), binary_of(MIXED, "little")):
        for seed in range(40):
            (tmp_path / "x.ply").write_bytes(damaged(data, seed))
            with suppress(FailedError, MeshError, LookupError, ValueError, TypeError, ArithmeticError):
                read_ply(tmp_path / "x.ply").validate()
