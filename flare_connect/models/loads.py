"""Which columns of a model's inputs are loads, in which its outputs are linear, and which are not."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .boundary import num_boundary_values, num_harmonic_features, num_potentials
from .config import FlareConnectConfig
from .features import num_node_features, num_projections, num_standardised_features


@dataclass(frozen=True)
class LoadColumns:
    """Columns of the node features and of the per-mesh numbers.

    Attributes:
        nodes: node features that are loads.
        meshes: per-mesh numbers that are.
        other_nodes: node features that are not.
        other_meshes: per-mesh numbers that are not.
    """

    nodes: list[int]
    meshes: list[int]
    other_nodes: list[int]
    other_meshes: list[int]

    @property
    def count(self) -> int:
        """L, loads at each node."""
        return len(self.nodes) + len(self.meshes)

    def split(self, x: Float[Tensor, "N F"], condition: Float[Tensor, "B G"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Node features and per-mesh numbers that are no loads, then those that are."""
        return (
            _taken(x, self.other_nodes), _taken(condition, self.other_meshes),
            _taken(x, self.nodes), _taken(condition, self.meshes),
        )  # fmt: skip


def load_columns(config: FlareConnectConfig) -> LoadColumns:
    """Of what `build_graph` makes for this model; nothing is a load if the configuration names none."""
    loads = set(config.loads)
    parts: list[tuple[bool | None, int]] = [(False, num_node_features(config) - num_standardised_features(config))]
    parts += [(name in loads, num_projections(config, name)) for name in config.directional]
    given = {role.condition for role in config.roles if role.condition}
    parts.append((bool(given & loads), num_boundary_values(config)))
    spread = bool(given & loads) or config.harmonic in loads
    potentials = num_potentials(config)
    parts.append((spread, potentials * (1 + config.dim)))
    # The logarithm of a gradient does not add up: nothing of a linear answer may follow it.
    parts.append((None if spread and config.response == "linear" else False, potentials))
    parts.append((False, num_harmonic_features(config) - potentials * (2 + config.dim)))
    parts += [(name in loads, width) for name, width in config.inputs.items()]
    of_nodes = [is_load for is_load, width in parts for _ in range(width)]
    of_meshes = [name in loads for name, width in config.conditions.items() for _ in range(width)] + [False]
    return LoadColumns(
        nodes=_where(of_nodes, True),
        meshes=_where(of_meshes, True),
        other_nodes=_where(of_nodes, False),
        other_meshes=_where(of_meshes, False),
    )


def _where(kinds: Sequence[bool | None], wanted: bool) -> list[int]:
    return [i for i, kind in enumerate(kinds) if kind is wanted]


def _taken(x: Tensor, columns: list[int]) -> Tensor:
    """Columns by slices: a list of numbers would have to be sent to the device in each call."""
    runs: list[list[int]] = []
    for column in columns:
        if runs and runs[-1][1] == column:
            runs[-1][1] += 1
        else:
            runs.append([column, column + 1])
    return torch.cat([x[:, :0], *(x[:, first:last] for first, last in runs)], dim=1)
