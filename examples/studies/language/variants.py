"""The models of the study: the decoder of the example, with causal FLARE and its options or with softmax attention."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from softmax import SoftmaxAttention
from torch import nn

from flare_connect.nn import CausalFlare

FLARE = "FLARE"
SOFTMAX = "softmax"
# Linear keys and values, as those of softmax attention are.
SETTING = {"num_latents": 64, "num_kv_layers": -1, "conv_width": 4, "output_gate": "silu", "fading": True}
CHANGES: dict[str, dict[str, Any]] = {
    FLARE: {},
    "without fading": {"fading": False},
    "without k-normalisation": {"qk_norm": False},
    "without separate decode": {"separate_decode": False},
    "without convolution": {"conv_width": 0},
    "without output gate": {"output_gate": None},
    "write gate": {"write_gate": True},
    "adapted queries": {"queries": "adapted"},
    "16 latents": {"num_latents": 16},
    "256 latents": {"num_latents": 256},
}
PEERS: dict[str, dict[str, Any]] = {
    SOFTMAX: {},
    "softmax, no convolution": {"conv_width": 0},
    "softmax, no convolution, no gate": {"conv_width": 0, "gate": False},
}


def _example() -> ModuleType:
    """`04_language_model.py`: a name that `import` cannot take."""
    path = Path(__file__).parents[2] / "04_language_model.py"
    spec = spec_from_file_location("language_model", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LM = _example()


def mixer(name: str, channels: int, heads: int, impl: str, **more: Any) -> Callable[[], nn.Module]:
    """What makes the layers of a variant; what its name says goes before `more`."""
    if name in PEERS:
        return lambda: SoftmaxAttention(channels, heads, **PEERS[name])
    return lambda: CausalFlare(channels, num_heads=heads, impl=impl, **SETTING | more | CHANGES[name])
