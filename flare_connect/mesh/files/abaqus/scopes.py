"""An Abaqus deck sorted by what it belongs to: the model itself, its parts, the instances of the parts."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.abaqus.deck import (
    Keyword,
    count_elements,
    element_table,
    integers,
    keywords,
    lines_of,
    node_table,
)
from flare_connect.mesh.files.abaqus.types import kind_of
from flare_connect.mesh.files.failed import FailedError

# They make nodes and elements out of others, so that a mesh without them would be another one.
_MAKERS = ("NGEN", "NFILL", "NCOPY", "NMAP", "ELGEN", "ELCOPY", "SYMMETRIC MODEL GENERATION")


class Member(NamedTuple):
    """Something in a set: `labels [n]`, a range `(first, last, step)`, a name, or a name of elements whose nodes."""

    instance: str
    what: Literal["labels", "range", "name", "nodes of"]
    value: object


class Block(NamedTuple):
    """The elements of one `*ELEMENT`: our kind, labels `[n]`, labels of their nodes `[n, k]` in Abaqus' order."""

    kind: str
    shell: bool
    labels: np.ndarray
    nodes: np.ndarray


@dataclass
class Group:
    """A set of nodes or elements as it is written."""

    name: str
    members: list[Member] = field(default_factory=list)


class Surface(NamedTuple):
    """A surface as it is written: over nodes or over elements, its data lines."""

    name: str
    of: str
    lines: list[list[str]]


@dataclass
class Scope:
    """What has labels of its own: the model outside of parts, a part, or an instance of one.

    Attributes:
        name: name of the part or instance, empty for the model.
        part: name of the part that an instance is made of.
        moves: data lines of an instance: a translation, a rotation.
        nodes: labels `[n]` and positions `[n, 3]` of each `*NODE`.
        elements: the blocks of elements.
        groups: ("node" or "cell", name in capitals) → set.
        surfaces: name in capitals → surface.
    """

    name: str = ""
    part: str = ""
    moves: list[list[str]] = field(default_factory=list)
    nodes: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    elements: list[Block] = field(default_factory=list)
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    surfaces: dict[str, Surface] = field(default_factory=dict)

    def group(self, entity: str, name: str) -> Group:
        """The set of that name, a new one if there is none."""
        return self.groups.setdefault((entity, name.upper()), Group(name))


@dataclass
class Deck:
    """A deck: the model outside of parts, parts by name in capitals, instances, and how many elements were left out."""

    model: Scope = field(default_factory=Scope)
    parts: dict[str, Scope] = field(default_factory=dict)
    instances: list[Scope] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_deck(path: Path) -> Deck:
    """Sorts the keywords of a deck; of what follows the first `*STEP` only sets and surfaces count.

    Raises:
        FailedError: the deck is damaged, or makes nodes or elements in a way that is not known here.
    """
    deck, step = Deck(), False
    here, system = deck.model, None
    for keyword in keywords(path):
        name, options = keyword.name, keyword.options
        if name == "STEP":
            step = True
        elif name in ("PART", "INSTANCE"):
            here, system = Scope(options.get("NAME", ""), options.get("PART", "")), None
            if name == "PART":
                deck.parts[here.name.upper()] = here
            elif "LIBRARY" in options:
                raise FailedError(f"instance {here.name!r} comes from the results of another job")
            else:
                here.moves = lines_of(keyword.data)
                deck.instances.append(here)
        elif name in ("END PART", "END INSTANCE"):
            here, system = deck.model, None
        elif name in ("NSET", "ELSET"):
            _group(here, keyword)
        elif name == "SURFACE" and "COMBINE" not in options and "NAME" in options:
            found = Surface(options["NAME"], options.get("TYPE", "ELEMENT").upper(), lines_of(keyword.data))
            here.surfaces[found.name.upper()] = found
        elif name == "SYSTEM" and not step:
            system = _system(keyword)
        elif name in _MAKERS and not step:
            raise FailedError(f"*{name} makes nodes or elements and is not understood; write the deck without it")
        elif step or not keyword.data.strip():
            continue
        elif name == "NODE":
            _nodes(here, keyword, system)
        elif name == "ELEMENT":
            _elements(here, keyword, deck.left_out)
    return deck


