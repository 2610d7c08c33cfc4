"""Peers against the package that they stand in for: the same weights give the same output, in fp64 to 1e-10.

Skipped where nvidia-physicsnemo is not installed, continuous integration among them.
"""

import importlib
import importlib.util
import re
import sys
import types
import warnings

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from flare_connect.models.baselines import BASELINES, build
from flare_connect.nn import FlareAttention
from flare_kernels import Segments

if importlib.util.find_spec("physicsnemo") is None:
    pytest.skip("nvidia-physicsnemo is not installed", allow_module_level=True)

# Its torchvision may be built for another torch, which then lacks these operators; nothing here calls them. One that
# fits defines them itself, and torch ends the process where they are defined twice.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _operators = torch.library.Library("torchvision", "FRAGMENT")
        for _name in ("nms", "qnms"):
            _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
# torch-scatter has no wheels; PyG's own scatter is the same sum.
if importlib.util.find_spec("torch_scatter") is None:
    _stand_in = types.ModuleType("torch_scatter")
    _stand_in.scatter = lambda src, index, dim, dim_size, reduce: scatter(src, index, dim, dim_size, reduce)
    sys.modules["torch_scatter"] = _stand_in

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from physicsnemo.core import version_check

    _installed = version_check.get_installed_version
    version_check.get_installed_version = lambda name: "2.1.2" if name == "torch_scatter" else _installed(name)
    import physicsnemo.nn.module.ball_query as package_ball_query
    from physicsnemo.models.geotransolver import GeoTransolver
    from physicsnemo.models.meshgraphnet import MeshGraphNet
    from physicsnemo.models.transolver import Transolver
    from physicsnemo.nn import FLARE
    from physicsnemo.nn.functional import radius_search

    version_check.get_installed_version = _installed

# The package warns about its own metadata.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

F, E, G, C, H, M, N, Nb = 7, 4, 3, 32, 4, 8, 60, 24
SIZES = {"features": F, "edge_features": E, "conditions": G, "outputs": 2, "dim": 3}
TIGHT = {"rtol": 1e-10, "atol": 1e-10}

_BLOCK = {
    r"ln_1": "norm",
    r"ln_mlp1\.0": "mlp_norm",
    r"ln_mlp1\.1\.layers": "mlp",
    r"Attn\.in_project_x": "attention.projection.key",
    r"Attn\.in_project_fx": "attention.projection.value",
    r"Attn\.in_project_slice": "attention.projection.slice",
    r"Attn\.temperature": "attention.projection.temperature",
    r"Attn\.qkv_project": "attention.qkv",
    r"Attn\.out_linear": "attention.output",
    r"Attn\.cross_q": "attention.reader.query",
    r"Attn\.cross_k": "attention.reader.key",
    r"Attn\.cross_v": "attention.reader.value",
    r"Attn\.state_mixing": "attention.reader.share",
}
_FLARE_BLOCK = _BLOCK | {
    r"Attn\.in_project_x": "attention.input",
    r"Attn\.self_k": "attention.key",
    r"Attn\.self_v": "attention.value",
    r"Attn\.q_global": "attention.latents",
}
_PROJECTOR = {
    r"in_project_x": "key",
    r"in_project_fx": "value",
    r"in_project_slice": "slice",
    r"temperature": "temperature",
}
_CONTEXT = {
    r"context_builder\.local_extractors\.0\.processors\.(\d+)\.mlp\.layers": r"context.local.\1",
    r"context_builder\.local_extractors\.0\.tokenizers\.(\d+)": r"context.local_tokens.\1",
    r"context_builder\.geometry_tokenizer": "context.geometry",
    r"context_builder\.global_tokenizer": "context.per_mesh",
}


def renamed(state, *tables):
    """The package's names replaced by ours, a table after the other."""
    for table in tables:
        for pattern, ours in table.items():
            state = {re.sub(rf"\b{pattern}\b", ours, name): value for name, value in state.items()}
    return state


def load(model, state):
    """Every weight of ours comes from the package, and none is left over; only the layout of heads may differ."""
    own = model.state_dict()
    assert state.keys() == own.keys()
    model.load_state_dict({name: value.reshape(own[name].shape) for name, value in state.items()})


def shaken(package):
    """The package's model in fp64 with every weight moved, so that what starts at zero or one counts too."""
    package = package.double()
    with torch.no_grad():
        for parameter in package.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return package.eval()


def inputs():
    torch.manual_seed(1)
    return torch.rand(2, N, F).double(), torch.randn(2, G).double()


def ours_of(model, x, condition, **more):
    segments = Segments.uniform(len(x), x.shape[1], x.device)
    return model(x.flatten(0, 1), condition, segments=segments, **more).unflatten(0, x.shape[:2])


def test_transolver():
    package = shaken(
        Transolver(
            functional_dim=G,
            embedding_dim=F,
            out_dim=2,
            n_layers=2,
            n_hidden=C,
            n_head=H,
            slice_num=M,
            mlp_ratio=3,
            use_te=False,
        )
    )
    ours = build("transolver", channels=C, num_blocks=2, num_heads=H, num_slices=M, mlp_ratio=3.0, **SIZES).double()
    last = {r"preprocess\.layers": "encode", r"blocks\.1\.ln_mlp2\.0": "norm", r"blocks\.1\.ln_mlp2\.1": "decode"}
    load(ours, renamed(package.state_dict(), last, _BLOCK))
    x, condition = inputs()
    expected = package(condition[:, None].expand(-1, N, -1), embedding=x)
    torch.testing.assert_close(ours_of(ours, x, condition), expected, **TIGHT)


