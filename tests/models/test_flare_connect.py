"""The whole model: batches, permutations, statistics, disk, and the messages of what does not fit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures_meshes import plate
from torch_geometric.data import Batch

from flare_connect.errors import CheckpointError, ConfigError, InputError
from flare_connect.mesh import Mesh
from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig
from flare_connect.models.features import collate
from flare_kernels import Segments

SMALL = {"channels": 16, "num_blocks": 2, "num_heads": 4, "num_latents": 8}
VARIANTS = {
    "hybrid": {},
    "adapted": {"queries": "adapted", "separate_decode": True},
    "two_rounds": {"num_rounds": 2},
    "tokens_alone": {"message_passing": False, "anchors": "none"},
    "geodesic": {"anchors": "geodesic", "boundary_tokens": False},
    "not_anchored": {"anchors": "none"},
    "attention_only": {"anchors": "none", "message_passing": False, "boundary_tokens": False, "quadrature": False},
    "message_passing_only": {"anchors": "none", "attention": False, "boundary_tokens": False, "quadrature": False},
}


def config(**options):
    return FlareConnectConfig(
        dim=2,
        outputs={"stress": 1, "displacement": 2},
        conditions={"load": 2},
        boundary={"left": "free"},
        architecture=Architecture(**SMALL | options),
    )


def model(**options):
    torch.manual_seed(0)
    made = FlareConnect(config(**options))
    for block in made.trunk.blocks:  # gates start at zero; open them, or message passing would not be tested
        if block.gates is not None:
            torch.nn.init.normal_(block.gates)
    made.fit_statistics(made.build_graph(plate(seed=s), with_targets=True) for s in range(3))
    return made.eval()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_ragged_batch_of_eight_equals_eight_single_runs(options, device):
    surrogate = model(**options).to(device)
    graphs = [surrogate.build_graph(plate(3 + 2 * n, 4 + n, seed=n)) for n in range(8)]
    with torch.no_grad():
        batched = surrogate(Batch.from_data_list(graphs).to(device))
        singles = torch.cat([surrogate(graph.to(device)) for graph in graphs])
    assert batched.dtype == torch.float32
    torch.testing.assert_close(batched, singles, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_collated_batch_equals_a_plain_one_without_asking_the_device(options, monkeypatch):
    """The loader's batches know their sizes: no layer may read them off a tensor."""
    surrogate = model(**options)
    graphs = [surrogate.build_graph(plate(3 + n, 4, seed=n)) for n in range(3)]
    with torch.no_grad():
        expected = surrogate(Batch.from_data_list(graphs))
        batch = collate(graphs)
        monkeypatch.setattr(Segments, "from_ptr", None)
        assert torch.equal(surrogate(batch), expected)


COMPILE = """
import torch, torch._dynamo, flare_connect as fc
from torch._dynamo.utils import counters
from fixtures_meshes import plate
from flare_connect.models.features import collate

config = fc.FlareConnectConfig(
    dim=2, outputs={"stress": 1}, conditions={"load": 2}, boundary={"left": "free"},
    architecture=fc.Architecture(channels=16, num_blocks=3, num_heads=4, num_latents=8),
)
model = fc.FlareConnect(config)
model.fit_statistics(model.build_graph(plate(seed=s), with_targets=True) for s in range(3))
batches = [collate([model.build_graph(plate(3 + n + i, 5 + n, seed=n)) for i in range(3)]) for n in range(4)]
expected = [model(batch) for batch in batches]
for block in model.trunk.blocks:
    block.compile(dynamic=True, fullgraph=True, backend="aot_eager")
for batch, truth in zip(batches, expected, strict=True):
    torch.testing.assert_close(model(batch), truth)
# One for the first sizes seen, one for all others.
assert counters["stats"]["unique_graphs"] <= 2, counters["stats"]
"""


def test_all_blocks_and_all_batches_share_compiled_graphs():
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    here = {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=240, env=os.environ | here)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_permuting_the_nodes_permutes_the_prediction(options):
    surrogate, mesh = model(**options), plate(9)
    order = torch.randperm(mesh.num_nodes)
    inverse = torch.argsort(order)
    permuted = Mesh.from_arrays(
        mesh.pos[order],
        {"triangle": inverse[mesh.cells["triangle"]]},
        global_data=mesh.global_data,
        sets={"left": inverse[mesh.set_nodes("left")]},
    )
    expected = surrogate.predict(mesh)
    for name, values in surrogate.predict(permuted).items():
        torch.testing.assert_close(values, expected[name][order], rtol=1e-4, atol=1e-5)


