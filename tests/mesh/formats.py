"""One small file of each format, and what of it comes back: the tables in docs/formats.md.

python tests/mesh/formats.py      # writes the tables anew
"""

import sys
import tempfile
import warnings
from pathlib import Path

import meshio
import numpy as np
import pyvista
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from mesh.meshes import grid

from flare_connect.mesh import Mesh, NamedSet, load_mesh
from flare_connect.mesh.files.exodus import SIDES
from flare_connect.mesh.files.load import FORMATS, READERS
from flare_connect.mesh.files.quiet import quiet

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
FOAM_HEADER = "FoamFile{{version 2.0; format ascii; class {}; object {};}}\n"


def solid():
    """Tetrahedra with fields of all widths and sets of all entities."""
    mesh = grid("tetra", (2, 1, 1))
    x = mesh.pos
    mesh.point_data = {"temperature": x[:, 0] / 3, "displacement": x / 7}
    mesh.cell_data = {"stress": {"tetra": torch.arange(len(mesh.cells["tetra"])) / 9}}
    right = [f for f in mesh.boundary_facets["triangle"].tolist() if (x[f, 0] == 2).all()]
    mesh.sets = {
        "clamped": NamedSet("node", torch.nonzero(x[:, 0] == 0).reshape(-1)),
        "part": NamedSet("cell", torch.tensor([0, 1, 2])),
        "load": NamedSet("facet", torch.tensor(right)),
    }
    return mesh


def surface():
    """Triangles that are no plane, with fields and sets where the format has room for them."""
    mesh = grid("triangle", (2, 2))
    mesh.pos = torch.cat([mesh.pos, (mesh.pos[:, :1] * mesh.pos[:, 1:]) / 4], 1)
    mesh.point_data = {"temperature": mesh.pos[:, 0] / 3}
    mesh.cell_data = {"stress": {"triangle": torch.arange(8) / 9}}
    mesh.sets = {"clamped": NamedSet("node", torch.nonzero(mesh.pos[:, 0] == 0).reshape(-1))}
    return mesh


def image():
    """A block of hexahedra, as a regular grid."""
    data = pyvista.ImageData(dimensions=(3, 2, 2))
    data.point_data["temperature"] = np.arange(12) / 3
    data.cell_data["stress"] = np.arange(2) / 9
    return data


def by_save(name, make):
    """A writer of this library's own."""

    def write(folder):
        mesh = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the format cannot hold is what the table says
            mesh.save(folder / name)
        return folder / name, mesh

    return write


def by_meshio(name, file_format, make, **options):
    """Formats that this library only reads; sets do not go through meshio."""

    def write(folder):
        mesh = make()
        m = mesh.to_meshio()
        m.point_data = {n: v for n, v in m.point_data.items() if not n.startswith("set:")}
        m.cell_data = {n: v for n, v in m.cell_data.items() if not n.startswith("set:")}
        if file_format in ("tetgen", "netgen", "flac3d", "ugrid", "medit", "cgns"):
            m.point_data = {}  # its writer knows no fields
        if not m.point_data or file_format == "h5m":
            m.cell_data = {}
        with quiet():
            m.write(folder / name, file_format=file_format, **options)
        mesh.point_data = {n: mesh.point_data[n] for n in m.point_data}
        mesh.cell_data = {n: mesh.cell_data[n] for n in m.cell_data}
        mesh.sets = {}
        return folder / name, mesh

    return write


def by_pyvista(name, make):
    def write(folder):
        data = make()
        data.save(folder / name)
        return folder / name, Mesh.from_pyvista(data)

    return write


def exodus(folder):
    from mesh.test_exodus import variables, write_netcdf

    mesh = grid("tetra", (1, 1, 1))
    write_netcdf(folder / "x.e", variables(mesh, "TETRA4", steps=(0.0, 1.0)))
    mesh.point_data = {"T": mesh.pos[:, 0] + 1.0, "u": torch.tensor([[1.0, 2, 3]] * 8)}
    mesh.cell_data = {"stress": {"tetra": torch.arange(6.0, 12)}}
    first = mesh.cells["tetra"][0]
    mesh.sets = {
        "left": NamedSet("node", torch.nonzero(mesh.pos[:, 0] == 0).reshape(-1)),
        "load": NamedSet("facet", first[torch.tensor([SIDES["tetra"][0], SIDES["tetra"][1]])]),
    }
    return folder / "x.e", mesh


def blocks(folder):
    mesh = solid()
    mesh.sets = {"part": NamedSet("cell", torch.arange(12))}
    bare = solid()
    bare.sets = {}
    pyvista.MultiBlock({"part": bare.to_pyvista()}).save(folder / "x.vtm")
    return folder / "x.vtm", mesh


