import gzip
import shutil
import time
import warnings

import numpy as np
import pytest
import pyvista
import torch
from mesh.damage import damaged
from mesh.meshes import grid
from mesh.test_polyhedra import HEXAGON, HEXAGON_AREA, faces_of, prism

from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.openfoam.read import read_openfoam

LIST_OF = {1: "scalar", 3: "vector", 6: "symmTensor", 9: "tensor"}
PRESSURE = "[1 -1 -2 0 0 0 0]"


class Writer:
    """Files as OpenFOAM writes them."""

    def __init__(self, binary=False, label=32, scalar=64, packed=False):
        self.binary, self.packed = binary, packed
        self.label, self.scalar = f"<i{label // 8}", f"<f{scalar // 8}"
        self.arch = f'"LSB;label={label};scalar={scalar}"'

    def file(self, path, kind, body):
        entries = {"version": "2.0", "format": "binary" if self.binary else "ascii", "arch": self.arch, "class": kind}
        entries |= {"location": '"x"', "object": path.name}
        head = "/*--- C++ ---*\\\n  =====  ; { \n\\*---*/\nFoamFile\n{\n"
        head += "".join(f"    {key:<11} {value};\n" for key, value in entries.items()) + "}\n// * * //\n\n"
        data = head.encode() + body + b"\n\n// **** //\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)

    def numbers(self, values, dtype=None):
        values = np.asarray(values)
        if self.binary:
            raw = values.astype(dtype or (self.label if values.dtype.kind == "i" else self.scalar)).tobytes()
            return b"%d\n(" % len(values) + raw + b")" if len(values) else b"0\n"
        rows = [" ".join(map(repr, np.atleast_1d(row).tolist())) for row in values]
        rows = [f"({row})" for row in rows] if values.ndim == 2 else rows
        short = len(rows) < 11 and values.ndim == 1
        return (f"{len(rows)}({' '.join(rows)})" if short else f"{len(rows)}\n(\n" + "\n".join(rows) + "\n)\n").encode()

    def faces(self, path, faces):
        if self.binary:
            offset = np.cumsum([0, *(len(face) for face in faces)])
            self.file(path, "faceCompactList", self.numbers(offset) + b"\n" + self.numbers(np.concatenate(faces)))
        else:
            rows = [f"{len(face)}({' '.join(map(str, face))})" for face in faces]
            self.file(path, "faceList", f"{len(faces)}\n(\n{chr(10).join(rows)}\n)\n".encode())

    def field(self, path, kind, values, dimensions="[0 0 0 0 0 0 0]"):
        values = np.asarray(values, dtype=float)
        body = (
            b"dimensions "
            + dimensions.encode()
            + b";\n\ninternalField nonuniform List<%s> \n"
            % (LIST_OF[values.shape[1] if values.ndim == 2 else 1].encode())
        )
        patches = (
            b";\n\nboundaryField\n{\n    low\n    {\n        type zeroGradient;\n        value nonuniform List<scalar> "
        )
        self.file(path, kind, body + self.numbers(values) + patches + self.numbers(np.arange(3.0)) + b";\n    }\n}\n")

    def mesh(self, folder, points, cells, patch_of=lambda centre: "walls"):
        faces, owner, neighbour = sorted_faces(cells)
        inner, names = len(neighbour), [patch_of(points[face].mean(0)) for face in faces[len(neighbour) :]]
        order = sorted(range(len(names)), key=lambda i: names[i])
        faces = faces[:inner] + [faces[inner + i] for i in order]
        owner = owner[:inner] + [owner[inner + i] for i in order]
        names = [names[i] for i in order]
        self.file(folder / "points", "vectorField", self.numbers(np.asarray(points, dtype=float)))
        self.faces(folder / "faces", faces)
        self.file(folder / "owner", "labelList", self.numbers(np.array(owner, dtype=int)))
        self.file(folder / "neighbour", "labelList", self.numbers(np.array(neighbour, dtype=int)))
        entries = [
            f"    {name}\n    {{\n        type patch;\n        inGroups 1(all);\n        nFaces {names.count(name)};\n"
            f"        startFace {inner + names.index(name)};\n    }}\n"
            for name in dict.fromkeys(names)
        ]
        entries.append(f"    none {{ type empty; nFaces 0; startFace {len(faces)}; }}\n")
        body = f"{len(entries)}\n(\n{''.join(entries)})\n"
        self.file(folder / "boundary", "polyBoundaryMesh", body.encode())
        return faces, owner