def test_moving_and_renaming_units_of_length_only_changes_the_size_feature():
    surrogate, mesh = model(), plate(9)
    first = surrogate.build_graph(mesh)
    moved = Mesh.from_arrays(1000 * mesh.pos + 7, mesh.cells, global_data=mesh.global_data, sets=dict(mesh.sets))
    second = surrogate.build_graph(moved)
    torch.testing.assert_close(first.x, second.x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.edge_attr, second.edge_attr, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.log_weight, second.log_weight, rtol=1e-4, atol=1e-5)
    assert second.condition[0, -1] > first.condition[0, -1]


def test_predictions_are_in_physical_units():
    surrogate = model()
    with torch.no_grad():
        surrogate.trunk.decode.weight.zero_()
        surrogate.trunk.decode.bias.zero_()
    training = torch.cat([plate(seed=s).point_data["stress"] for s in range(3)])
    predicted = surrogate.predict(plate())
    torch.testing.assert_close(predicted["stress"], training.mean().expand_as(predicted["stress"]))
    assert predicted["stress"].shape == (plate().num_nodes,)
    assert predicted["displacement"].shape == (plate().num_nodes, 2)


def test_statistics_are_those_of_numpy_whatever_the_parts():
    from flare_connect.models import Standardiser

    values = torch.randn(1000, 2).double() * torch.tensor([1e-3, 5]) + torch.tensor([1e3, -2])
    whole, parts = Standardiser(2).double(), Standardiser(2).double()
    whole.fit([values])
    parts.fit([*values.split([1, 500, 499]), values[:0]])
    torch.testing.assert_close(whole.mean, values.mean(0))
    torch.testing.assert_close(whole.std, values.std(0, correction=0))
    torch.testing.assert_close(parts.std, whole.std)
    constant = Standardiser(1)
    constant.fit([torch.full((5, 1), 3.0)])
    assert torch.equal(constant(torch.tensor([[3.0]])), torch.zeros(1, 1))
    with pytest.raises(InputError, match="no nodes"):
        Standardiser(1).fit([])


def test_round_trip_on_disk(tmp_path):
    surrogate = model()
    surrogate.save_pretrained(tmp_path / "m", provenance={"data": "plates"})
    loaded = FlareConnect.from_pretrained(tmp_path / "m")
    assert loaded.config == surrogate.config
    assert list(loaded.config.outputs) == list(surrogate.config.outputs)
    for name, values in surrogate.predict(plate()).items():
        assert torch.equal(values, loaded.predict(plate())[name])
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "m/config.json").read_text())["provenance"] == {"data": "plates"}


def damage(folder, what):
    path = folder / "config.json"
    document = json.loads(path.read_text())
    if what == "newer":
        document["version"] = 99
    elif what == "older":
        document["version"] = 1
    elif what == "kind":
        document["model"] = "Rollout"
    elif what == "key":
        document["config"]["colour"] = "red"
    elif what == "architecture":
        document["config"]["architecture"]["colour"] = "red"
    elif what == "foreign":
        document = {"hello": "world"}
    elif what == "weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif what == "no_weights":
        (folder / "model.safetensors").unlink()
    elif what == "empty":
        path.write_text("")
        return
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("newer", CheckpointError, "format version 99, this flare_connect reads version 4: upgrade flare-connect"),
        ("older", CheckpointError, "format version 1, this flare_connect reads version 4: train the model again"),
        ("kind", CheckpointError, "kind 'Rollout', not 'FlareConnect'"),
        ("key", ConfigError, "unknown key 'colour' in the model configuration"),
        ("architecture", ConfigError, "unknown key 'colour' in the architecture configuration"),
        ("foreign", CheckpointError, "is not the configuration of a flare_connect model"),
        ("empty", CheckpointError, "is not the configuration of a flare_connect model"),
        ("weights", CheckpointError, "does not belong to the config.json beside it"),
        ("no_weights", CheckpointError, "copy the whole folder"),
    ],
)
def test_damaged_folders_are_named(tmp_path, what, error, message):
    model().save_pretrained(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(error, match=re.escape(message)):
        FlareConnect.from_pretrained(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        FlareConnect.from_pretrained(tmp_path / "nowhere")


def without(mesh, part, name):
    setattr(mesh, part, {k: v for k, v in getattr(mesh, part).items() if k != name})
    return mesh


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (plate(dim=3), "the mesh has dimension 3, the model was made for dimension 2"),
        (without(plate(), "global_data", "load"), "condition 'load' is no global field of the mesh; it has: none"),
        (without(plate(), "sets", "left"), "boundary set 'left', which the mesh lacks; sets of the mesh: none"),
    ],
)
def test_meshes_that_do_not_fit(mesh, message):
    with pytest.raises(InputError, match=re.escape(message)):
        model().predict(mesh)


