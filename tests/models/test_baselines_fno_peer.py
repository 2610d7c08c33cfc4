"""FNO against the package of its authors: the same weights give the same output, in fp64 to 1e-10.

Skipped where neuraloperator is not installed, continuous integration among them.
"""

import importlib.util
import warnings

import pytest
import torch
import torch.nn.functional as F

from flare_connect.models.baselines import FNO

if importlib.util.find_spec("neuralop") is None:
    pytest.skip("neuraloperator is not installed", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import neuralop.models

pytestmark = pytest.mark.filterwarnings("ignore")  # the package's own

FEATURES, OUTPUTS, C, M = 3, 2, 6, 4
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = {1: (20,), 2: (10, 12)}


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    # The package writes its spectra in single precision, whatever the weights are.
    monkeypatch.setattr(torch, "cfloat", torch.cdouble)


def package(dim, mlp):
    """Its model with the same modes: its last axis has half of what it is told, and one more."""
    torch.manual_seed(0)
    made = neuralop.models.FNO(
        n_modes=(*(2 * M,) * (dim - 1), 2 * M - 2), in_channels=FEATURES, out_channels=OUTPUTS, hidden_channels=C,
        n_layers=3, lifting_channel_ratio=0, projection_channel_ratio=2, positional_embedding=None,
        use_channel_mlp=mlp, channel_mlp_expansion=0.5,
    ).double()  # fmt: skip
    with torch.no_grad():
        for p in made.parameters():
            p.data = p.data.to(torch.cdouble if p.is_complex() else torch.double)
            p.add_(0.2 * torch.randn_like(p))
    return made.eval()


def ours(theirs, dim, mlp):
    """Ours with the weights of the package, all of which are used."""
    model = FNO(features=FEATURES, outputs=OUTPUTS, dim=dim, channels=C, modes=M, num_layers=3, hidden=2 * C,
                mlp_ratio=0.5 if mlp else 0.0).double()  # fmt: skip
    state = {f"encode.{part}": getattr(theirs.lifting.fcs[0], part) for part in ("weight", "bias")}
    for i, place in enumerate((0, 2)):
        state |= {f"decode.{place}.{part}": getattr(theirs.projection.fcs[i], part) for part in ("weight", "bias")}
    blocks, used = theirs.fno_blocks, 6
    for i in range(3):
        weight = blocks.convs[i].weight.tensor.data
        # Its waves along the first axis stand from −m to m − 1, ours as the transform has them.
        weight = torch.fft.ifftshift(weight, dim=2) if dim == 2 else weight
        state[f"layers.{i}.spectral.weight"] = torch.view_as_real(weight)
        state[f"layers.{i}.linear.weight"] = blocks.fno_skips[i].conv.weight.data
        state[f"layers.{i}.linear.bias"] = blocks.convs[i].bias.data.flatten()
        used += 3
        if mlp:
            for j, place in enumerate((0, 2)):
                for part in ("weight", "bias"):
                    state[f"layers.{i}.mlp.{place}.{part}"] = getattr(blocks.channel_mlp[i].fcs[j], part).data
            state[f"layers.{i}.skip"] = blocks.channel_mlp_skips[i].weight.data[0]
            used += 5
    assert used == len(list(theirs.parameters()))
    own = model.state_dict()
    assert state.keys() == own.keys()
    model.load_state_dict({name: value.detach().reshape(own[name].shape) for name, value in state.items()})
    return model


@pytest.mark.parametrize("dim", SHAPES)
def test_the_package_as_it_comes(dim):
    theirs = package(dim, mlp=True)
    x = torch.randn(2, FEATURES, *SHAPES[dim]).double()
    torch.testing.assert_close(ours(theirs, dim, mlp=True)(x), theirs(x), **TIGHT)


@pytest.mark.parametrize("dim", SHAPES)
def test_layers_as_published(dim):
    """Without its perceptrons the package activates a layer twice, the paper once: its parts, put together as there."""
    theirs = package(dim, mlp=False)
    x = torch.randn(2, FEATURES, *SHAPES[dim]).double()
    h = theirs.lifting(x)
    for i in range(3):
        h = theirs.fno_blocks.convs[i](h) + theirs.fno_blocks.fno_skips[i](h)
        h = h if i == 2 else F.gelu(h)
    torch.testing.assert_close(ours(theirs, dim, mlp=False)(x), theirs.projection(h), **TIGHT)
