"""Splits as tensors and as graphs, also from the worker processes of a loader."""

import numpy as np
import pytest
import torch
from fixtures_pdebench import ALL, BY_NAME
from torch.utils.data import DataLoader
from torch_geometric.loader import DataLoader as GraphLoader

from flare_connect.errors import ConfigError, StoreError
from flare_connect.mesh import MeshStore, find_periodic_pairs, write_store
from flare_datasets.pdebench import PDEBenchDataset, PDEBenchGraphs, grid_mesh, open_pdebench, prepare_pdebench


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.pde)
def test_a_sample_as_tensors(case, tmp_path):
    file = open_pdebench(case.write(tmp_path), test_ratio=0.5)
    data = PDEBenchDataset(file, "train")
    initial, frames, grid, static = data[1]
    i = int(file.split("train")[1])
    assert torch.equal(frames, torch.from_numpy(case.values[i]))
    assert torch.equal(grid, torch.from_numpy(file.grid))
    if case.pde == "darcy":
        assert torch.equal(initial, torch.from_numpy(case.static[i])[..., None, :])
    else:
        given = 5 if case.pde == "reaction_diffusion" else 10
        assert torch.equal(initial, frames[..., :given, :])
    assert static.shape == (*file.shape, len(file.static_channels))
    assert len(data) == len(case.values) - len(case.values) // 2
    assert torch.equal(data[-1].frames, data[len(data) - 1].frames)


@pytest.mark.parametrize(
    ("pde", "context"),
    [("burgers", "fork"), ("diffusion_reaction", "fork"), ("incompressible", "fork"), ("burgers", "spawn")],
)
def test_two_workers_of_a_loader(pde, context, tmp_path):
    case = BY_NAME[pde]
    data = PDEBenchDataset(open_pdebench(case.write(tmp_path), test_ratio=0.4), "train")
    first = data[0]  # the parent has the file open
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=context)
    seen = torch.cat([frames for _, frames, _, _ in loader])
    assert torch.equal(seen, torch.from_numpy(case.values[data.indices]))
    assert torch.equal(data[0].frames, first.frames)


@pytest.mark.parametrize(
    ("pde", "kind", "cells", "measure"),
    [
        ("burgers", "line", 16, 1.0),
        ("diffusion_sorption", "line", 15, 15 / 16),
        ("compressible_3d", "hexahedron", 4 * 6 * 8, 1.0),
        ("shallow_water", "quad", 7 * 5, 7 / 8 * 5 / 6),
    ],
)
def test_grids_as_meshes(pde, kind, cells, measure, tmp_path):
    case = BY_NAME[pde]
    file = open_pdebench(case.write(tmp_path))
    grid = grid_mesh(file)
    assert {name: len(nodes) for name, nodes in grid.mesh.cells.items()} == {kind: cells}
    assert grid.mesh.num_inverted_cells == 0
    assert grid.mesh.total_measure == pytest.approx(measure, rel=1e-6)
    assert grid.mesh.num_components == 1
    values = torch.from_numpy(case.values[0])
    assert torch.equal(grid.to_grid(grid.to_nodes(values)), values)
    places = grid.to_grid(grid.mesh.pos)[..., : case.dim]
    np.testing.assert_array_equal(places.float().numpy(), file.grid)


def test_repeated_domains_are_closed(tmp_path):
    file = open_pdebench(BY_NAME["compressible_3d"].write(tmp_path))
    closed, opened = grid_mesh(file), grid_mesh(file, periodic=False)
    assert closed.mesh.num_nodes == 5 * 7 * 9
    assert opened.mesh.num_nodes == 4 * 6 * 8
    assert opened.mesh.periodic_pairs is None
    assert torch.equal(closed.mesh.periodic_pairs, find_periodic_pairs(closed.mesh))
    assert (closed.mesh.boundary_component == -1).all()  # periodic sides are no boundary
    field = closed.to_nodes(torch.arange(4 * 6 * 8).reshape(4, 6, 8))
    low, high = closed.mesh.periodic_pairs
    assert torch.equal(field[low], field[high])
    line = grid_mesh(open_pdebench(BY_NAME["advection"].write(tmp_path)))
    assert line.mesh.topology.betti == (1, 1, 0)  # a circle
    assert line.mesh.periodic_pairs.tolist() == [[0], [16]]
    plane = grid_mesh(open_pdebench(BY_NAME["shallow_water"].write(tmp_path)), periodic=True)
    assert plane.mesh.topology.genus == 1  # a torus