def test_a_field_the_model_lacks():
    surrogate = FlareConnect(FlareConnectConfig(dim=2, outputs={"stress": 1}, inputs={"thickness": 1}))
    with pytest.raises(InputError, match="input 'thickness' is no point field of the mesh; it has: 'stress'"):
        surrogate.predict(plate())
    with pytest.raises(InputError, match="output 'stress' is no point field of the mesh; it has: none"):
        model().build_graph(plate(stress=False), with_targets=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 30}, "divisible by `num_heads`, got 30 and 8; try 32 channels"),
        ({"attention": False, "message_passing": False}, "with both off"),
        ({"anchor_scales": (1.0, -2.0)}, "`anchor_scales` must be positive numbers"),
        ({"anchor_scales": (1.0, 2.0, 3.0), "num_heads": 2}, "names 3 scales for `num_heads` = 2"),
        ({"attention": False}, "does nothing without `attention`"),
        ({"num_blocks": 0}, "`num_blocks` must be at least 1, got 0"),
        ({"load_rounds": -1}, "`load_rounds` must be 0 or more, got -1"),
        ({"load_rounds": 1, "message_passing": False}, "`load_rounds` needs the edges of `message_passing`"),
        ({"qk_norm": True, "queries": "adapted"}, "always normalise"),
    ],
)
def test_architectures_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Architecture(**options)


def test_periodic_cells_are_whole():
    """On a periodic mesh the model's local part and boundary distance look across the sides."""
    mesh = plate(6)
    bottom = torch.stack(
        [(mesh.pos[:, 1] < 1e-9).nonzero().squeeze(1), (mesh.pos[:, 1] > 1 - 1e-9).nonzero().squeeze(1)]
    )
    periodic = Mesh.from_arrays(
        mesh.pos, mesh.cells, global_data=mesh.global_data, sets={"left": bottom[0][:3]}, periodic_pairs=bottom
    )
    surrogate = model()
    plain = Mesh.from_arrays(mesh.pos, mesh.cells, global_data=mesh.global_data, sets={"left": bottom[0][:3]})
    a, b = surrogate.build_graph(periodic), surrogate.build_graph(plain)
    assert a.edge_index.shape[1] == b.edge_index.shape[1] + 2 * bottom.shape[1]
    assert a.edge_attr[:, -1].sum() == 2 * bottom.shape[1]
    distance = 2 * (1 + 2 * 4) + 1
    top = bottom[1][:3]
    torch.testing.assert_close(a.x[top, distance], torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(b.x[top, distance], torch.full((3,), 2.0), atol=1e-6, rtol=0)


def test_the_rank_for_a_tolerance_is_the_lowest_that_keeps_it():
    surrogate, meshes = model(), [plate(7), plate(9, seed=3)]
    whole = [surrogate.predict(mesh) for mesh in meshes]

    def difference(rank):
        found = [surrogate.predict(mesh, rank=rank) for mesh in meshes]
        worst = [max(float((a[n] - b[n]).norm() / b[n].norm()) for n in b) for a, b in zip(found, whole, strict=True)]
        return sum(worst) / len(worst)

    # A tolerance that some ranks keep and some do not.
    tolerance = (difference(3) + difference(4)) / 2
    rank = surrogate.rank_for(meshes, tolerance)
    assert difference(rank) <= tolerance < difference(rank - 1)
    assert surrogate.rank_for(meshes, 1e9) == 1
    with pytest.raises(InputError, match="`tolerance` must be positive"):
        surrogate.rank_for(meshes, 0.0)
    with pytest.raises(InputError, match="at least one mesh"):
        surrogate.rank_for([], 0.1)
