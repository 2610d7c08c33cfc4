"""What the settings of every generator have in common; needs neither gmsh nor torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from flare_connect.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Settings of a data set in splits.

    Fields are `num_<split>` for each split, `num_nodes`, `log_nodes`, `geometry_nodes` and `seed`.

    Attributes:
        splits: names of the splits, in the order of the file. A split's place in it seeds its samples: new ones go to
            the end.
        added: fields that came after files had been made. `parameters` leaves them out at their defaults, so that
            those files are still known.
    """

    splits: ClassVar[tuple[str, ...]]
    added: ClassVar[frozenset[str]] = frozenset()

    if TYPE_CHECKING:  # fields of the data sets, each in its own place
        num_nodes: int | tuple[int, int]
        seed: int
        log_nodes: bool
        geometry_nodes: int | tuple[int, int] | None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from JSON or YAML
                object.__setattr__(self, field.name, tuple(value))
        names = [f"num_{split}" for split in self.splits]
        for name in (*names, "seed"):
            check_integer(name, getattr(self, name), 0)
        if not isinstance(self.log_nodes, bool):
            raise ConfigError(f"`log_nodes` must be true or false, got {self.log_nodes!r}")
        _check_nodes("num_nodes", self.num_nodes)
        if self.geometry_nodes is not None:
            _check_nodes("geometry_nodes", self.geometry_nodes)
            if isinstance(self.num_nodes, tuple):
                raise ConfigError(
                    f"`num_nodes` must be one number where `geometry_nodes` is given, got {self.num_nodes}: make a "
                    "file for each size"
                )
        if self.num_samples == 0:
            listed = ", ".join(f"`{name}`" for name in names[:-1])
            raise ConfigError(f"{listed} and `{names[-1]}` are all 0: ask for one sample or more")

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each split, in the order of `splits` and of the file."""
        return tuple(getattr(self, f"num_{split}") for split in self.splits)

    @property
    def num_samples(self) -> int:
        """Samples of all splits together."""
        return sum(self.counts)

    @property
    def node_range(self) -> tuple[int, int]:
        """(least, most) mesh vertices that geometry is drawn for, and aimed at unless `geometry_nodes` is given."""
        nodes = self.num_nodes if self.geometry_nodes is None else self.geometry_nodes
        return (nodes, nodes) if isinstance(nodes, int) else nodes

    def draw_nodes(self, rng: np.random.Generator) -> tuple[int, int]:
        """Mesh vertices that the geometry of a sample is drawn for, and those aimed at."""
        least, most = self.node_range
        drawn = round(least * (most / least) ** rng.random()) if self.log_nodes else int(rng.integers(least, most + 1))
        if self.geometry_nodes is None or isinstance(self.num_nodes, tuple):
            return drawn, drawn
        return drawn, self.num_nodes

    def split_of(self, index: int) -> tuple[str, int]:
        """The split of sample `index`, and its place in that split.

        Raises:
            ConfigError: there is no such sample.
        """
        place = index
        for split, count in zip(self.splits, self.counts, strict=True):
            if 0 <= place < count:
                return split, place
            place -= count
        raise ConfigError(f"`index` must be in 0..{self.num_samples - 1}, got {index}")

    def seed_of(self, index: int, attempt: int) -> list[int]:
        """Entropy of a draw of sample `index`.

        It is numbered within its split: more training samples leave the test samples as they are.
        """
        split, place = self.split_of(index)
        return [self.seed, self.splits.index(split), place, attempt]

    def parameters(self) -> dict[str, Any]:
        """Every setting as plain JSON values, as kept in the data file; later additions only where they are in use."""
        default = {field.name: field.default for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in self.added or value != default[name]
        }


def _check_nodes(name: str, value: Any) -> None:
    if isinstance(value, tuple):
        check_range(name, value, 200, 200_000, integer=True)
    else:
        check_integer(name, value, 200, 200_000)


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise `ConfigError` unless `value` is a whole number in `low..high`."""
    bound = f"of {low} or more" if high is None else f"in {low}..{high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(f"`{name}` must be a whole number {bound}, got {value!r}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise `ConfigError` unless `value` is a number in `[low, high]`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN fails too
        raise ConfigError(f"`{name}` must be a number in [{low:g}, {high:g}], got {value!r}")


def check_range(
    name: str, value: Any, low: float, high: float, *, integer: bool = False, low_name: str | None = None
) -> None:
    """Raise `ConfigError` unless `value` is (least, most), both within `[low, high]`."""
    kinds = int if integer else int | float
    right = (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
        and low <= value[0] <= value[1] <= high
    )
    if not right:
        of = f" ({low_name})" if low_name else ""
        raise ConfigError(
            f"`{name}` must be (least, most) with {low:g}{of} <= least <= most <= {high:g}, got {value!r}"
        )
