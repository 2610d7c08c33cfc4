"""Exodus files, written here by hand: meshio's writer knows no side sets."""

from contextlib import suppress

import h5py
import numpy as np
import pytest
import pyvista
from mesh.damage import damaged
from mesh.meshes import grid
from scipy.io import netcdf_file

from flare_connect.errors import MeshError, MeshReadError
from flare_connect.mesh import load_mesh
from flare_connect.mesh.files.exodus import SIDES
from flare_connect.mesh.files.failed import FailedError


def variables(mesh, element, steps=(0.0, 0.5)):
    """What an Exodus file of one block holds: name → dimensions, values."""
    nodes = next(iter(mesh.cells.values())).numpy()
    x = np.pad(mesh.pos.numpy(), ((0, 0), (0, 3 - mesh.dim)))
    n, m, t = len(x), len(nodes), len(steps)
    temperature = np.stack([x[:, 0] + time for time in steps])
    out = {f"coord{axis}": (("num_nodes",), x[:, i]) for i, axis in enumerate("xyz")}
    out |= {
        "time_whole": (("time_step",), np.array(steps)),
        "eb_prop1": (("num_el_blk",), np.array([7], np.int32)),
        "connect1": (("num_el_in_blk1", "num_nod_per_el1"), (nodes + 1).astype(np.int32)),
        "ns_prop1": (("num_node_sets",), np.array([3, 4], np.int32)),
        "node_ns1": (("num_nod_ns1",), np.flatnonzero(x[:, 0] == 0).astype(np.int32) + 1),
        "node_ns2": (("num_nod_ns2",), np.array([1], np.int32)),
        "ns_names": (("num_node_sets", "len_name"), chars(["left", ""])),
        "ss_prop1": (("num_side_sets",), np.array([9], np.int32)),
        "elem_ss1": (("num_side_ss1",), np.array([1, 1], np.int32)),
        "side_ss1": (("num_side_ss1",), np.array([1, 2], np.int32)),
        "ss_names": (("num_side_sets", "len_name"), chars(["load"])),
        "name_nod_var": (("num_nod_var", "len_name"), chars(["T", "ux", "uy", "uz"])),
        "name_elem_var": (("num_elem_var", "len_name"), chars(["stress"])),
        "vals_elem_var1eb1": (("time_step", "num_el_in_blk1"), np.arange(t * m, dtype=float).reshape(t, m)),
        "name_glo_var": (("num_glo_var", "len_name"), chars(["load_factor"])),
        "vals_glo_var": (("time_step", "num_glo_var"), np.arange(1.0, t + 1)[:, None]),
        "vals_nod_var1": (("time_step", "num_nodes"), temperature),
    }
    out |= {f"vals_nod_var{i + 2}": (("time_step", "num_nodes"), np.full((t, n), i + 1.0)) for i in range(3)}
    return out, element


def chars(names):
    return np.array([list(name.ljust(33, "\0")) for name in names], dtype="S1")


def write_netcdf(path, content):
    arrays, element = content
    with netcdf_file(path, "w", version=2) as file:
        # what VTK asks for before it reads
        file.title, file.version, file.api_version = b"x", np.float32(5.1), np.float32(5.1)
        file.floating_point_word_size, file.file_size = np.int32(8), np.int32(1)
        for dim, size in {"num_dim": 3, "num_elem": len(arrays["connect1"][1]), "len_string": 33}.items():
            file.createDimension(dim, size)
        for name, (dims, values) in arrays.items():
            for dim, size in zip(dims, values.shape, strict=True):
                if dim not in file.dimensions:
                    file.createDimension(dim, size)
            file.createVariable(name, "c" if values.dtype.kind == "S" else values.dtype, dims)[:] = values
        file.variables["connect1"].elem_type = element.encode()


def write_hdf5(path, content):
    arrays, element = content
    with h5py.File(path, "w") as file:
        for name, (_, values) in arrays.items():
            file[name] = values
        file["connect1"].attrs["elem_type"] = np.bytes_(element)


