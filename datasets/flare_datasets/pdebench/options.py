"""How a file is read: strides, shares of the splits, what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Strides, split and strictness; the meaning of each is in `open_pdebench`."""

    reduced_resolution: int = 1
    reduced_resolution_t: int = 1
    reduced_batch: int = 1
    test_ratio: float = 0.1
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        for name in ("reduced_resolution", "reduced_resolution_t", "reduced_batch"):
            check_integer(name, getattr(self, name), 1)
        check_number("test_ratio", self.test_ratio, 0.0, 1.0)
        if not isinstance(self.allow_nonfinite, bool):
            raise ConfigError(f"`allow_nonfinite` must be true or false, got {self.allow_nonfinite!r}")

    def check_against(self, shape: Sequence[int], num_frames: int, num_samples: int) -> None:
        """Refuse strides that leave less than two points, a second frame or a single sample.

        Raises:
            ConfigError: a stride is too large for the file; the message gives both sizes.
        """
        _check_stride("reduced_resolution", self.reduced_resolution, min(shape), "points along an axis")
        _check_stride("reduced_resolution_t", self.reduced_resolution_t, num_frames, "frames")
        _check_stride("reduced_batch", self.reduced_batch, num_samples, "samples")


def _check_stride(name: str, stride: int, size: int, of: str) -> None:
    if stride > 1 and stride >= size:
        raise ConfigError(f"`{name}` must be below {size}, since there are {size} {of}, got {stride}")


def split_range(name: Any, count: int, test_ratio: float, test_first: bool) -> range:
    """Samples of a split: the test samples are the first of a file, or the last; the others train.

    Raises:
        ConfigError: there is no such split, or it is empty.
    """
    if name not in ("train", "val", "test"):
        raise ConfigError(f"`split` must be 'train', 'val' or 'test', got {name!r}")
    held_out = int(count * test_ratio + 1e-9)  # 0.1 is a little above a tenth, other shares a little below
    if name == "train":
        chosen = range(held_out, count) if test_first else range(count - held_out)
    else:
        chosen = range(held_out) if test_first else range(count - held_out, count)
    if not chosen:
        raise ConfigError(
            f"the split {name!r} of {count} samples is empty with `test_ratio={test_ratio:g}`: choose another share, "
            "or a file of more samples"
        )
    return chosen