def test_strides_keep_the_period(tmp_path):
    file = open_pdebench(BY_NAME["burgers"].write(tmp_path), reduced_resolution=3)
    mesh = grid_mesh(file).mesh
    assert mesh.num_nodes == 7
    assert mesh.total_measure == pytest.approx(1.0, rel=1e-6)


def test_graphs_of_a_split(tmp_path):
    case = BY_NAME["incompressible"]
    graphs = PDEBenchGraphs(open_pdebench(case.write(tmp_path), test_ratio=0.34), "train")
    assert len(graphs) == 2
    mesh = graphs[1]
    assert list(mesh.point_data) == ["Vx", "Vy", "particles", "force_x", "force_y"]
    assert torch.equal(mesh.point_data["Vy"], torch.from_numpy(case.values[2, ..., 1]).reshape(48, 11))
    assert torch.equal(mesh.point_data["force_x"], torch.from_numpy(case.static[2, ..., 0]).reshape(48))
    assert torch.equal(mesh.global_data["time"], torch.from_numpy(case.times))
    assert mesh.edge_index is graphs[0].edge_index  # found once
    batch = next(iter(GraphLoader(graphs, batch_size=2)))
    assert batch.point_data["Vx"].shape == (96, 11)
    assert batch.edge_index.shape == (2, 2 * mesh.num_edges)
    assert int(batch.cells["quad"].max()) == 95


def test_graphs_from_two_workers_and_as_a_prepared_data_set(tmp_path):
    case = BY_NAME["burgers"]
    graphs = PDEBenchGraphs(open_pdebench(case.write(tmp_path), reduced_resolution=2), "train")
    loader = GraphLoader(graphs, batch_size=3, num_workers=2)
    seen = torch.cat([batch.point_data["u"].reshape(-1, 9, 21) for batch in loader])
    assert torch.equal(seen[:, :8], torch.from_numpy(case.values[1:, ::2, :, 0]))
    assert torch.equal(seen[:, 8], seen[:, 0])
    write_store(
        tmp_path / "prepared.h5", graphs, splits={"train": range(9)}, generator="x", generator_version=1, seed=0,
        parameters=graphs.file.parameters,
    )  # fmt: skip
    with MeshStore(tmp_path / "prepared.h5") as store:
        assert torch.equal(store[4].point_data["u"], graphs[4].point_data["u"])
        assert float(store[4].global_data["Nu"]) == pytest.approx(0.001)
        assert torch.equal(store[4].periodic_pairs, graphs[4].periodic_pairs)


def test_a_file_as_a_data_set(tmp_path):
    """The published test split, and samples to validate with from the end of the rest."""
    case = BY_NAME["diffusion_reaction"]
    file = open_pdebench(case.write(tmp_path), test_ratio=0.2, reduced_resolution=2, reduced_resolution_t=3)
    splits = prepare_pdebench(file, tmp_path / "d.h5", val_fraction=0.25, progress=False)
    assert splits == {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
    with MeshStore(tmp_path / "d.h5") as store:
        assert {name: store.split(name).tolist() for name in splits} == {n: list(ids) for n, ids in splits.items()}
        for i in range(10):  # a group file: the last ones are the test
            for v, name in enumerate(("u", "v")):
                expected = torch.from_numpy(case.values[i, ::2, ::2, ::3, v]).flatten(0, 1)
                assert torch.equal(store[i].point_data[name], expected)
        assert store.attrs["parameters"]["reduced_resolution"] == 2


def test_a_data_set_needs_samples_of_each_split(tmp_path):
    file = open_pdebench(BY_NAME["incompressible"].write(tmp_path), test_ratio=0.7)
    for share in (-0.1, 1.0, "half"):
        with pytest.raises(ConfigError, match=r"`val_fraction` must be a number in \[0, 0.9\]"):
            prepare_pdebench(file, tmp_path / "d.h5", val_fraction=share, progress=False)
    with pytest.raises(StoreError, match="has 1 samples to train on, 1 of which would validate: take more"):
        prepare_pdebench(file, tmp_path / "d.h5", progress=False)
    assert not (tmp_path / "d.h5").exists()
