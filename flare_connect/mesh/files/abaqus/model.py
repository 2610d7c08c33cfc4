"""The whole mesh of an Abaqus deck: instances in their places, rows behind labels."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flare_connect.mesh.files.abaqus.scopes import Deck, Group, Scope, Surface, numbers_of
from flare_connect.mesh.files.abaqus.types import NODE_ORDER
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.labels import Labels

_MOST_NODES = 10**7  # a deck of a few lines may place a part any number of times


class Place(NamedTuple):
    """An instance, or the model outside of parts.

    Attributes:
        name: its name, empty for the model.
        groups: ("node" or "cell", name in capitals) → set.
        surfaces: name in capitals → surface.
        labels: "node" or "cell" → rows of its own labels.
        start: "node" or "cell" → where these rows start in the whole mesh.
    """

    name: str
    groups: dict[tuple[str, str], Group]
    surfaces: dict[str, Surface]
    labels: dict[str, Labels]
    start: dict[str, int]


class Model:
    """The mesh of a deck.

    Attributes:
        points: positions `[N, 3]`.
        cells: kind → nodes `[n, k]`.
        first: kind → number of its first cell.
        cell: cell of the mesh of each element `[E]`, elements in the order of the file.
        shell: whether a cell is itself a face `[E]`.
        places: name in capitals → instance; the model itself under "".
    """

    def __init__(self, deck: Deck):
        self.places: dict[str, Place] = {}
        points, blocks = [], []
        num_nodes = num_elements = 0
        for name, scopes in _placed(deck):
            nodes, found = _nodes(scopes)
            points.append(_moved(found, scopes[-1]))
            numbers = [np.zeros(0, dtype=np.int64)]
            for block in (block for scope in scopes for block in scope.elements):
                table = nodes.nodes(block.labels, block.nodes) + num_nodes
                order = NODE_ORDER.get(block.kind, list(range(table.shape[1])))
                blocks.append((block.kind, block.shell, table[:, order]))
                numbers.append(block.labels)
            elements = np.concatenate(numbers)
            self.places[name.upper()] = Place(
                name,
                {key: group for scope in scopes for key, group in scope.groups.items()},
                {key: surface for scope in scopes for key, surface in scope.surfaces.items()},
                {"node": nodes, "cell": Labels(elements)},
                {"node": num_nodes, "cell": num_elements},
            )
            num_nodes, num_elements = num_nodes + len(found), num_elements + len(elements)
        self.points = np.concatenate(points)
        kinds = dict.fromkeys(kind for kind, _, table in blocks if len(table))
        self.cells = {kind: np.concatenate([table for k, _, table in blocks if k == kind]) for kind in kinds}
        self.first = dict(zip(kinds, np.cumsum([0, *map(len, self.cells.values())]).tolist(), strict=False))
        ends = np.cumsum([0, *(len(table) for *_, table in blocks)]).tolist()
        spans = [(kind, shell, slice(*span)) for (kind, shell, _), span in zip(blocks, pairwise(ends), strict=True)]
        numbered = np.arange(num_elements)
        order_of_file = [numbered[span] for kind in kinds for k, _, span in spans if k == kind]
        self.cell = np.empty(num_elements, dtype=np.int64)
        self.cell[np.concatenate([numbered[:0], *order_of_file])] = numbered
        self.shell = np.zeros(num_elements, dtype=bool)
        for _, shell, span in spans:
            self.shell[self.cell[span]] = shell


def _placed(deck: Deck) -> list[tuple[str, list[Scope]]]:
    """The scopes that make up each instance, and the model itself; parts are placed once if there is no instance."""
    out: list[tuple[str, list[Scope]]] = []
    if not deck.instances:
        out = [(part.name, [part]) for part in deck.parts.values()]
    for instance in deck.instances:
        part = deck.parts.get(instance.part.upper())
        if part is None and instance.part:
            raise FailedError(f"instance {instance.name!r} is of part {instance.part!r}, which is not defined")
        out.append((instance.name, [instance] if part is None else [part, instance]))
    out.append(("", [deck.model]))
    given = sum(_count(scope) for scope in (*deck.parts.values(), *deck.instances, deck.model))
    total = sum(_count(scope) for _, scopes in out for scope in scopes)
    if total > _MOST_NODES + 20 * given:
        raise FailedError(f"its instances have {total} nodes and elements out of {given}; is the file damaged?")
    if len({name.upper() for name, _ in out}) < len(out):
        raise FailedError("two of its instances have one name")
    return out


def _count(scope: Scope) -> int:
    return sum(len(labels) for labels, _ in scope.nodes) + sum(len(block.labels) for block in scope.elements)


def _nodes(scopes: list[Scope]) -> tuple[Labels, np.ndarray]:
    """Labels and positions `[n, 3]`; a node that is given again counts once, where it was given last."""
    tables = [table for scope in scopes for table in scope.nodes]
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(table[0] for table in tables)])
    points = np.concatenate([np.zeros((0, 3)), *(table[1] for table in tables)])
    last = Labels(labels).rows(labels) == np.arange(len(labels))
    return Labels(labels[last]), points[last]


def _moved(points: np.ndarray, instance: Scope) -> np.ndarray:
    """Moved along the first data line of `*INSTANCE`, then turned about the axis and by the degrees of the second."""
    where = f"*INSTANCE, NAME={instance.name}"
    if instance.moves:
        points = points + np.array(numbers_of([*instance.moves[0], "", ""][:3], where))
    if len(instance.moves) > 1:
        *ends, degrees = numbers_of([*instance.moves[1], *[""] * 6][:7], where)
        start, axis = np.array(ends[:3]), np.array(ends[3:]) - np.array(ends[:3])
        length = float(np.linalg.norm(axis))
        if not length > 0:
            raise FailedError(f"{where} is turned about an axis of length {length}; give two points of the axis")
        axis, angle, arm = axis / length, np.deg2rad(degrees), points - start
        along = (arm @ axis)[:, None] * axis
        points = start + along + np.cos(angle) * (arm - along) + np.sin(angle) * np.cross(axis, arm)
    return points