def sorted_faces(cells):
    seen = {}
    for number, cell in enumerate(cells):
        for face in cell:
            seen.setdefault(frozenset(np.asarray(face).tolist()), []).append((number, np.asarray(face)))
    inner = sorted((sides for sides in seen.values() if len(sides) == 2), key=lambda s: (s[0][0], s[1][0]))
    outer = [sides for sides in seen.values() if len(sides) == 1]
    return (
        [sides[0][1] for sides in inner + outer],
        [sides[0][0] for sides in inner + outer],
        [sides[1][0] for sides in inner],
    )


def block(num=2):
    mesh = grid("hexahedron", (num, num, num))
    nodes = mesh.cells["hexahedron"].numpy()
    return mesh.pos.numpy(), [[cell[face] for face in faces_of("hexahedron")] for cell in nodes]


def side(centre):
    return "low" if centre[2] == 0 else "walls"


def write_block(folder, writer):
    """A cube of eight hexahedra with fields at two times."""
    points, cells = block()
    faces, owner = writer.mesh(folder / "constant/polyMesh", points, cells, side)
    rng = np.random.default_rng(0)
    for time_name in ("0", "0.5"):
        now = folder / time_name
        writer.field(now / "p", "volScalarField", rng.normal(size=8), PRESSURE)
        writer.field(now / "U", "volVectorField", rng.normal(size=(8, 3)), "[0 1 -1 0 0 0 0]")
        writer.field(now / "R", "volSymmTensorField", rng.normal(size=(8, 6)))
        writer.field(now / "gradU", "volTensorField", rng.normal(size=(8, 9)))
        writer.field(now / "D", "pointVectorField", rng.normal(size=(27, 3)), "[0 1 0 0 0 0 0]")
        writer.file(now / "k", "volScalarField", b"dimensions [0 2 -2 0 0];\ninternalField uniform 2.5;\n")
        writer.file(now / "V", "volVectorField", b"dimensions [];\ninternalField uniform (1 2 3);\n")
        writer.file(now / "phi", "surfaceScalarField", b"internalField uniform 0;\n")
        (now / "uniform").mkdir()
    for name, kind, ids in (("cell", "cell", [1, 3]), ("face", "face", [0, 1]), ("point", "point", [5, 2])):
        flags = b"flipMap List<bool> 2(\x01\x00);\n" if writer.binary else b"flipMap List<bool> 2(1 0);\n"
        body = f"1\n(\n{name}Part\n{{\n    type {kind}Zone;\n    {kind}Labels List<label> \n".encode()
        body += writer.numbers(np.array(ids)) + b";\n" + (flags if kind == "face" else b"") + b"}\n)\n"
        writer.file(folder / f"constant/polyMesh/{name}Zones", "regIOobject", body)
    (folder / "case.foam").touch()
    return points, faces, owner


