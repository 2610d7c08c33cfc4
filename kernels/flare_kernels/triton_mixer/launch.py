"""How a call is cut into programs: chunks of points from shapes alone, tile sizes from a table that is checked in.

The table is `launches.json`, made by `python kernels/benchmarks/sweep.py`; rows are keyed by kernel, block of latents,
block of the head dim and bytes of an element, never by N. A shape without a row takes the nearest row that is smaller
or equal in each key, so every shape runs.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Rows of a chunk are a multiple of this, so that every tile size of the table divides them.
CHUNK_STEP = 128
MAX_CHUNK = 16_384
# Enough programs for every multiprocessor of a large GPU to hold several, a few times over.
PROGRAMS = 4096
MAX_BLOCK_M = 128
SEVERAL_BLOCKS = 256  # the m of the rows for more latents than one block holds
TABLE = Path(__file__).with_name("launches.json")


@dataclass(frozen=True, eq=False)
class Chunks:
    """The pieces of the points that programs take.

    Attributes:
        num_segments: B.
        size: rows of a full chunk.
        count: chunks, or with a table an upper bound of it that follows from shapes.
        per_segment: chunks of each segment where all are equally long.
        width: rows of each segment where all are equally long.
        table: [count, 3] of (segment, first row, rows) where lengths differ, else None.
        offsets: [B+1], first chunk of each segment, with the table.
    """

    num_segments: int
    size: int
    count: int
    per_segment: int
    width: int
    table: Tensor | None = None
    offsets: Tensor | None = None


def chunk_size(num_rows: int, num_segments: int, heads: int, blocks: int = 1) -> int:
    """Rows of a chunk, a power of two times `CHUNK_STEP`: from shapes only, so that sums are always in the same order."""
    chunks = max(1, PROGRAMS // (heads * blocks) - num_segments)
    size = CHUNK_STEP
    while size < MAX_CHUNK and size * chunks < num_rows:
        size *= 2
    return size


def uniform_chunks(num_segments: int, width: int, heads: int, blocks: int = 1) -> Chunks:
    """Chunks of segments that are equally long."""
    size = chunk_size(num_segments * width, num_segments, heads, blocks)
    per_segment = max(1, -(-width // size))
    return Chunks(num_segments, size, num_segments * per_segment, per_segment, width)


def ragged_chunks(ptr: Tensor, num_rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Table and offsets of the chunks of segments of any lengths, without asking the device for a number."""
    lengths = ptr[1:] - ptr[:-1]
    offsets = torch.zeros_like(ptr)
    torch.cumsum((lengths + size - 1) // size, 0, out=offsets[1:])
    ids = torch.arange(num_rows // size + len(lengths), device=ptr.device)
    segment = torch.searchsorted(offsets, ids, right=True).sub_(1).clamp_(max=len(lengths) - 1)
    first = (ids - offsets[segment]) * size
    rows = (lengths[segment] - first).clamp_(0, size)
    return torch.stack([segment, ptr[segment] + torch.where(rows > 0, first, 0), rows], 1).contiguous(), offsets


@dataclass(frozen=True)
class Tile:
    """Latents and points of a tile, warps of a program, stages of the load pipeline."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def block_of(size: int) -> int:
    """Next power of two, at least the 16 that a matrix product needs."""
    return max(16, 1 << (size - 1).bit_length())


@functools.cache
def tile(kernel: str, latents: int, dim: int, element_bytes: int) -> Tile:
    """The tile of a kernel, from the table: the nearest row whose m and d are not larger, if there is one."""
    rows = [row for row in _table()[kernel] if row["bytes"] == element_bytes]
    m, d = min(SEVERAL_BLOCKS, block_of(latents)), block_of(dim)

    def distance(row: dict[str, int]) -> tuple[bool, int]:
        return row["m"] != m, abs(row["d"].bit_length() - d.bit_length())

    best = min(rows, key=distance)
    return Tile(best["block_m"], best["block_n"], best["num_warps"], best["num_stages"])


@functools.cache
def _table() -> dict[str, list[dict[str, int]]]:
    table: dict[str, list[dict[str, int]]] = json.loads(TABLE.read_text())["rows"]
    return table
