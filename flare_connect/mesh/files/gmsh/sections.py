"""The sections of a Gmsh file (msh 2 and 4, text and binary) as plain arrays; what they mean together is `gmsh.py`'s.

The format: Gmsh Reference Manual, "MSH file format" (4.1), and its "Legacy formats" (2.2, 4.0).
"""

import re
from dataclasses import dataclass, field

import numpy as np

from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.gmsh.numbers import Binary, Numbers, Text
from flare_connect.mesh.files.gmsh.types import kind_of

_MAX_COMPONENTS = 64  # Gmsh itself knows 1, 3 and 9


@dataclass
class Elements:
    """Elements of one type, in the order of the file.

    Args:
        kind: kind of cell.
        tags: numbers of the elements `[n]`.
        nodes: numbers of their nodes in Gmsh's order `[n, k]`.
        entity: number of the entity that each is on `[n]`.
        physical: number of the physical group of each `[n]` in msh 2; 0 where there is none, or entities have groups.
    """

    kind: str
    tags: np.ndarray
    nodes: np.ndarray
    entity: np.ndarray
    physical: np.ndarray


@dataclass
class View:
    """Values of a field at one time: `blocks` pairs numbers `[n]` with values `[n, c]`, or `[n, nodes, c]`."""

    section: str
    name: str
    step: int
    time: float
    components: int
    blocks: list[tuple[np.ndarray, np.ndarray]]


@dataclass
class Content:
    """All that was found in a file; numbers ("tags") are those of the file."""

    names: dict[tuple[int, int], str] = field(default_factory=dict)  # (dimension, physical group) → name
    groups: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # (dimension, entity) → physical groups
    node_tags: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)  # [n, 3]
    elements: list[Elements] = field(default_factory=list)
    pairs: list[np.ndarray] = field(default_factory=list)  # nodes of slaves and of masters [p, 2]
    views: list[View] = field(default_factory=list)
    num_meshes: int = 0  # Gmsh repeats the mesh with each field that it appends to a file


def read_sections(data: bytes) -> Content:
    """Takes a file apart.

    Raises:
        FailedError: it is no Gmsh file of a version known here, is damaged, or has elements that are not known.
    """
    return _Sections(data).read()


_VIEWS = ("NodeData", "ElementData", "ElementNodeData")
_START = re.compile(rb"^\$(\w+)[ \t\r]*\n", re.MULTILINE)