@pytest.mark.parametrize(
    "writer",
    [
        Writer(),
        Writer(packed=True),
        Writer(binary=True),
        Writer(binary=True, label=64, scalar=32),
        Writer(binary=True, packed=True),
    ],
    ids=["ascii", "gz", "binary", "binary64_32", "binary_gz"],
)
def test_block_of_hexahedra(tmp_path, writer):
    points, faces, owner = write_block(tmp_path, writer)
    mesh = read_openfoam(tmp_path / "case.foam")
    np.testing.assert_array_equal(mesh.pos, points)
    assert {kind: len(nodes) for kind, nodes in mesh.cells.items()} == {"hexahedron": 8}
    assert (mesh.total_measure, mesh.num_inverted_cells, mesh.time_steps) == (8.0, 0, [0.0, 0.5])
    assert mesh.units == {"p": "kg m^-1 s^-2", "U": "m s^-1", "D": "m", "k": "m^2 s^-2"}
    assert list(mesh.sets) == ["low", "walls", "cellPart", "facePart", "pointPart"]
    assert mesh.sets["low"].entity == "facet"
    assert mesh.sets["low"].ids.shape == (4, 4)
    assert mesh.set_nodes("low").tolist() == np.flatnonzero(points[:, 2] == 0).tolist()
    assert mesh.sets["facePart"].ids.tolist() == [faces[0].tolist(), faces[1].tolist()]
    assert mesh.set_nodes("pointPart").tolist() == [2, 5]
    # the cell of each face that OpenFOAM says owns it has all of its corners
    cells = mesh.cells["hexahedron"].numpy()
    assert all(np.isin(face, cells[number]).all() for face, number in zip(faces, owner, strict=True))
    assert sorted(mesh.set_nodes("cellPart").tolist()) == sorted(set(cells[[1, 3]].reshape(-1).tolist()))
    assert set(mesh.cell_data) == {"p", "U", "R", "gradU", "k", "V"}
    assert mesh.cell_data["k"]["hexahedron"].tolist() == [2.5] * 8
    assert mesh.cell_data["V"]["hexahedron"].tolist() == [[1.0, 2.0, 3.0]] * 8
    first = read_openfoam(tmp_path, 0)
    rng = np.random.default_rng(0)
    close = {"rtol": 1e-6} if writer.scalar == "<f4" else {"rtol": 0}
    np.testing.assert_allclose(first.cell_data["p"]["hexahedron"], rng.normal(size=8), **close)
    np.testing.assert_allclose(first.cell_data["U"]["hexahedron"], rng.normal(size=(8, 3)), **close)
    np.testing.assert_allclose(
        first.cell_data["R"]["hexahedron"], rng.normal(size=(8, 6))[:, [0, 3, 5, 1, 4, 2]], **close
    )
    np.testing.assert_allclose(first.cell_data["gradU"]["hexahedron"], rng.normal(size=(8, 9)), **close)
    np.testing.assert_allclose(first.point_data["D"], rng.normal(size=(27, 3)), **close)
    with pytest.raises(FailedError, match="there is no step 2; the case has 2"):
        read_openfoam(tmp_path, 2)


@pytest.mark.parametrize("binary", [False, True])
def test_agrees_with_vtk(tmp_path, binary):
    write_block(tmp_path, Writer(binary))
    Writer().file(tmp_path / "system/controlDict", "dictionary", b"writeFormat ascii;\n")
    reader = pyvista.POpenFOAMReader(tmp_path / "case.foam")
    reader.set_active_time_value(0.5)
    reader.cell_to_point_creation = False
    theirs = reader.read()["internalMesh"]
    mesh = read_openfoam(tmp_path)
    assert theirs.n_cells == mesh.num_cells
    np.testing.assert_allclose(theirs.points, mesh.pos)
    centres = mesh.pos[mesh.cells["hexahedron"]].mean(1)
    np.testing.assert_allclose(theirs.cell_centers().points, centres, atol=1e-6)
    for name in ("p", "U", "R", "gradU"):
        np.testing.assert_allclose(theirs.cell_data[name], mesh.cell_data[name]["hexahedron"], rtol=1e-6)
    np.testing.assert_allclose(theirs.point_data["D"], mesh.point_data["D"], rtol=1e-6)


