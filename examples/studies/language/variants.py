"""The models of the study: the decoder of the example, with causal FLARE and its options or with softmax attention."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from softmax import SoftmaxAttention
from torch import Tensor, nn

from flare_connect.nn import CausalFlare
from flare_connect.nn.fading import places_in
from flare_kernels import Segments, causal_mixer
from flare_kernels.autocast import as_autocast

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


class FoldedFlare(CausalFlare):
    """`CausalFlare` for sequences of one length in plain torch: they go through the operator as heads of one sequence.

    It takes sequences one after another, which on a GPU is mostly waiting for the host. The result is the same. To be
    left out as soon as the operator does so by itself.
    """

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """Tokens `[N, C]` to as many."""
        batch = segments.num_segments
        u = x if self.conv is None else self.conv(x, segments)[0]

        def fold(tokens: Tensor) -> Tensor:
            return tokens.unflatten(0, (batch, -1)).transpose(0, 1).flatten(1, 2)

        def read(part: str, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            if self.fading is not None:
                last, decoding = segments.width - 1, (more.pop("q_decode", None), more.pop("k_decode", None))
                more |= self.fading.timed(places_in(segments), last, q, as_autocast(k), *decoding)
                q, k = more.pop("q"), more.pop("k")
            if (apart := more.pop("q_decode", None)) is not None:
                more |= {"q_decode": apart.repeat(batch, 1, 1), "k_decode": fold(more.pop("k_decode"))}
            given = {name: value for name, value in more.items() if value is not None}
            y = causal_mixer(q.repeat(batch, 1, 1), fold(k), fold(v), scale=self.scale, impl=self.impl, **given)
            return y.unflatten(1, (batch, -1)).transpose(0, 1).flatten(0, 1)

        return self._mix(x, u, None, False, read)


def mixer(name: str, channels: int, heads: int, impl: str, *, cuda: bool, **more: Any) -> Callable[[], nn.Module]:
    """What makes the layers of a variant; what its name says goes before `more`."""
    if name in PEERS:
        return lambda: SoftmaxAttention(channels, heads, **PEERS[name])
    options = SETTING | more | CHANGES[name]
    # A write gate is one number a token for all heads, and heads are sequences there.
    folded = cuda and impl != "triton" and not options.get("write_gate")
    kind = FoldedFlare if folded else CausalFlare
    return lambda: kind(channels, num_heads=heads, impl=impl, **options)
