"""Ragged meshes as a few dense batches: meshes of similar length share one, so that little of it is padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .rows import take
from .segments import Segments

# All meshes form one batch while at most this multiple of N is computed: padding costs its share of the arithmetic,
# further batches cost launches.
_MAX_PADDING = 1.5
# Otherwise a mesh joins the batch of a longer one of at most this multiple of its length.
_MAX_RATIO = 1.25
# Rows above which a mesh is a batch of its own on the CPU: there, copying so many costs more than a call.
_LONGEST_SHARED = 256
# Attention on a GPU wants its masks aligned.
_GPU_ALIGNMENT = 16


@dataclass(frozen=True, eq=False)
class Buckets:
    """Batches of meshes, and how rows and meshes get into them and back.

    Meshes with a batch of their own come first, in their order, as views of the packed tensor; then the batches that
    meshes share, from the longest to the shortest. The number of these grows with the logarithm of longest over
    shortest.

    Attributes:
        shapes: meshes and slots a mesh (B_i, L_i) of each batch.
        padding: for each batch, True where a slot holds no row; None where every slot holds one.
        runs: rows of the packing before the first mesh with a batch of its own, of this mesh, between it and the second
            one, of that, and so on to the rows behind the last; empty if there is no such mesh.
        slots: for each row of the other meshes, its slot in the shared batches laid end to end; None where these rows,
            as they are packed, are the batch.
        order: the meshes in the order of the batches, without the empty ones; None for the order that they have.
        places: for each mesh its place in that order, empty ones last; None likewise.
    """

    shapes: tuple[tuple[int, int], ...]
    padding: tuple[Bool[Tensor, "_ _"] | None, ...]
    runs: tuple[int, ...] = ()
    slots: Int[Tensor, " _"] | None = None
    order: Int[Tensor, " _"] | None = None
    places: Int[Tensor, " B"] | None = None

    @classmethod
    def of(cls, segments: Segments) -> "Buckets":
        """The batches for these segments, made at the first call and remembered as long as the segments live."""
        if segments.is_uniform:
            return cls(((segments.num_segments, segments.width),), (None,))
        if torch.compiler.is_compiling():
            # Which meshes share a batch would be built into the graph, and few other batches of meshes would fit it.
            return _grouped(segments, longest_shared=0) if _is_lopsided(segments) else _together(segments)
        if segments not in _known:
            longest = max(segments.lengths)
            longest_shared = _LONGEST_SHARED if segments.ptr.device.type == "cpu" else longest
            grouped = longest > longest_shared or _is_lopsided(segments)
            _known[segments] = _grouped(segments, longest_shared) if grouped else _together(segments)
        return _known[segments]

    def split_rows(self, x: Float[Tensor, "N ..."]) -> list[Float[Tensor, "_ _ ..."]]:
        """The rows of each batch, zeros in its padding."""
        # `split` and not slices: the gradient of every slice would be a tensor of N rows.
        stretches = x.split(self.runs) if self.runs else (x,)
        parts = list(stretches[1::2])
        sizes = [meshes * width for meshes, width in self.shapes[len(parts) :]]
        if sizes:
            shared = _cat(stretches[::2])
            if self.slots is not None:
                # In place, unlike `rows.place`: these are the largest copies that are made here.
                shared = shared.new_zeros(sum(sizes), *x.shape[1:]).index_copy_(0, self.slots, shared)
            parts += shared.split(sizes)
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def join_rows(self, parts: list[Float[Tensor, "_ _ ..."]]) -> Float[Tensor, "N ..."]:
        """The rows of all batches, packed; what is in the padding is dropped."""
        flat = [part.flatten(0, 1) for part in parts]
        num_alone = len(self.runs) // 2
        alone, shared = flat[:num_alone], flat[num_alone:]
        if not shared:
            return _cat(alone)
        rows = _cat(shared)
        if self.slots is not None:
            rows = take(rows, self.slots)
        if not alone:
            return rows
        first, *others = rows.split(self.runs[::2])
        return _cat([first, *(x for pair in zip(alone, others, strict=True) for x in pair)])

    def split_meshes(self, x: Float[Tensor, "B ..."]) -> list[Float[Tensor, "_ ..."]]:
        """What belongs to the meshes of each batch."""
        if self.order is not None:
            x = take(x, self.order)
        return list(x.split([meshes for meshes, _ in self.shapes]))

    def join_meshes(self, parts: list[Float[Tensor, "_ ..."]]) -> Float[Tensor, "B ..."]:
        """What belongs to each mesh, in the order of the packing; zeros for empty meshes."""
        if self.order is None or self.places is None:
            return _cat(parts)
        num_empty = self.places.shape[0] - self.order.shape[0]
        return take(_cat([*parts, parts[0].new_zeros(num_empty, *parts[0].shape[1:])]), self.places)


_known: WeakKeyDictionary[Segments, Buckets] = WeakKeyDictionary()


def _is_lopsided(segments: Segments) -> bool:
    """Whether one batch of all meshes would be too much padding."""
    return segments.num_segments * segments.width > _MAX_PADDING * segments.num_rows


def _together(segments: Segments) -> Buckets:
    shape = (segments.num_segments, segments.width)
    return Buckets((shape,), (segments.padding,), slots=segments.row_slots)


def _grouped(segments: Segments, longest_shared: int) -> Buckets:
    """A batch for each mesh above a length, and for each group of similar ones below."""
    lengths, device = segments.lengths, segments.ptr.device
    alone = [mesh for mesh, length in enumerate(lengths) if length > longest_shared]
    groups = _groups(segments, longest_shared)
    shapes = [(1, lengths[mesh]) for mesh in alone]
    padding: list[Tensor | None] = [None for _ in alone]
    first_slot, used = [0 for _ in lengths], 0
    for group in groups:
        rows = [lengths[mesh] for mesh in group]
        is_full = rows[0] == rows[-1]
        width = rows[0] if is_full else _aligned(rows[0], device)
        shapes.append((len(group), width))
        ends = torch.tensor(rows, device=device)[:, None]
        padding.append(None if is_full else torch.arange(width, device=device) >= ends)
        for mesh in group:
            first_slot[mesh] = used
            used += width
    runs = _runs(segments, alone)
    slots = None
    if groups:
        offsets = torch.tensor(first_slot, device=device) - segments.ptr[:-1]
        slots = torch.arange(segments.num_rows, device=device) + offsets[segments.batch]
        slots = _cat(slots.split(runs)[::2]) if runs else slots
    order = [*alone, *(mesh for group in groups for mesh in group)]
    everything = [*order, *(mesh for mesh, length in enumerate(lengths) if length == 0)]
    places = [0 for _ in lengths]
    for place, mesh in enumerate(everything):
        places[mesh] = place
    indices = torch.tensor(order, device=device), torch.tensor(places, device=device)
    return Buckets(tuple(shapes), tuple(padding), runs, slots, *indices)


def _groups(segments: Segments, longest: int) -> list[list[int]]:
    """Meshes up to a length, sorted from the longest to the shortest and cut where lengths differ too much."""
    lengths, device = segments.lengths, segments.ptr.device
    groups: list[list[int]] = []
    meshes = [mesh for mesh, length in enumerate(lengths) if 0 < length <= longest]
    for mesh in sorted(meshes, key=lambda mesh: -lengths[mesh]):
        length = _aligned(lengths[mesh], device)
        if groups and _aligned(lengths[groups[-1][0]], device) <= _MAX_RATIO * length:
            groups[-1].append(mesh)
        else:
            groups.append([mesh])
    return groups


def _aligned(length: int, device: torch.device) -> int:
    alignment = 1 if device.type == "cpu" else _GPU_ALIGNMENT
    return -(-length // alignment) * alignment


def _runs(segments: Segments, alone: list[int]) -> tuple[int, ...]:
    runs, end, slices = [], 0, segments.slices
    for rows in (slices[mesh] for mesh in alone):
        runs += [rows.start - end, rows.stop - rows.start]
        end = rows.stop
    return (*runs, segments.num_rows - end) if alone else ()


def _cat(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat` that copies nothing where only one part holds anything."""
    full = [part for part in parts if part.shape[0]]
    return full[0] if len(full) == 1 else torch.cat(full)
