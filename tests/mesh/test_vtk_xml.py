"""VTK's own writer in all of its ways, read without VTK."""

from contextlib import suppress

import numpy as np
import pytest
import pyvista
from mesh.damage import damaged
from mesh.formats import solid, surface
from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter, vtkXMLUnstructuredGridWriter

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, load_mesh
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.vtk.xml_files import read_xml

WAYS = [
    (mode, packed, order, words)
    for mode in ("Ascii", "Binary", "Appended", "Raw")
    for packed in ("None", "ZLib", "LZMA")
    for order in ("LittleEndian", "BigEndian")
    for words in ("32", "64")
    if mode != "Ascii" or (packed == "None" and words == "32")
]


def written(path, data, mode="Raw", packed="ZLib", order="LittleEndian", words="64"):
    writer = vtkXMLPolyDataWriter() if isinstance(data, pyvista.PolyData) else vtkXMLUnstructuredGridWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(data)
    getattr(writer, f"SetDataModeTo{mode if mode != 'Raw' else 'Appended'}")()
    writer.SetEncodeAppendedData(mode != "Raw")
    getattr(writer, f"SetCompressorTypeTo{packed}")()
    getattr(writer, f"SetByteOrderTo{order}")()
    getattr(writer, f"SetHeaderTypeToUInt{words}")()
    writer.SetBlockSize(256)  # several blocks, the last one shorter
    writer.Write()
    return path


@pytest.mark.parametrize(("mode", "packed", "order", "words"), WAYS)
def test_every_way_of_writing(mode, packed, order, words, tmp_path):
    for name, mesh in (("x.vtu", solid()), ("x.vtp", surface())):
        data = mesh.to_pyvista() if name == "x.vtu" else mesh.to_pyvista().extract_surface(algorithm=None)
        theirs, ours = Mesh.from_pyvista(data), read_xml(written(tmp_path / name, data, mode, packed, order, words))
        assert {k: v.tolist() for k, v in ours.cells.items()} == {k: v.tolist() for k, v in theirs.cells.items()}
        np.testing.assert_allclose(ours.pos, theirs.pos, rtol=0 if mode != "Ascii" else 1e-10)
        for field, values in theirs.point_data.items():
            np.testing.assert_allclose(ours.point_data[field], values, rtol=1e-10)
        assert list(ours.sets) == list(theirs.sets)


def test_what_is_left_to_vtk(tmp_path):
    with pytest.raises(FailedError, match="is packed by vtkLZ4DataCompressor"):
        read_xml(written(tmp_path / "x.vtu", solid().to_pyvista(), packed="LZ4"))
    assert load_mesh(tmp_path / "x.vtu").num_cells == 12
    faces = [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
    stream = [6, *(word for face in faces for word in (len(face), *face))]
    corners = pyvista.examples.cells.Hexahedron().points
    grid = pyvista.UnstructuredGrid([len(stream), *stream], [pyvista.CellType.POLYHEDRON], corners)
    with pytest.raises(FailedError, match="has polyhedra"):
        read_xml(written(tmp_path / "y.vtu", grid))
    assert load_mesh(tmp_path / "y.vtu").cells["hexahedron"].shape == (1, 8)


def test_a_claim_of_more_than_can_be_unpacked(tmp_path):
    path = written(tmp_path / "x.vtu", solid().to_pyvista())
    data = bytearray(path.read_bytes())
    place = data.index(b'encoding="raw"')
    header = data.index(b"_", place) + 1
    data[header : header + 24] = np.array([10**6, 2**30, 0], dtype="<u8").tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(FailedError, match="claims"):
        read_xml(path)


def test_damage_is_found(tmp_path):
    for way in (("Raw", "ZLib"), ("Binary", "None"), ("Ascii", "None"), ("Appended", "ZLib")):
        data = written(tmp_path / "x.vtu", solid().to_pyvista(), *way).read_bytes()
        for seed in range(60):
            (tmp_path / "x.vtu").write_bytes(damaged(data, seed))
            with suppress(FailedError, MeshError):  # and nothing else
                read_xml(tmp_path / "x.vtu").validate()
