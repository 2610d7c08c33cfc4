"""Multi-query associative recall: pairs of a key and a value, then some of the keys, whose values are to be told.

The task of Zoology, arXiv 2312.04927: a sequence begins with its pairs. Later each key comes once more, somewhere, more
often soon than late; all other tokens are drawn at random. The value is asked for where the key stands.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import Case, Trained, minimise

# How far queries are from their pairs is drawn from a power law with this exponent less one, as in Zoology.
_POWER = 0.01


def draw_recall(
    batch: int, length: int, pairs: int, vocabulary: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences, and what is to be recalled in them.

    Args:
        batch: B.
        length: L, tokens of a sequence.
        pairs: P of a key and a value, all different; each is asked for once.
        vocabulary: V; keys are in its first half, values in its second.
        draw: where chance comes from, on the device of the result.

    Returns:
        Tokens [B, L]; where keys are asked for, [B, P], in the order of the pairs; and their values, [B, P].

    Raises:
        ValueError: if there are too few places, or too few tokens to draw from.
    """
    if not 1 <= pairs <= length // 4 or pairs >= vocabulary // 2:
        raise ValueError(
            f"`pairs` must be between 1 and a quarter of `length`, and less than half of `vocabulary`, got {pairs} "
            f"pairs, length {length}, vocabulary {vocabulary}"
        )
    half, device = vocabulary // 2, draw.device
    keys = _different(batch, half, pairs, draw)
    values = half + _different(batch, vocabulary - half, pairs, draw)
    tokens = torch.randint(vocabulary, (batch, length), generator=draw, device=device)
    tokens[:, : 2 * pairs] = torch.stack([keys, values], dim=-1).flatten(1)
    places = (length - 2 * pairs) // 2
    weight = torch.arange(1, places + 1, device=device, dtype=torch.float32) ** (_POWER - 1)
    asked = 2 * pairs + 2 * torch.multinomial(weight.expand(batch, -1), pairs, generator=draw)
    return tokens.scatter(1, asked, keys), asked, values


def train_recall(
    model: nn.Module, cases: list[tuple[int, int]], *, vocabulary: int, tokens: int, steps: int, rate: float,
    bf16: bool, seed: int, device: torch.device,
) -> Trained:  # fmt: skip
    """On fresh sequences of all cases (length, pairs) in turn, about as many tokens in each step."""
    chance = torch.Generator(device).manual_seed(seed)

    def drawn(length: int, pairs: int) -> tuple[Tensor, ...]:
        return draw_recall(max(tokens // length, 1), length, pairs, vocabulary, chance)

    def loss(x: Tensor, asked: Tensor, values: Tensor) -> Tensor:
        return F.cross_entropy(_scores(model, x, asked, bf16).flatten(0, 1), values.flatten())

    return minimise(model, [Case(partial(drawn, *case), loss) for case in cases], steps, rate)


@torch.no_grad()
def accuracy(
    model: nn.Module, length: int, pairs: int, *, vocabulary: int, queries: int, bf16: bool, device: torch.device
) -> float:
    """The share of about so many queries whose value has the largest score; always the same sequences."""
    draw = torch.Generator(device).manual_seed(1_000_003)
    right = asked_for = 0
    while asked_for < queries:
        x, asked, values = draw_recall(max(8_192 // length, 1), length, pairs, vocabulary, draw)
        right += int((_scores(model, x, asked, bf16).argmax(-1) == values).sum())
        asked_for += values.numel()
    return right / asked_for


def _scores(model: nn.Module, tokens: Tensor, asked: Tensor, bf16: bool) -> Tensor:
    """Of the tokens that are asked for, and of no other: the vocabulary is large."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
        x = model.read(tokens)
        return model.scores(x.gather(1, asked[..., None].expand(-1, -1, x.shape[-1]))).float()


def _different(batch: int, most: int, count: int, draw: torch.Generator) -> Tensor:
    """Numbers below `most`, [B, count], none twice in a row."""
    return torch.rand(batch, most, generator=draw, device=draw.device).topk(count, dim=1).indices