@pytest.mark.parametrize("writer", [Writer(), Writer(binary=True)], ids=["ascii", "binary"])
def test_polyhedra(tmp_path, writer):
    """Two hexagonal prisms, a hexahedron beside them, and all patches in one, of mixed faces."""
    points, cells = prism(HEXAGON, layers=2)
    outer = points[[0, 1, 7, 6]] + [np.cos(np.pi / 6), np.sin(np.pi / 6), 0]
    beside = [[1, 0, 6, 7], [18, 19, 20, 21], [0, 1, 19, 18], [7, 6, 21, 20], [6, 0, 18, 21], [1, 7, 20, 19]]
    points = np.concatenate([points, outer])
    cells = [*cells, [np.array(face) for face in beside]]
    writer.mesh(
        tmp_path / "constant/polyMesh", points, cells, lambda c: "caps" if c[2] in (0, 2) and c[0] < 0.5 else "all"
    )
    writer.field(tmp_path / "3/T", "volScalarField", [1.0, 2.0, 3.0], "[0 0 0 1 0 0 0]")
    writer.field(tmp_path / "3/z", "pointScalarField", points[:, 2])
    with pytest.warns(UserWarning, match="2 polyhedra were cut"):
        mesh = read_openfoam(tmp_path)
    assert {kind: len(nodes) for kind, nodes in mesh.cells.items()} == {"tetra": 16, "pyramid": 12, "hexahedron": 1}
    assert mesh.total_measure == pytest.approx(2 * HEXAGON_AREA + 1)
    assert mesh.num_inverted_cells == 0
    torch.testing.assert_close(mesh.point_data["z"], mesh.pos[:, 2])
    assert mesh.cell_data["T"]["hexahedron"].tolist() == [3.0]
    assert sorted(mesh.cell_data["T"]["tetra"].tolist()) == [1.0] * 8 + [2.0] * 8
    assert mesh.units == {"T": "K"}
    caps = {frozenset(row) for row in mesh.sets["caps"].ids.tolist()}
    assert caps == {frozenset(row) for row in mesh.boundary_facets["triangle"].tolist()}
    assert mesh.sets["all"].entity == "facet"


def test_moving_mesh_and_unreadable_fields(tmp_path):
    writer = Writer()
    points, _, _ = write_block(tmp_path, writer)
    writer.file(tmp_path / "0.5/polyMesh/points", "vectorField", writer.numbers(points * 2))
    writer.field(tmp_path / "0.5/short", "volScalarField", [1.0, 2.0])
    writer.file(tmp_path / "0.5/macro", "volScalarField", b"internalField uniform $value;\n")
    writer.file(tmp_path / "0.5/include", "volScalarField", b'#include "values"\ninternalField uniform 1;\n')
    assert read_openfoam(tmp_path, 0).total_measure == 8
    with pytest.warns(UserWarning, match="left out") as caught:
        assert read_openfoam(tmp_path).total_measure == 64
    said = sorted(str(warning.message) for warning in caught)
    assert [text[: text.index(" left")] for text in said] == ["field 'include'", "field 'macro'", "field 'short'"]
    assert "8 values are expected, not 2" in said[2]


def test_what_is_no_case(tmp_path):
    with pytest.raises(FailedError, match=r"has no constant/polyMesh/faces"):
        read_openfoam(tmp_path)
    (tmp_path / "processor0").mkdir()
    with pytest.raises(FailedError, match="run reconstructPar"):
        read_openfoam(tmp_path)
    write_block(tmp_path, Writer())
    assert read_openfoam(tmp_path).num_cells == 8
    (tmp_path / "constant/polyMesh/neighbour").unlink()
    with pytest.raises(FailedError, match="has no polyMesh/neighbour"):
        read_openfoam(tmp_path)


@pytest.mark.parametrize("writer", [Writer(), Writer(binary=True), Writer(packed=True)], ids=["ascii", "binary", "gz"])
def test_damaged_files(tmp_path, capfd, writer):
    write_block(tmp_path / "good", writer)
    files = sorted(p.relative_to(tmp_path / "good") for p in (tmp_path / "good").rglob("*") if p.is_file())
    files = [file for file in files if file.suffix != ".foam"]
    for seed in range(80):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        file = tmp_path / "bad" / files[seed // 10 * 7 % len(files)]
        file.write_bytes(damaged(file.read_bytes(), seed))
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                mesh = read_openfoam(tmp_path / "bad")
                assert mesh.num_cells
            except (FailedError, ValueError):
                pass
        assert time.perf_counter() - start < 2
    assert capfd.readouterr() == ("", "")


def test_huge_counts_allocate_nothing(tmp_path):
    write_block(tmp_path, Writer(binary=True))
    path = tmp_path / "constant/polyMesh/points"
    path.write_bytes(path.read_bytes().replace(b"27\n(", b"9000000000000\n("))
    with pytest.raises(FailedError, match="the file ends before"):
        read_openfoam(tmp_path)
    path.write_bytes(gzip.compress(b"\0" * 2**27))
    with pytest.raises(FailedError, match="which are too many for its size"):
        read_openfoam(tmp_path)