def _nodes(scope: Scope, keyword: Keyword, system: tuple[np.ndarray, np.ndarray] | None) -> None:
    table = node_table(keyword.data)
    labels = table[:, 0].astype(np.int64)
    points = np.pad(table[:, 1:4], ((0, 0), (0, max(0, 4 - table.shape[1]))))
    kind = keyword.options.get("SYSTEM", "R").upper()
    if kind in ("C", "S"):
        radius, angle, third = points[:, 0], np.deg2rad(points[:, 1]), points[:, 2]
        if kind == "S":  # the third is the angle above the plane
            radius, third = radius * np.cos(np.deg2rad(third)), radius * np.sin(np.deg2rad(third))
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle), third], axis=1)
    if system is not None:
        points = system[0] + points @ system[1]
    scope.nodes.append((labels, points))
    if "NSET" in keyword.options:
        scope.group("node", keyword.options["NSET"]).members.append(Member("", "labels", labels))


def _elements(scope: Scope, keyword: Keyword, left_out: Counter[str]) -> None:
    name = keyword.options.get("TYPE", "").upper()
    found = kind_of(name)
    if found is None:
        left_out[name] += count_elements(keyword.data)
        return
    kind, shell = found
    # beams may name a node that gives the direction of their section
    table = element_table(keyword.data, CELL_KINDS[kind].num_nodes, name, spare=kind in ("line", "line3"))
    scope.elements.append(Block(kind, shell, table[:, 0], table[:, 1:]))
    if "ELSET" in keyword.options:
        scope.group("cell", keyword.options["ELSET"]).members.append(Member("", "labels", table[:, 0]))


def _group(scope: Scope, keyword: Keyword) -> None:
    options = keyword.options
    entity, name = ("node", options.get("NSET")) if keyword.name == "NSET" else ("cell", options.get("ELSET"))
    if not name:
        return
    group, instance = scope.group(entity, name), options.get("INSTANCE", "")
    if entity == "node" and "ELSET" in options:
        group.members.append(Member(instance, "nodes of", options["ELSET"]))
    numbers = integers(keyword.data)
    if "GENERATE" in options:
        for line in lines_of(keyword.data):
            words = [word for word in line if word]
            if not 2 <= len(words) <= 3 or not all(_integer(word) for word in words):
                raise FailedError(f"set {name!r} is generated from {', '.join(words)!r}; give first, last, step")
            first, last, *step = (int(word) for word in words)
            group.members.append(Member(instance, "range", (first, last, step[0] if step else 1)))
    elif numbers is not None:
        group.members.append(Member(instance, "labels", numbers))
    else:
        group.members += [member(word, instance) for line in lines_of(keyword.data) for word in line if word]


def member(word: str, instance: str = "") -> Member:
    """What a word in a set or surface means: a label or a name."""
    if _integer(word):
        return Member(instance, "labels", np.array([int(word)]))
    return Member(instance, "name", word)


def _integer(word: str) -> bool:
    return word.isascii() and word.lstrip("-").isdigit() and len(word) < 19


def _system(keyword: Keyword) -> tuple[np.ndarray, np.ndarray] | None:
    """Origin and axes `[3, 3]` of the system in which the following nodes are given; None for the usual one."""
    lines = lines_of(keyword.data)
    if not lines:
        return None
    values = numbers_of([*lines[0], *[""] * (6 - len(lines[0]))][:6], "*SYSTEM")
    values += numbers_of([*lines[1], "", "", ""][:3], "*SYSTEM") if len(lines) > 1 else []
    origin = np.array(values[:3])
    if not any(values[3:6]):
        return origin, np.eye(3)
    x = np.array(values[3:6]) - origin
    z = np.cross(x, np.array(values[6:]) - origin) if len(values) > 6 else np.array([0.0, 0.0, 1.0])
    axes = np.stack([x, np.cross(z, x), z])
    length = np.linalg.norm(axes, axis=1, keepdims=True)
    if not (length > 0).all():
        raise FailedError("the three points of *SYSTEM lie on a line; give an origin, a point on x, one in the plane")
    return origin, axes / length


def numbers_of(words: list[str], where: str) -> list[float]:
    """Words as numbers, blank ones as 0."""
    try:
        return [float(word or 0) for word in words]
    except ValueError as error:
        raise FailedError(f"{', '.join(words)[:60]!r} under {where} are no numbers") from error