class _Sections:
    def __init__(self, data: bytes):
        self.data, self.content = data, Content()
        self.at = 0  # of the line, or the section, that is next
        self.version, self.order, self.size = 0.0, "", 8  # order of bytes: empty in a text file

    def read(self) -> Content:
        if not self.data.lstrip()[:1] == b"$":
            raise FailedError("is no Gmsh file: it does not begin with a section, such as $MeshFormat")
        readers = {
            "PhysicalNames": self._names,
            "Entities": self._entities,
            "PartitionedEntities": self._partitioned,
            "Nodes": self._nodes,
            "Elements": self._elements,
            "Periodic": self._periodic,
            **dict.fromkeys(_VIEWS, self._view),
        }
        while (start := _START.search(self.data, self.at)) is not None:
            name = start[1].decode("latin-1")
            self.at = start.end()
            if name == "MeshFormat":
                self._format()
            elif name in readers:
                if not self.version:
                    raise FailedError(f"is no Gmsh file: ${name} comes before $MeshFormat")
                readers[name](name)
            else:
                self.at = self._end_of(name)
            end = self._end_of(name)
            if self.data[self.at : end].strip():
                raise FailedError(f"is damaged: ${name} holds more than it announces")
            self.at = end + len(b"$End" + start[1])
        if not self.version:
            raise FailedError("is no Gmsh file: it has no $MeshFormat")
        return self.content

    def _end_of(self, name: str) -> int:
        end = self.data.find(b"$End" + name.encode("latin-1"), self.at)
        if end < 0:
            raise FailedError(f"is damaged or cut short: ${name} has no $End{name}")
        return end

    def _line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise FailedError("is cut short")
        line = self.data[self.at : end].strip()
        self.at = end + 1
        try:
            return line.decode()
        except UnicodeDecodeError:
            return line.decode("latin-1")

    def _number(self, name: str, what: type = int) -> int | float:
        line = self._line()
        try:
            found = what(line)
        except ValueError as error:
            raise FailedError(f"is damaged: ${name} has {line[:40]!r} where a number must be") from error
        if not abs(found) < 1e300:
            raise FailedError(f"is damaged: ${name} has the number {line[:40]}")
        return found

    def _numbers(self, name: str, dtype: type = np.float64, text: bool = False) -> Numbers:
        """The numbers from here on; those of a text file, all up to the section's end."""
        if self.order and not text:
            return Binary(name, self.data, self.at, self.order, self.size)
        end = self._end_of(name)
        body = self.data[self.at : end]
        self.at = end
        if name == "Periodic":  # before 4.1 the map between the sides stands on a line of its own, after this word
            body = re.sub(rb"Affine[^\n]*", b"", body)
        return Text(name, body, dtype)

    def _done(self, numbers: Numbers) -> None:
        if isinstance(numbers, Binary):
            self.at = numbers.at
        elif numbers.at < numbers.end:
            raise FailedError(f"is damaged: ${numbers.section} holds more than it announces")

    def _format(self) -> None:
        words = self._line().split()
        try:
            version, binary, self.size = float(words[0]), int(words[1]), int(words[2])
        except (ValueError, IndexError) as error:
            raise FailedError(f"is damaged: $MeshFormat is {' '.join(words)[:60]!r}") from error
        if not (2 <= version < 3 or version in (4.0, 4.1)):
            raise FailedError(f"is of msh version {words[0]}; known are 2.0 to 2.2, 4.0 and 4.1; save it as one")
        if binary not in (0, 1) or self.size not in (4, 8):
            raise FailedError(f"is damaged: $MeshFormat is {' '.join(words)[:60]!r}")
        self.version = version
        if binary:
            one = self.data[self.at : self.at + 4]
            orders = {b"\1\0\0\0": "<", b"\0\0\0\1": ">"}
            if one not in orders:
                raise FailedError("is damaged: the order of its bytes cannot be told")
            self.order = orders[one]
            self.at += 4

    def _names(self, name: str) -> None:
        for _ in range(int(self._number(name))):
            line = self._line()
            found = re.fullmatch(r'(\d)\s+(-?\d{1,18})\s+"(.*)"', line)
            if found is None:
                raise FailedError(f"is damaged: $PhysicalNames has the line {line[:60]!r}")
            self.content.names[int(found[1]), abs(int(found[2]))] = found[3]

    def _entities(self, name: str) -> None:
        numbers = self._numbers(name)
        for dim, count in enumerate(numbers.sizes(4)):
            for _ in range(count):
                (tag,) = numbers.ints(1)
                self._entity(numbers, dim, tag)
        self._done(numbers)

    def _partitioned(self, name: str) -> None:
        numbers = self._numbers(name)
        _, ghosts = numbers.sizes(2)
        numbers.table(ghosts, 2)
        for dim, count in enumerate(numbers.sizes(4)):
            for _ in range(count):
                tag, _, _ = numbers.ints(3)  # and its parent's dimension and number
                numbers.ints(*numbers.sizes(1))
                self._entity(numbers, dim, tag)
        self._done(numbers)

    def _entity(self, numbers: Numbers, dim: int, tag: int) -> None:
        numbers.floats(3 if dim == 0 and self.version > 4 else 6)
        # a negative number is a group on which the entity is turned round
        groups = [abs(group) for group in numbers.ints(*numbers.sizes(1))]
        if groups:
            self.content.groups[dim, tag] = groups
        if dim:
            numbers.ints(*numbers.sizes(1))

    def _nodes(self, name: str) -> None:
        if self.version < 3:
            count = int(self._number(name))
            numbers = self._numbers(name)
            tags, points = numbers.table(count, 1, 3)
            self._add_nodes(tags, points)
            self._done(numbers)
            return
        numbers = self._numbers(name)
        blocks = numbers.sizes(4 if self.version > 4 else 2)[0]
        for _ in range(blocks):
            first, second, parametric = numbers.ints(3)
            dim = first if self.version > 4 else second
            (count,) = numbers.sizes(1)
            width = 3 + (dim if parametric and 0 <= dim <= 3 else 0)
            if self.version > 4:
                tags = numbers.table(count, 1, kind="size")[0]
                points = numbers.table(count, 0, width)[1]
            else:
                tags, points = numbers.table(count, 1, width)
            self._add_nodes(tags, points[:, :3])
        self._done(numbers)

    def _add_nodes(self, tags: np.ndarray, points: np.ndarray) -> None:
        self.content.node_tags.append(tags.reshape(-1))
        self.content.points.append(points)

    def _elements(self, name: str) -> None:
        self.content.num_meshes += 1
        if self.version < 3:
            count = int(self._number(name))
            numbers = self._numbers(name, np.int64)
            self._flat_elements(numbers, count)
        else:
            numbers = self._numbers(name, np.int64)
            blocks = numbers.sizes(4 if self.version > 4 else 2)[0]
            for _ in range(blocks):
                first, second, number = numbers.ints(3)
                (count,) = numbers.sizes(1)
                kind, width = kind_of(number)
                table, _ = numbers.table(count, 1 + width, kind="size" if self.version > 4 else "int")
                entity = second if self.version > 4 else first
                # one number for all, without a copy for each
                entities, none = (np.broadcast_to(np.int64(value), len(table)) for value in (entity, 0))
                self.content.elements.append(Elements(kind, table[:, 0], table[:, 1:], entities, none))
        self._done(numbers)

    def _flat_elements(self, numbers: Numbers, count: int) -> None:
        """Elements of msh 2, of which each, or each few, may be of another type than the last."""
        while count > 0:
            # text: number of the element, type, how many tags; bytes: type, how many elements, how many tags
            first, second, num_tags = numbers.peek(3)
            kind, width = kind_of(first if self.order else second)
            together = second if self.order else 1
            if num_tags < 0 or not 0 <= together <= count:
                raise FailedError(f"is damaged: $Elements announces {together} elements of {num_tags} tags")
            if not self.order:
                table, _ = numbers.alike(count, 3 + num_tags + width, columns=[1, 2])
                tags, rest = table[:, 0], table[:, 3:]
            elif together == 1:  # as Gmsh writes all of them
                table, _ = numbers.alike(count, 4 + num_tags + width, columns=[0, 1, 2])
                tags, rest = table[:, 3], table[:, 4:]
            else:
                numbers.ints(3)
                table, _ = numbers.table(together, 1 + num_tags + width)
                tags, rest = table[:, 0], table[:, 1:]
            none = np.zeros(len(tags), dtype=np.int64)
            physical = np.abs(rest[:, 0]) if num_tags else none
            entity = rest[:, 1] if num_tags > 1 else none
            self.content.elements.append(Elements(kind, tags, rest[:, num_tags:], entity, physical))
            count -= len(tags)

    def _periodic(self, name: str) -> None:
        if self.version < 3:  # written out even in binary files
            numbers = self._numbers(name, text=True)
            links = numbers.ints(1)[0]
        else:
            numbers = self._numbers(name)
            links = numbers.sizes(1)[0]
        for _ in range(links):
            numbers.ints(3)
            if self.version > 4:
                numbers.floats(*numbers.sizes(1))
            (count,) = numbers.sizes(1)
            self.content.pairs.append(numbers.table(count, 2, kind="size" if self.version > 4 else "int")[0])
        self._done(numbers)

    def _view(self, name: str) -> None:
        strings = [self._line() for _ in range(int(self._number(name)))]
        reals = [float(self._number(name, float)) for _ in range(int(self._number(name)))]
        ints = [int(self._number(name)) for _ in range(int(self._number(name)))]
        if not strings or len(ints) < 3:
            raise FailedError(f"is damaged: ${name} lacks its name or its counts")
        step, components, count = ints[:3]
        if not 1 <= components <= _MAX_COMPONENTS:
            raise FailedError(f"is damaged: ${name} has {components} components; at most {_MAX_COMPONENTS} are read")
        title = strings[0]
        if len(title) > 1 and title[0] == title[-1] == '"':
            title = title[1:-1]
        view = View(name, title, step, reals[0] if reals else 0.0, components, [])
        numbers = self._numbers(name)
        if name == "ElementNodeData":
            while count > 0:
                _, corners = numbers.peek(2)
                tags, values = numbers.alike(count, 2, corners * components, columns=[1])
                view.blocks.append((tags[:, 0], values.reshape(len(tags), corners, components)))
                count -= len(tags)
        else:
            tags, values = numbers.table(count, 1, components)
            view.blocks.append((tags.reshape(-1), values))
        self._done(numbers)
        self.content.views.append(view)
