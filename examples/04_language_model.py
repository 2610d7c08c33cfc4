"""A small language model: latents in the place of a cache that grows.

Reads the sources of Python's own library byte by byte, trains a decoder of `CausalFlare` layers to tell the next byte,
and beside it the same decoder with softmax attention: as many parameters within 10 %, the same bytes, the same steps.
Then it writes text of its own, from a state whose size does not depend on how much was written. Run it with

    python examples/04_language_model.py                         # two CPU cores: a minute
    python examples/04_language_model.py --steps 4 --length 64   # only to see it run
    python examples/04_language_model.py --channels 256 --heads 8 --latents 64 --blocks 4 --length 512 --batch 32 \
        --steps 2000 --rate 2e-3 --bf16                           # a GPU
"""

import argparse
import math
import random
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flare_connect.nn import CausalFlare, CausalState
from flare_kernels import Segments

sys.path.insert(0, str(Path(__file__).parent / "studies" / "language"))
from softmax import SoftmaxAttention

# Tables of characters and generated text: long, and easy in another way than what people write.
LEFT_OUT = {"encodings", "pydoc_data", "test", "tests", "site-packages", "dist-packages"}


def read_text() -> tuple[Tensor, Tensor]:
    """Bytes to train on, and those of every tenth file, drawn at random, to be judged by."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in folder.rglob("*.py") if not LEFT_OUT & {*path.relative_to(folder).parts})
    random.Random(0).shuffle(files)
    held_out = max(len(files) // 10, 1)
    parts = b"".join(p.read_bytes() for p in files[held_out:]), b"".join(p.read_bytes() for p in files[:held_out])
    train, val = (torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in parts)
    return train, val


class Decoder(nn.Module):
    """Tokens `[B, L]` to scores of the next, `[B, L, V]`; `mixer` makes a layer by which tokens read earlier ones."""

    def __init__(self, channels: int, blocks: int, mixer: Callable[[], nn.Module], *, vocabulary: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(channels, mixer()) for _ in range(blocks))
        self.norm = nn.RMSNorm(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """The scores of every token."""
        return self.scores(self.read(tokens))

    def read(self, tokens: Tensor) -> Tensor:
        """What the model makes of each token, `[B, L, C]`."""
        segments = of_one_length(*tokens.shape, tokens.device)
        x = self.embedding(tokens.flatten())
        for block in self.blocks:
            x = x + block.mixer(block.norm1(x), segments)
            x = x + block.mlp(block.norm2(x))
        return x.unflatten(0, tokens.shape)

    def step(self, tokens: Tensor, states: list[CausalState]) -> Tensor:
        """Scores `[B, V]` after one token more of each sequence, `[B]`; the states are overwritten."""
        x = self.embedding(tokens)
        for block, state in zip(self.blocks, states, strict=True):
            x = x + block.mixer.step(block.norm1(x), state)
            x = x + block.mlp(block.norm2(x))
        return self.scores(x)

    def scores(self, x: Tensor) -> Tensor:
        """By the products with the embedding of each token."""
        return F.linear(self.norm(x), self.embedding.weight)


@cache
def of_one_length(count: int, length: int, device: torch.device) -> Segments:
    """Layers along time take sequences packed one after another. Made once: kernels keep what they derive from it."""
    return Segments.uniform(count, length, device)


class Block(nn.Module):
    """Tokens read each other, then each goes through a perceptron."""

    def __init__(self, channels: int, mixer: nn.Module):
        super().__init__()
        self.norm1, self.norm2, self.mixer = nn.RMSNorm(channels), nn.RMSNorm(channels), mixer
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU("tanh"), nn.Linear(4 * channels, channels))


def train(
    model: nn.Module, text: Tensor, *, length: int, batch: int, steps: int, rate: float, bf16: bool = False,
    clip: float = 1.0, seed: int = 0,
) -> Tensor:  # fmt: skip
    """On windows drawn at random; returns the norm of each step's gradient."""
    draw = torch.Generator(text.device).manual_seed(seed)

    def loss() -> Tensor:
        first = torch.randint(len(text) - length, (batch, 1), generator=draw, device=text.device)
        return next_byte(model, text, first, length, bf16).mean()

    return minimise(model, loss, steps, rate, clip)