def series(folder):
    mesh = solid()
    mesh.save(folder / "x0.vtu")
    mesh.save(folder / "x1.vtu")
    sets = "".join(f'<DataSet timestep="{i}" file="x{i}.vtu"/>' for i in range(2))
    (folder / "x.pvd").write_text(f'<VTKFile type="Collection"><Collection>{sets}</Collection></VTKFile>')
    return folder / "x.pvd", mesh


def pieces(folder):
    mesh = solid()
    mesh.save(folder / "x_0.vtu")
    arrays = "".join(
        f"<P{where}>{''.join(rows)}</P{where}>"
        for where, rows in (
            (
                "PointData",
                [
                    f'<PDataArray type="Float64" Name="{n}" NumberOfComponents="{c}"/>'
                    for n, c in (("temperature", 1), ("displacement", 3))
                ],
            ),
            ("CellData", ['<PDataArray type="Float32" Name="stress"/>']),
            ("Points", ['<PDataArray type="Float64" NumberOfComponents="3"/>']),
        )
    )
    (folder / "x.pvtu").write_text(
        '<VTKFile type="PUnstructuredGrid" version="1.0"><PUnstructuredGrid GhostLevel="0">'
        f'{arrays}<Piece Source="x_0.vtu"/></PUnstructuredGrid></VTKFile>'
    )
    mesh.sets = {}
    return folder / "x.pvtu", mesh


def xdmf_series(folder):
    mesh = solid()
    mesh.sets = {}
    import os

    before = os.getcwd()
    os.chdir(folder)  # meshio names its HDF5 file beside where it is called
    try:
        with meshio.xdmf.TimeSeriesWriter("x.xdmf") as writer:
            writer.write_points_cells(mesh.pos.numpy(), [("tetra", mesh.cells["tetra"].numpy())])
            for time in (0.0, 1.0):
                writer.write_data(
                    time,
                    point_data={n: v.numpy() for n, v in mesh.point_data.items()},
                    cell_data={"stress": [mesh.cell_data["stress"]["tetra"].numpy()]},
                )
    finally:
        os.chdir(before)
    return folder / "x.xdmf", mesh


def openfoam(folder):
    from mesh.test_openfoam import Writer, block, side

    mesh, writer = grid("hexahedron", (2, 2, 2)), Writer()
    points, cells = block()
    writer.mesh(folder / "constant/polyMesh", points, cells, side)
    mesh.point_data = {"D": mesh.pos / 7}
    mesh.cell_data = {"p": {"hexahedron": torch.arange(8).double() / 9}}
    mesh.sets = {
        name: NamedSet("facet", torch.tensor([f for f in facets if low == (mesh.pos[f, 2] == 0).all()]))
        for facets in [mesh.boundary_facets["quad"].tolist()]
        for name, low in (("low", True), ("walls", False))
    }
    for time in ("0", "1"):
        writer.field(folder / time / "p", "volScalarField", mesh.cell_data["p"]["hexahedron"])
        writer.field(folder / time / "D", "pointVectorField", mesh.point_data["D"])
    return folder, mesh


def cdb(folder):
    from mesh.test_cdb import archive, eblock, nblock

    mesh = grid("hexahedron", (2, 1, 1))
    left = torch.nonzero(mesh.pos[:, 0] == 0).reshape(-1)
    mesh.sets = {"CLAMPED": NamedSet("node", left), "PART": NamedSet("cell", torch.tensor([1]))}
    labels = "".join(f"{i + 1:10d}" for i in left.tolist())
    components = f"CMBLOCK,CLAMPED ,NODE,{len(left):8d}\n(8i10)\n{labels}\nCMBLOCK,PART,ELEMENT,1\n(8i10)\n        12\n"
    cells = eblock((mesh.cells["hexahedron"] + 1).tolist())
    return archive(folder, nblock(mesh.pos.tolist()), cells, components), mesh


