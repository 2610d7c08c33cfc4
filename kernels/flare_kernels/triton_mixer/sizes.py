"""How a call is cut into programs: chunks of points from shapes alone, tile sizes from a table that is checked in.

The table is `launches.json`, made by `python kernels/benchmarks/sweep.py`: rows keyed by kernel, latents, head dim and
bytes of an element, never by N; rows without `ms` are guesses that nobody has timed. A head dim without a row takes the
row of the nearest one, so every shape runs.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Rows of a chunk are a multiple of this, so that every tile size of the table divides them.
CHUNK_STEP = 128
MAX_CHUNK = 16_384
# Enough programs for every multiprocessor of a large GPU to hold several, a few times over.
PROGRAMS = 2048
ALWAYS_ONE_BLOCK = 64  # so many latents are one block in every row of the table
SEVERAL_BLOCKS = 256  # the m of the rows for more latents than one block holds
TABLE = Path(__file__).with_name("launches.json")


class Chunks(NamedTuple):
    """How many pieces of the points programs take.

    Attributes:
        size: rows of a full chunk.
        pieces: chunks; with a table an upper bound that follows from shapes.
        per_segment: chunks of each segment where all are equally long.
    """

    size: int
    pieces: int
    per_segment: int


@functools.lru_cache(maxsize=4096)
def uniform_chunks(num_segments: int, width: int, heads: int) -> Chunks:
    """Chunks of segments that are equally long; from shapes only, so that sums are always in the same order."""
    wanted = max(1, PROGRAMS // heads)
    size = CHUNK_STEP
    while size < MAX_CHUNK and size * wanted < num_segments * width:
        size *= 2
    per_segment = max(1, -(-width // size))
    return Chunks(size, num_segments * per_segment, per_segment)


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
    """The tile of a kernel, from the table: the row of these latents whose head dim is nearest."""
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