def minimise(model: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float, clip: float = 1.0) -> Tensor:
    """AdamW, at a rate that rises for a tenth of the steps and then falls; returns the norm of each gradient."""
    optimiser = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.1, fused=True)
    rise = max(steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min((i + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    norms = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip))
        optimiser.step()
        schedule.step()
    return torch.stack(norms)


def next_byte(model: nn.Module, text: Tensor, first: Tensor, length: int, bf16: bool) -> Tensor:
    """Cross-entropy of each byte that follows, in windows `[B, L]` of the text that begin at `first`, `[B, 1]`."""
    window = text[first + torch.arange(length + 1, device=text.device)].long()
    with torch.autocast(text.device.type, torch.bfloat16, enabled=bf16):
        scores = model(window[:, :-1])
    return F.cross_entropy(scores.float().flatten(0, 1), window[:, 1:].flatten(), reduction="none").view(len(first), -1)


@torch.no_grad()
def bits_per_byte(model: nn.Module, text: Tensor, *, length: int, windows: int = 64, bf16: bool = False) -> float:
    """On windows that lie evenly in the text."""
    first = torch.linspace(0, len(text) - length - 1, windows, device=text.device).long()[:, None]
    nats = sum(next_byte(model, text, few, length, bf16).sum().item() for few in first.split(16))
    return nats / (windows * length * math.log(2))


@torch.no_grad()
def generate(model: Decoder, prompt: bytes, count: int) -> tuple[bytes, int]:
    """The prompt and `count` bytes more, drawn one by one; and the bytes of everything that is kept meanwhile."""
    states = [block.mixer.initial_state(1) for block in model.blocks]
    draw, written = torch.Generator().manual_seed(0), bytearray(prompt)
    for i in range(len(prompt) + count - 1):
        scores = model.step(torch.tensor([written[i]], device=model.embedding.weight.device), states)
        if i + 1 == len(written):
            written.append(int(torch.multinomial(torch.softmax(scores[0].float().cpu() / 0.8, 0), 1, generator=draw)))
    kept = [x for state in states for x in (*state.latents, state.recent)]
    return bytes(written), sum(x.nbytes for x in kept)


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_text, val_text = (text.to(device) for text in read_text())
    print(f"{len(train_text):,} bytes to train on, {len(val_text):,} in other files")

    def ours() -> nn.Module:
        # Latents average all that came. The convolution tells a token what came just before; fading lets latents
        # forget, without which they learn far less here. Keys and values are linear, as those of softmax attention are.
        return CausalFlare(
            args.channels, num_heads=args.heads, num_latents=args.latents, num_kv_layers=-1, conv_width=4,
            output_gate="silu", fading=True, impl=args.impl,
        )  # fmt: skip

    def softmax() -> nn.Module:
        return SoftmaxAttention(args.channels, args.heads)

    sizes = {"length": args.length, "bf16": args.bf16}
    found, models = [], []
    for name, mixer in (("CausalFlare", ours), ("softmax attention", softmax)):
        torch.manual_seed(0)
        model = Decoder(args.channels, args.blocks, mixer).to(device)
        train(model, train_text, batch=args.batch, steps=args.steps, rate=args.rate, **sizes)
        bits, params = bits_per_byte(model, val_text, **sizes), sum(p.numel() for p in model.parameters())
        found.append(f"{bits:.3f} with {name} ({params:,} parameters)")
        models.append(model)
    print(f"bits per byte in files not trained on: {', '.join(found)}")

    text, kept = generate(models[0], b"def ", args.write)
    print(text.decode(errors="replace"))
    print(f"written from a state of {kept:,} bytes, which it would also be after a million bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64, help="width")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--latents", type=int, default=8, help="of each head")
    parser.add_argument("--blocks", type=int, default=2, help="depth")
    parser.add_argument("--length", type=int, default=128, help="bytes of a window")
    parser.add_argument("--batch", type=int, default=8, help="windows of a step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1e-2, help="largest learning rate")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--impl", default="auto", help="of the operator, see flare_kernels.causal_mixer")
    parser.add_argument("--write", type=int, default=300, help="bytes to generate")
    main(parser.parse_args())