# title, how the sample is written
SAMPLES = {
    "VTK XML `.vtu`": by_save("x.vtu", solid),
    "VTK legacy `.vtk`": by_save("x.vtk", solid),
    "VTKHDF `.vtkhdf`": by_save("x.vtkhdf", solid),
    "VTK surfaces `.vtp`": by_save("x.vtp", surface),
    "VTK grids `.vti`": by_pyvista("x.vti", image),
    "VTK grids `.vtr`": by_pyvista("x.vtr", lambda: image().cast_to_rectilinear_grid()),
    "VTK grids `.vts`": by_pyvista("x.vts", lambda: image().cast_to_structured_grid()),
    "VTK parallel `.pvtu`": pieces,
    "VTK blocks `.vtm`": blocks,
    "ParaView series `.pvd`": series,
    "XDMF `.xdmf`": by_save("x.xdmf", solid),
    "XDMF series `.xdmf`": xdmf_series,
    "Gmsh 4.1 `.msh`": by_save("x.msh", solid),
    "Gmsh 2.2 `.msh`": by_meshio("x.msh", "gmsh22", solid),
    "Abaqus `.inp`": by_save("x.inp", solid),
    "Nastran `.bdf`": by_save("x.bdf", solid),
    "MAPDL `.cdb`": cdb,
    "OpenFOAM case, `.foam`": openfoam,
    "MED `.med`": by_save("x.med", solid),
    "Exodus `.e`": exodus,
    "CGNS `.cgns`": by_meshio("x.cgns", "cgns", solid),
    "PLY `.ply`": by_save("x.ply", surface),
    "STL `.stl`": by_save("x.stl", surface),
    "Wavefront `.obj`": by_save("x.obj", surface),
    "OFF `.off`": by_save("x.off", surface),
    "Medit `.mesh`": by_save("x.mesh", solid),
    "Medit binary `.meshb`": by_meshio("x.meshb", "medit", solid),
    "SU2 `.su2`": by_save("x.su2", solid),
    "UGRID `.ugrid`": by_meshio("x.b8.ugrid", "ugrid", solid),
    "AVS-UCD `.avs`": by_meshio("x.avs", "avsucd", solid),
    "AVS-UCD `.inp`": by_meshio("x.inp", "avsucd", solid),
    "FLAC3D `.f3grid`": by_meshio("x.f3grid", "flac3d", solid),
    "MOAB `.h5m`": by_meshio("x.h5m", "h5m", solid),
    "Tecplot `.tec`": by_meshio("x.tec", "tecplot", solid),
    "TetGen `.ele`": by_meshio("x.ele", "tetgen", solid),
    "Netgen `.vol`": by_meshio("x.vol", "netgen", solid),
}


def same_cells(mesh, back):
    """Whether the same cells are in the same places, whatever the numbering of nodes."""
    if sorted(mesh.cells) != sorted(k for k in back.cells if k in mesh.cells) or back.dim != mesh.dim:
        return False
    for kind, nodes in mesh.cells.items():
        mine, theirs = (m.pos[n].mean(1).numpy() for m, n in ((mesh, nodes), (back, back.cells[kind])))
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=1e-5, atol=1e-6):
            return False
    return True


def exact(mesh, back):
    """Same numbers, to the last bit; a cell may begin at another of its corners."""
    return torch.equal(mesh.pos, back.pos) and all(
        torch.equal(nodes.sort(1)[0], back.cells[kind].sort(1)[0]) for kind, nodes in mesh.cells.items()
    )


def kept(mesh, back):
    """Numbers kept of those there were: fields, sets, sets as what they are."""
    fields = sum(
        n in back.point_data and np.allclose(back.point_data[n].numpy()[:, ...], v.numpy(), rtol=1e-5)
        for n, v in mesh.point_data.items()
        if n not in back.point_data or back.point_data[n].shape == v.shape
    )
    fields += sum(
        all(n in back.cell_data and np.allclose(back.cell_data[n][k], v, rtol=1e-5) for k, v in blocks.items())
        for n, blocks in mesh.cell_data.items()
    )
    sets = sum(n in back.sets and torch.equal(back.set_nodes(n), mesh.set_nodes(n)) for n in mesh.sets)
    entities = sum(n in back.sets and back.sets[n].entity == s.entity for n, s in mesh.sets.items())
    return fields, sets, entities


def share(found, of):
    return "–" if not of else "yes" if found == of else "no" if not found else f"{found} of {of}"


def row(title, write):
    """What the table says of one format."""
    with tempfile.TemporaryDirectory() as folder:
        path, mesh = write(Path(folder))
        back = load_mesh(path)
        fields, sets, entities = kept(mesh, back)
        words = share(sets, len(mesh.sets))
        if words == "yes" and entities < len(mesh.sets):
            words = "yes, as nodes"
        places = "exact" if exact(mesh, back) else "to 32 bits" if same_cells(mesh, back) else "no"
        saved = "yes" if getattr(write, "__qualname__", "").startswith("by_save") else "–"
        steps = "yes" if back.time_steps else "–"
        number = len(mesh.point_data) + len(mesh.cell_data)
        return f"| {title} | {places} | {share(fields, number)} | {words} | {steps} | {saved} |"


def table():
    """The table in Markdown; formats that cannot hold something say `no`, samples that lack it `–`."""
    head = "| format | nodes and cells | fields | sets | steps | written by `save` |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(row(*sample) for sample in SAMPLES.items())])


def readers():
    """Which extensions are read by what, in Markdown."""
    titles = {name: title for name, (title, _, _) in READERS.items()} | {"avs": "meshio"}
    rows = [f"| {', '.join(kinds)} | {', '.join(titles[name] for name in names)} |" for kinds, names in FORMATS]
    return "\n".join(["| extensions | read by, in turn |\n|---|---|", *rows])


def written_anew(text):
    """The page with both of its tables as they must be."""
    for head, found in (("| format |", table()), ("| extensions |", readers())):
        start = text.index(head)
        text = text[:start] + found + text[text.index("\n\n", start) :]
    return text


if __name__ == "__main__":
    PAGE.write_text(written_anew(PAGE.read_text()))