@pytest.mark.parametrize("radii", [(), (0.2, 0.5)], ids=["no_surroundings", "surroundings"])
@pytest.mark.parametrize("name", ["geotransolver", "geoflare"])
@pytest.mark.parametrize("geometry_of", ["all_nodes", "boundary"])
def test_geotransolver_and_geoflare(name, radii, geometry_of, monkeypatch):
    # The search that the package documents (nearest first); its other one returns neighbours in an order of its own.
    monkeypatch.setattr(
        package_ball_query, "radius_search", lambda *a, **k: radius_search(*a, **k, implementation="torch")
    )
    neighbours = (4, 16)[: len(radii)]
    package = shaken(
        GeoTransolver(
            functional_dim=F + G,
            out_dim=2,
            geometry_dim=3,
            global_dim=G,
            n_layers=2,
            n_hidden=C,
            n_head=H,
            slice_num=M,
            mlp_ratio=2,
            include_local_features=bool(radii),
            radii=list(radii),
            neighbors_in_radius=list(neighbours),
            n_hidden_local=8,
            attention_type="GALE" if name == "geotransolver" else "GALE_FA",
        )
    )
    options = {"mlp_ratio": 2.0, "radii": radii, "num_neighbours": neighbours, "local_channels": 8}
    ours = build(name, channels=C, num_blocks=2, num_heads=H, num_slices=M, **options, **SIZES).double()
    outer = {r"preprocess\.0\.layers": "encode", r"ln_mlp_out\.0\.0": "norm", r"ln_mlp_out\.0\.1": "decode"}
    block = _BLOCK if name == "geotransolver" else _FLARE_BLOCK
    load(ours, renamed(package.state_dict(), outer, block, _CONTEXT, _PROJECTOR))
    x, condition = inputs()
    positions, boundary = x[..., :3], torch.arange(0, N, N // Nb)[:Nb]
    geometry = positions if geometry_of == "all_nodes" else positions[:, boundary]
    joined = torch.cat([x, condition[:, None].expand(-1, N, -1)], dim=-1)
    expected = package(joined, positions, global_embedding=condition[:, None], geometry=geometry)
    index = None if geometry_of == "all_nodes" else torch.cat([boundary, boundary + N])
    torch.testing.assert_close(ours_of(ours, x, condition, boundary_index=index), expected, **TIGHT)


def test_meshgraphnet():
    width = {f"hidden_dim_{part}": C for part in ("processor", "node_encoder", "edge_encoder", "node_decoder")}
    package = shaken(MeshGraphNet(F + G, E, 2, processor_size=3, **width))
    ours = build("meshgraphnet", channels=C, num_blocks=3, **SIZES).double()
    state = {}
    for name, value in package.state_dict().items():
        name = re.sub(r"^node_encoder\.model", "encode", name)
        name = re.sub(r"^edge_encoder\.model", "encode_edges", name)
        name = re.sub(r"^node_decoder\.model\.4", "decode", name)
        name = re.sub(r"^node_decoder\.model", "hidden", name)
        if found := re.match(r"processor\.processor_layers\.(\d+)\.(edge|node)_mlp\.model\.(\d+)\.(\w+)", name):
            layer, kind, place, what = found.groups()
            inner = f"node.{place}" if kind == "node" else f"edge_rest.{place}" if int(place) else "edge_first"
            name = f"blocks.{int(layer) // 2}.{inner}.{what}"
        state[name] = value
    load(ours, state)
    x, condition = inputs()
    edge_index, edge_attr = torch.randint(0, N, (2, 5 * N)), torch.randn(5 * N, E).double()
    joined = torch.cat([x[0], condition[:1].expand(N, -1)], dim=1)
    expected = package(joined, edge_attr, Data(edge_index=edge_index, num_nodes=N))
    actual = ours(x[0], condition[:1], segments=Segments.from_lengths([N]), edge_index=edge_index, edge_attr=edge_attr)
    torch.testing.assert_close(actual, expected, **TIGHT)


def test_our_flare_attention_contains_the_packages_layer():
    """Its keys and values are a linear map a head after a common one: together one linear map of ours."""
    package = shaken(FLARE(C, heads=H, dim_head=C // H, n_global_queries=M))
    ours = FlareAttention(C, num_heads=H, num_latents=M, num_kv_layers=-1).double()
    first = package.in_project_x
    with torch.no_grad():
        ours.latents.copy_(package.q_global[0])
        for mine, theirs in ((ours.key, package.self_k), (ours.value, package.self_v)):
            each_head = torch.block_diag(*[theirs.weight] * H)
            mine.weight.copy_(each_head @ first.weight)
            mine.bias.copy_(each_head @ first.bias + theirs.bias.repeat(H))
        ours.output.load_state_dict(package.out_linear.state_dict())
    x = torch.randn(2, N, C).double()
    actual = ours(x.flatten(0, 1), Segments.uniform(2, N, x.device)).unflatten(0, (2, N))
    torch.testing.assert_close(actual, package(x), **TIGHT)


def test_every_method_of_the_package_is_compared():
    own = {"graphnet", "pointwise"}
    assert BASELINES.keys() - own == {"transolver", "geotransolver", "geoflare", "meshgraphnet"}
