import copy
import json
import pickle

import numpy as np
import pytest
import torch
from mesh.meshes import grid
from torch_geometric.data import Batch

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, NamedSet

SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]]
QUAD = {"quad": [[0, 1, 2, 3]]}


def test_types_are_kept(rich_mesh):
    assert rich_mesh.pos.dtype == torch.float64
    dtypes = {name: values.dtype for name, values in rich_mesh.point_data.items()}
    assert dtypes == {"temperature": torch.float32, "displacement": torch.float64, "type": torch.int32}
    assert rich_mesh.global_data["material"].tolist() == [3]
    assert rich_mesh.cells["triangle"].dtype == torch.long


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": [[0.0], [1.0]]}, r"positions must have shape \[N, 2\] or \[N, 3\], got \[2, 1\]"),
        (
            {"pos": [[0, 0], [1, np.nan], [1, 1], [0, 1]]},
            r"positions hold 1 NaN or infinite values \(first at node 1\)",
        ),
        ({"cells": {}}, "the mesh has no cells"),
        ({"cells": {"quad": np.zeros((0, 4), int)}}, "the mesh has no cells"),
        ({"cells": {"quad": [[0, 1, 2, 3], [0, 1, 2, 7]]}}, r"cells 'quad': cell 1 refers to node 7, but .* 0 to 3"),
        ({"cells": {"quad": [[0, 1, 2, -1]]}}, r"cell 0 refers to node -1"),
        ({"cells": {"quad": [[0, 1, 2]]}}, r"cells 'quad' have 4 nodes each, got 3"),
        ({"cells": {"quad": [[0.0, 1, 2, 3]]}}, r"indices must be integers"),
        ({"point_data": {"u": [1.0, 2.0]}}, r"field 'u' has 2 values for 4 nodes"),
        (
            {"point_data": {"stress": [0, np.nan, np.inf, np.nan]}},
            r"field 'stress' holds 3 NaN or infinite values \(first at node 1\); remove or fill them before loading",
        ),
        ({"point_data": {"name": ["a", "b", "c", "d"]}}, r"field 'name' has dtype <U1; give real numbers"),
        (
            {"point_data": {"u": np.zeros((4, 2, 2, 2))}},
            r"must have shape \[4\], \[4, c\] or \[4, T, c\], got \[4, 2, 2, 2\]",
        ),
        ({"cell_data": {"s": {"quad": np.zeros((1, 2, 2))}}}, r"must have shape \[1\] or \[1, c\], got \[1, 2, 2\]"),
        ({"point_data": {"u": torch.zeros(4, dtype=torch.complex64)}}, r"real and imaginary parts"),
        ({"cell_data": {"s": {"quad": [1.0, 2.0]}}}, r"cell field 's' on 'quad' has 2 values for 1 cells"),
        ({"cell_data": {"s": {"tetra": [1.0]}}}, r"given on 'tetra', but the mesh has cells of 'quad' only"),
        ({"cell_data": {"s": {"quad": [np.nan]}}}, r"cell field 's' on 'quad' holds 1 NaN .* at cell 0"),
        ({"global_data": {"load": [np.inf]}}, r"global 'load' holds 1 NaN"),
        ({"sets": {"left": [0, 9]}}, r"set 'left' refers to 9, but there are 4 nodes"),
        ({"sets": {"c": NamedSet("cell", torch.tensor([1]))}}, r"set 'c' refers to 1, but there are 1 cells"),
        ({"sets": {"f": NamedSet("facet", torch.tensor([1]))}}, r"set 'f' of entity 'facet' must have shape \[F, k\]"),
        ({"periodic_pairs": [[0, 1, 2]]}, r"periodic_pairs must have shape \[2, P\], got \[1, 3\]"),
        ({"periodic_pairs": [[0], [4]]}, r"periodic_pairs refers to 4"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    arguments = {"pos": SQUARE, "cells": QUAD} | change
    with pytest.raises(MeshError, match=message):
        Mesh.from_arrays(**arguments)


def test_nonfinite_fields_on_request():
    mesh = Mesh.from_arrays(SQUARE, QUAD, point_data={"u": [0, np.nan, 0, 0]}, allow_nonfinite=True)
    assert torch.isnan(mesh.point_data["u"]).sum() == 1


def test_sets_of_every_entity():
    mesh = grid("triangle", (2, 1))
    mesh.sets = {
        "nodes": NamedSet("node", torch.tensor([3, 1, 3])),
        "facets": NamedSet("facet", torch.tensor([[4, 2], [2, 0]])),
        "cells": NamedSet("cell", torch.tensor([1])),
    }
    assert mesh.set_nodes("nodes").tolist() == [1, 3]
    assert mesh.set_nodes("facets").tolist() == [0, 2, 4]
    assert mesh.set_nodes("cells").tolist() == sorted(mesh.cells["triangle"][1].tolist())
    with pytest.raises(MeshError, match=r"no set 'top'; its sets: 'nodes', 'facets', 'cells'"):
        mesh.set_nodes("top")


def test_cell_sets_count_through_the_kinds(rich_mesh):
    rich_mesh.sets = {"last": NamedSet("cell", torch.tensor([0, 2]))}
    assert rich_mesh.set_nodes("last").tolist() == [0, 1, 3, 4, 5]


def test_derived_are_kept_and_forgotten(rich_mesh):
    edges = rich_mesh.edge_index
    assert rich_mesh.edge_index is edges
    assert "edge_index" not in rich_mesh.to_dict()
    shallow = copy.copy(rich_mesh)
    shallow.cells = {"triangle": rich_mesh.cells["triangle"]}
    assert shallow.num_edges == 10
    assert rich_mesh.edge_index is edges
    volume = rich_mesh.node_volume.clone()
    rich_mesh.pos = rich_mesh.pos * 2
    np.testing.assert_allclose(rich_mesh.node_volume, 4 * volume)
    rich_mesh.edge_index = edges[:, :2]
    assert rich_mesh.num_edges == 2


def test_copies_and_pickles(rich_mesh):
    _ = rich_mesh.node_volume
    for other in (copy.deepcopy(rich_mesh), pickle.loads(pickle.dumps(rich_mesh)), rich_mesh.clone()):
        assert "_cache" not in other.__dict__
        assert torch.equal(other.edge_index, rich_mesh.edge_index)
        assert other.set_nodes("left").tolist() == [0, 3]


def test_to_moves_everything(rich_mesh, device):
    _ = rich_mesh.edge_index
    moved = rich_mesh.to(device)
    assert moved.edge_index.device.type == device.type
    assert moved.sets["left"].ids.device.type == device.type
    assert moved.boundary_normals.device.type == device.type


def test_batch_offsets_and_back(rich_mesh):
    other = copy.deepcopy(rich_mesh)
    other.pos = other.pos + 10
    other.point_data["face"] = other.point_data["temperature"] + 1  # a name PyG would take for indices
    rich_mesh.point_data["face"] = rich_mesh.point_data["temperature"]
    batch = Batch.from_data_list([rich_mesh, other])
    assert batch.ptr.tolist() == [0, 6, 12]
    assert batch.cells["triangle"].tolist() == [[1, 2, 5], [1, 5, 4], [7, 8, 11], [7, 11, 10]]
    assert batch.periodic_pairs.tolist() == [[0, 3, 6, 9], [2, 5, 8, 11]]
    assert batch.global_data["load"].tolist() == [[1, -2], [1, -2]]
    assert batch.point_data["face"].tolist() == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert batch.cell_data["stress"]["triangle"].tolist() == [2.5, 3.5, 2.5, 3.5]
    assert torch.equal(batch.edge_index, torch.cat([rich_mesh.edge_index, rich_mesh.edge_index + 6], 1))
    assert batch.set_nodes("left").tolist() == [0, 3, 6, 9]
    assert batch.num_components == 2
    back = batch[1]
    assert torch.equal(back.cells["triangle"], other.cells["triangle"])
    assert torch.equal(back.periodic_pairs, other.periodic_pairs)
    assert back.global_data["load"].tolist() == [1, -2]


def test_stored_edges_are_collated(rich_mesh):
    rich_mesh.edge_index = rich_mesh.edge_index
    batch = Batch.from_data_list([rich_mesh, rich_mesh])
    assert "edge_index" in batch
    assert int(batch.edge_index.max()) == 11


def test_summary_is_plain(rich_mesh):
    text = json.loads(json.dumps(rich_mesh.summary()))
    assert text["nodes"] == 6
    assert text["cells"] == {"quad": 1, "triangle": 2}
    assert text["point_data"]["displacement"] == {"shape": [6, 2], "dtype": "float64", "min": 0.0, "max": 11.0}
    assert text["sets"] == {"left": {"entity": "node", "size": 2, "nodes": 2}}
    assert text["boundary_facets"] == {"line": 6}
    assert text["total_measure"] == 2.0
    assert text["bounding_box"] == [[0, 0], [2, 1]]
    assert text["inverted_cells"] == 0
    assert text["quality"]["quad"]["min"] == 1.0


def test_printed_sets_say_how_many_and_not_which():
    mesh = Mesh.from_arrays(
        np.random.default_rng(0).random((2_000, 2)), {"triangle": np.arange(1_998).reshape(-1, 3)},
        sets={"all": NamedSet("cell", torch.arange(666))},
    )  # fmt: skip
    assert "all=NamedSet(cell, ids=[666])" in repr(mesh)
    assert len(repr(mesh)) < 400
