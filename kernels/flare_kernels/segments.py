"""Where each mesh starts and ends in a packed tensor, computed once a batch and reused by every layer."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """The B segments (meshes, or clusters of one mesh) of a packed tensor with N rows.

    Lengths are kept on the host, so that choosing an implementation needs no device synchronisation in each layer.

    Attributes:
        ptr: offsets [B+1], int64, on the device of the data; `ptr[b]:ptr[b+1]` are the rows of segment b.
        lengths: rows of each segment, on the host; zero is allowed.
    """

    ptr: Int[Tensor, " Bp1"]
    lengths: tuple[int, ...]
    # Index tensors made on first use. A plain dict, because torch.compile cannot trace functools.cached_property.
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _joined: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_ptr(cls, ptr: Int[Tensor, " Bp1"]) -> "Segments":
        """Read the lengths off offsets; this copies B+1 numbers to the host.

        Raises:
            ValueError: if `ptr` does not start at 0 or decreases.
        """
        offsets: list[int] = ptr.tolist()
        lengths = tuple(end - start for start, end in itertools.pairwise(offsets))
        if not offsets or offsets[0] != 0 or min(lengths, default=0) < 0:
            raise ValueError(f"`ptr` must start at 0 and never decrease, got {_short(offsets)}")
        return cls(ptr.long(), lengths)

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> "Segments":
        """Build from the number of rows of each segment."""
        if min(lengths, default=0) < 0:
            raise ValueError(f"`lengths` must not be negative, got {_short(list(lengths))}")
        ptr = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        ptr[1:] = torch.tensor(list(lengths), dtype=torch.int64).cumsum(0)
        return cls(ptr.to(device), tuple(int(length) for length in lengths))

    @property
    def num_segments(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def num_rows(self) -> int:
        """N, the rows of all segments together."""
        return sum(self.lengths)

    @property
    def max_length(self) -> int:
        """Rows of the longest segment."""
        return max(self.lengths, default=0)

    @property
    def is_uniform(self) -> bool:
        """Whether all segments have the same length, so that packed is dense."""
        return len(set(self.lengths)) <= 1

    @property
    def slices(self) -> tuple[slice, ...]:
        """The rows of each segment."""
        ends = [0, *itertools.accumulate(self.lengths)]
        return tuple(slice(start, end) for start, end in itertools.pairwise(ends))

    @property
    def batch(self) -> Int[Tensor, " N"]:
        """The segment of each row."""
        if "batch" not in self._cache:
            ids = torch.arange(self.num_segments, device=self.ptr.device)
            lengths = self.ptr[1:] - self.ptr[:-1]
            self._cache["batch"] = torch.repeat_interleave(ids, lengths, output_size=self.num_rows)
        return self._cache["batch"]

    @property
    def padding(self) -> Bool[Tensor, "B L"]:
        """True where a slot of the padded form holds no row."""
        if "padding" not in self._cache:
            slots = torch.arange(self.max_length, device=self.ptr.device)
            self._cache["padding"] = slots >= (self.ptr[1:] - self.ptr[:-1])[:, None]
        return self._cache["padding"]

    @property
    def row_slots(self) -> Int[Tensor, " N"]:
        """For each packed row its slot in the flattened padded form [B·L]."""
        if "slots" not in self._cache:
            within = torch.arange(self.num_rows, device=self.ptr.device) - self.ptr[self.batch]
            self._cache["slots"] = self.batch * self.max_length + within
        return self._cache["slots"]

    def to(self, device: torch.device | str) -> "Segments":
        """The same segments with `ptr` on another device."""
        return Segments(self.ptr.to(device), self.lengths)

    def interleave(self, other: "Segments") -> tuple["Segments", Int[Tensor, " N"], Int[Tensor, " No"]]:
        """Join two packings segment by segment: in each segment first my rows, then the rows of the other.

        Returns:
            The joint segments, and the place in them of each of my rows and of each row of the other.

        Raises:
            ValueError: if the numbers of segments differ.
        """
        if other.num_segments != self.num_segments:
            raise ValueError(
                f"the two packings must have the same number of segments, got {self.num_segments} and "
                f"{other.num_segments}"
            )
        # Every layer joins the same two packings, so the answer is kept with the one asked last.
        if self._joined.get("other") is not other:
            lengths = tuple(mine + theirs for mine, theirs in zip(self.lengths, other.lengths, strict=True))
            mine = torch.arange(self.num_rows, device=self.ptr.device) + other.ptr[self.batch]
            theirs = torch.arange(other.num_rows, device=self.ptr.device) + self.ptr[other.batch + 1]
            self._joined.update(other=other, answer=(Segments(self.ptr + other.ptr, lengths), mine, theirs))
        return self._joined["answer"]


def _short(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:8]))}, …]"
