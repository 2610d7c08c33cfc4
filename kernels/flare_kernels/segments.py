"""Where each mesh starts and ends in a packed tensor, computed once a batch and reused by every layer."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

# Rows up to which a size of chunk is used.
_CHUNKS = ((2**16, 256), (2**20, 512), (2**23, 2048), (2**27, 8192))


@dataclass(frozen=True, eq=False)
class Segments:
    """The B segments (meshes, or clusters of one mesh) of a packed tensor with N rows.

    Sizes are kept on the host, so that choosing an implementation needs no device synchronisation in each layer, and
    as plain numbers, so that `torch.compile` takes them for variables and not for constants.

    Attributes:
        ptr: offsets [B+1], int64, on the device of the data; `ptr[b]:ptr[b+1]` are the rows of segment b.
        lengths: rows of each segment, on the host; zero is allowed.
        num_segments: B.
        num_rows: N, the rows of all segments together.
        is_uniform: whether all segments have the same length, so that packed is dense.
        width: L, slots a segment in the padded form [B, L]; a multiple of 16 unless the segments are uniform, because
            attention on a GPU wants its masks aligned.
        chunk: rows of the pieces that GPU programs take where lengths differ; larger for more rows, so that partial
            results stay small beside the data.
    """

    ptr: Int[Tensor, " Bp1"]
    lengths: tuple[int, ...]
    num_segments: int = field(init=False)
    num_rows: int = field(init=False)
    is_uniform: bool = field(init=False)
    width: int = field(init=False)
    chunk: int = field(init=False)
    # Index tensors made on first use. A plain dict, because torch.compile cannot trace functools.cached_property.
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Work out the sizes."""
        uniform = len(set(self.lengths)) <= 1
        longest = max(self.lengths) if self.lengths else 0
        sizes = {
            "num_segments": len(self.lengths),
            "num_rows": sum(self.lengths),
            "is_uniform": uniform,
            "width": longest if uniform else -(-longest // 16) * 16,
            "chunk": next((size for most, size in _CHUNKS if sum(self.lengths) <= most), _CHUNKS[-1][1]),
        }
        for name, value in sizes.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_ptr(cls, ptr: Int[Tensor, " Bp1"]) -> "Segments":
        """Read the lengths off offsets; this copies B+1 numbers to the host.

        Raises:
            ValueError: if `ptr` does not start at 0 or decreases.
        """
        offsets: list[int] = ptr.tolist()
        lengths = tuple(end - start for start, end in itertools.pairwise(offsets))
        if not offsets or offsets[0] != 0 or any(length < 0 for length in lengths):
            raise ValueError(f"`ptr` must start at 0 and never decrease, got {_short(offsets)}")
        return cls(ptr.long(), lengths)

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> "Segments":
        """Build from the number of rows of each segment."""
        if any(length < 0 for length in lengths):
            raise ValueError(f"`lengths` must not be negative, got {_short(list(lengths))}")
        ptr = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        ptr[1:] = torch.tensor(list(lengths), dtype=torch.int64).cumsum(0)
        return cls(ptr.to(device), tuple(int(length) for length in lengths))

    @classmethod
    def uniform(cls, num_segments: int, width: int, device: torch.device) -> "Segments":
        """Segments that are all equally long; made once for each size and device."""
        if torch.compiler.is_compiling():
            return cls.from_lengths([width] * num_segments, device)
        key = (num_segments, width, device)
        if key not in _uniform:
            if len(_uniform) >= _REMEMBERED:
                _uniform.clear()
            _uniform[key] = cls.from_lengths([width] * num_segments, device)
        return _uniform[key]

    @property
    def chunks(self) -> tuple[Int[Tensor, "K 3"], Int[Tensor, " Bp1"]]:
        """Pieces of at most `chunk` rows in one segment (segment, first row, rows); where a segment's pieces start.

        The table has a few more rows than there are pieces, all empty: its size follows from N and B.
        """
        if "chunks" not in self._cache:
            lengths = self.ptr[1:] - self.ptr[:-1]
            starts = torch.zeros_like(self.ptr)
            starts[1:] = torch.cumsum((lengths + self.chunk - 1) // self.chunk, 0)
            pieces = torch.arange(self.num_rows // self.chunk + self.num_segments, device=self.ptr.device)
            segment = (torch.searchsorted(starts, pieces, right=True) - 1).clamp(max=self.num_segments - 1)
            first = (pieces - starts[segment]) * self.chunk
            rows = (lengths[segment] - first).clamp(0, self.chunk)
            first = torch.where(rows > 0, self.ptr[segment] + first, 0)
            self._cache["chunks"] = torch.stack([segment, first, rows], 1)
            self._cache["chunk_starts"] = starts
        return self._cache["chunks"], self._cache["chunk_starts"]

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
            slots = torch.arange(self.width, device=self.ptr.device)
            self._cache["padding"] = slots >= (self.ptr[1:] - self.ptr[:-1])[:, None]
        return self._cache["padding"]

    @property
    def row_slots(self) -> Int[Tensor, " N"]:
        """For each packed row its slot in the flattened padded form [B·L]."""
        if "slots" not in self._cache:
            within = torch.arange(self.num_rows, device=self.ptr.device) - self.ptr[self.batch]
            self._cache["slots"] = self.batch * self.width + within
        return self._cache["slots"]

    def to(self, device: torch.device | str) -> "Segments":
        """The same segments with `ptr` on another device."""
        return Segments(self.ptr.to(device), self.lengths)

    def with_indices(self) -> "Segments":
        """Make the index tensors now: what is traced by `torch.compile` then only reads them. Returns itself."""
        if not self.is_uniform:
            _ = self.padding, self.row_slots, self.chunks
        if self.num_segments > 1:
            _ = self.batch
        return self

    def interleave(self, other: "Segments") -> "JointSegments":
        """Join two packings segment by segment: in each segment first my rows, then the rows of the other.

        Raises:
            ValueError: if the numbers of segments differ.
        """
        if other.num_segments != self.num_segments:
            raise ValueError(
                f"the two packings must have the same number of segments, got {self.num_segments} and "
                f"{other.num_segments}"
            )
        lengths = tuple(mine + theirs for mine, theirs in zip(self.lengths, other.lengths, strict=True))
        return JointSegments(
            Segments(self.ptr + other.ptr, lengths),
            torch.arange(self.num_rows, device=self.ptr.device) + other.ptr[self.batch],
            torch.arange(other.num_rows, device=self.ptr.device) + self.ptr[other.batch + 1],
            other,
        )


_uniform: dict[tuple[int, int, torch.device], Segments] = {}
_REMEMBERED = 256


@dataclass(frozen=True, eq=False)
class JointSegments:
    """Two packings joined segment by segment.

    Attributes:
        segments: of the joint packing.
        points: place in it of each row of the first packing.
        tokens: place in it of each row of the second.
        token_segments: of the second packing alone.
    """

    segments: Segments
    points: Int[Tensor, " N"]
    tokens: Int[Tensor, " Nt"]
    token_segments: Segments


def _short(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:8]))}, …]"


Ptr = Int[Tensor, " Bp1"] | Segments | None


def packed(
    k: Tensor, v: Tensor | None, log_weights: Tensor | None, ptr: Ptr
) -> tuple[Tensor, Tensor, Tensor | None, Segments, tuple[int, int] | None]:
    """Bring a dense batch into the packed form; returns its (B, N) so that the result can be given back dense."""
    if k.dim() == 4:
        if ptr is not None:
            raise ValueError("`ptr` describes the packed form [N, H, D]; leave it out with dense [B, N, H, D]")
        num_meshes, num_points = k.shape[:2]
        segments = Segments.uniform(num_meshes, num_points, k.device)
        flat = None if log_weights is None else log_weights.reshape(-1)
        return k.flatten(0, 1), k if v is None else v.flatten(0, 1), flat, segments, (num_meshes, num_points)
    if ptr is None:
        segments = Segments.uniform(1, k.shape[0], k.device)
    else:
        segments = ptr if isinstance(ptr, Segments) else Segments.from_ptr(ptr)
    return k, k if v is None else v, log_weights, segments, None