@pytest.mark.parametrize("write", [write_netcdf, write_hdf5])
def test_fields_sets_and_times(write, tmp_path):
    mesh = grid("hexahedron", (2, 1, 1))
    path = tmp_path / "x.e"
    write(path, variables(mesh, "HEX8"))
    back = load_mesh(path)
    assert back.pos.tolist() == mesh.pos.tolist()
    assert back.cells["hexahedron"].tolist() == mesh.cells["hexahedron"].tolist()
    assert back.time_steps == [0.0, 0.5]
    assert back.point_data["T"].tolist() == (mesh.pos[:, 0] + 0.5).tolist()
    assert load_mesh(path, step=0).point_data["T"].tolist() == mesh.pos[:, 0].tolist()
    assert back.point_data["u"].tolist() == [[1, 2, 3]] * mesh.num_nodes
    assert back.cell_data["stress"]["hexahedron"].tolist() == [2, 3]
    assert back.global_data["load_factor"].tolist() == [2]
    assert list(back.sets) == ["block_7", "left", "nodeset_4", "load"]
    assert (back.sets["left"].entity, back.sets["load"].entity) == ("node", "facet")
    assert (back.pos[back.set_nodes("left"), 0] == 0).all()
    corners = mesh.cells["hexahedron"][0]
    assert [set(f) for f in back.sets["load"].ids.tolist()] == [
        {int(corners[i]) for i in SIDES["hexahedron"][side]} for side in (0, 1)
    ]
    with pytest.raises(MeshReadError, match="there is no step 2; the file has 2"):
        load_mesh(path, step=2)


@pytest.mark.parametrize("kind", ["triangle6", "quad9", "tetra10", "hexahedron20", "hexahedron27", "wedge15", "wedge"])
def test_node_order_is_that_of_vtk_s_reader(kind, tmp_path):
    """VTK's Exodus reader knows the orders too; it is used here and nowhere else."""
    solid = kind.startswith(("tetra", "hexa", "wedge"))
    mesh = grid(kind, (1, 1, 1) if solid else (1, 1))
    names = {"tri": "TRI6", "qua": "QUAD9", "tet": "TETRA10", "wed": f"WEDGE{mesh.cells[kind].shape[1]}"}
    element = names.get(kind[:3], f"HEX{kind[-2:]}")
    shuffle = to_exodus(kind)
    there = mesh.clone()
    there.cells = {kind: mesh.cells[kind][:, shuffle]}
    write_netcdf(tmp_path / "x.e", variables(there, element))
    mine = load_mesh(tmp_path / "x.e")
    assert mine.cells[kind].tolist() == mesh.cells[kind].tolist()
    theirs = pyvista.read(tmp_path / "x.e")["Element Blocks"].combine()
    found = np.asarray(theirs.points)[theirs.cells_dict[next(iter(theirs.cells_dict))]]
    want = np.pad(mesh.pos.numpy(), ((0, 0), (0, 3 - mesh.dim)))[mesh.cells[kind].numpy()]
    if kind == "wedge":  # VTK's one exception, see cells.py
        found = np.sort(found, axis=1)
        want = np.sort(want, axis=1)
    np.testing.assert_allclose(found, want)


def to_exodus(kind):
    from flare_connect.mesh.files.exodus import _ORDER

    order = _ORDER.get(kind)
    if order is None:
        return slice(None)
    return np.argsort(order)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"connect1": (("a", "b"), np.full((2, 8), 99, np.int32))}, "refers to node 98"),
        ({"connect1": (("a", "b"), np.ones((2, 7), np.int32))}, "elements 'HEX8' of 7 nodes are not known"),
        ({"side_ss1": (("num_side_ss1",), np.array([1, 8], np.int32))}, "names side 8 of a hexahedron"),
    ],
)
def test_wrong_content(change, message, tmp_path):
    content, element = variables(grid("hexahedron", (2, 1, 1)), "HEX8")
    write_hdf5(tmp_path / "x.exo", (content | change, element))
    with pytest.raises(MeshReadError, match=message):
        load_mesh(tmp_path / "x.exo")


def test_damage_is_found(tmp_path):
    from flare_connect.mesh.files.exodus import read_exodus

    for name, write in (("a.e", write_netcdf), ("b.e", write_hdf5)):
        write(tmp_path / name, variables(grid("tetra", (1, 1, 1)), "TETRA4"))
        data = (tmp_path / name).read_bytes()
        for seed in range(40):
            (tmp_path / "x.e").write_bytes(damaged(data, seed))
            with suppress(FailedError, MeshError, OSError, LookupError, ValueError, TypeError, RuntimeError):
                read_exodus(tmp_path / "x.e", allow_nonfinite=True).validate(allow_nonfinite=True)
