"""Fields of a Gmsh file at one of its times."""

import warnings
from collections.abc import Iterator

import numpy as np

from flare_connect.mesh.files.assemble import SET_PREFIX
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.gmsh.numbers import Rows
from flare_connect.mesh.files.gmsh.sections import Content, View
from flare_connect.mesh.files.gmsh.types import GMSH_ORDER

_STACK = 7  # from a warning here to who called `load_mesh`


class Fields:
    """The fields at one step, brought to the nodes and cells of the mesh.

    Args:
        content: the file.
        nodes: rows of the nodes by number.
        cells: kind → rows of nodes `[n, k]`.
        row: element, counted through the file → cell, counted through the mesh.
        step: which of the times, as in a list.
        allow_nonfinite: where a field misses nodes or cells it is NaN; otherwise the field is left out with a warning.

    Raises:
        FailedError: there is no such step.
    """

    def __init__(
        self,
        content: Content,
        nodes: Rows,
        cells: dict[str, np.ndarray],
        row: np.ndarray,
        step: int,
        allow_nonfinite: bool,
    ):
        self.content, self.nodes, self.cells, self.row = content, nodes, cells, row
        self.allow_nonfinite = allow_nonfinite
        self.times: list[float] = []
        self.views = self._at(step)
        self._used: np.ndarray | None = None
        self._elements: Rows | None = None

    def point_data(self) -> dict[str, np.ndarray]:
        """Field → values `[N]` or `[N, c]`: those given on nodes, and means of those at corners of elements."""
        fields: dict[str, np.ndarray] = {}
        for name, parts in self._by_name("NodeData"):
            blocks = [(self.nodes.find(tags), values) for view in parts for tags, values in view.blocks]
            found = np.zeros(self.nodes.count, dtype=bool)
            for rows, _ in blocks:
                found[rows[rows >= 0]] = True
            if self._covers(name, found):
                values = np.full((len(found), parts[0].components), self._missing(name))
                for rows, block in blocks:
                    known = rows >= 0  # there may be values of parts that were not saved
                    values[rows[known]] = block[known]
                fields[name] = _flat(values)
        for name, parts in self._by_name("ElementNodeData"):
            found = np.zeros(self.nodes.count, dtype=bool)
            corners = list(self._corners(name, parts))
            for at, _ in corners:
                found[at] = True
            if self._covers(name, found):
                values = _means(corners, len(found), parts[0].components)
                values[~found] = self._missing(name)
                fields[name if name not in fields else f"{name}:mean"] = _flat(values)
                warnings.warn(
                    f"field {name!r} has values at the corners of each element; their mean at each node was taken",
                    stacklevel=_STACK - 1,
                )
        return fields

    def cell_data(self) -> dict[str, dict[str, np.ndarray]]:
        """Field → kind → values `[n]` or `[n, c]`, on the kinds that have it."""
        fields: dict[str, dict[str, np.ndarray]] = {}
        for name, parts in self._by_name("ElementData"):
            blocks = [(self._cells_of(tags), values) for view in parts for tags, values in view.blocks]
            is_set, start = name.startswith(SET_PREFIX), 0
            for kind, nodes in self.cells.items():
                local = [(rows - start, (rows >= start) & (rows < start + len(nodes)), v) for rows, v in blocks]
                found = np.zeros(len(nodes), dtype=bool)
                for rows, inside, _ in local:
                    found[rows[inside]] = True
                start += len(nodes)
                if not found.any() and not is_set:
                    continue
                if not (found.all() or self.allow_nonfinite or is_set):
                    lacking = f"{int((~found).sum())} of {len(found)} have no value"
                    warnings.warn(f"cell field {name!r} left out on {kind!r}: {lacking}", stacklevel=_STACK - 1)
                    continue
                out = np.full((len(found), parts[0].components), self._missing(name))
                for rows, inside, values in local:
                    out[rows[inside]] = values[inside]
                fields.setdefault(name, {})[kind] = _flat(out)
        return fields

    def _at(self, step: int) -> list[View]:
        steps: dict[tuple[str, str], set[tuple[int, float]]] = {}
        for view in self.content.views:
            steps.setdefault((view.section, view.name), set()).add((view.step, view.time))
        # what is given once (a material, a set) is no step of its own beside a series
        series = [found for found in steps.values() if len(found) > 1] or list(steps.values())
        every = sorted(set().union(*series))
        if not every:
            return []
        if not -len(every) <= step < len(every):
            raise FailedError(f"there is no step {step}; the file has {len(every)}")
        if len(every) > 1 or every[0][1]:
            self.times = [time for _, time in every]
        now = every[step]

        def belongs(view: View) -> bool:
            own = (view.step, view.time)
            return own == now or (own < now and len(steps[view.section, view.name]) == 1)

        return [view for view in self.content.views if belongs(view)]

    def _by_name(self, section: str) -> Iterator[tuple[str, list[View]]]:
        """Fields, each in parts: one of a mesh that is cut into partitions may come in several."""
        parts_of: dict[str, list[View]] = {}
        for view in self.views:
            if view.section == section:
                parts_of.setdefault(view.name, []).append(view)
        for name, parts in parts_of.items():
            if len({view.components for view in parts}) > 1:
                raise FailedError(f"gives field {name!r} with different numbers of components")
            yield name, parts

    def _missing(self, name: str) -> float:
        # without NaN only nodes that no cell uses lack a value, on which none can be of use
        return np.nan if self.allow_nonfinite and not name.startswith(SET_PREFIX) else 0.0

    def _covers(self, name: str, found: np.ndarray) -> bool:
        """Whether a field has values where they are needed; warns if not."""
        if found.all() or self.allow_nonfinite or name.startswith(SET_PREFIX):
            return True
        if self._used is None:
            self._used = np.zeros(self.nodes.count, dtype=bool)
            for nodes in self.cells.values():
                self._used[nodes.reshape(-1)] = True
        missing = int((self._used & ~found).sum())
        if missing:
            text = f"field {name!r} left out: {missing} nodes have no value; allow_nonfinite=True fills in NaN"
            warnings.warn(text, stacklevel=_STACK)
        return not missing

    def _corners(self, name: str, views: list[View]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of nodes `[m]` and values there `[m, c]`, once for each cell around a node."""
        for view in views:
            for tags, values in view.blocks:
                cells, start, corners = self._cells_of(tags), 0, values.shape[1]
                for kind, nodes in self.cells.items():
                    here = (cells >= start) & (cells < start + len(nodes))
                    if here.any():
                        if corners > nodes.shape[1]:
                            raise FailedError(f"gives field {name!r} at {corners} nodes of a {kind}")
                        order = np.argsort(GMSH_ORDER.get(kind, range(nodes.shape[1])))[:corners]
                        at = nodes[cells[here] - start][:, order]
                        yield at.reshape(-1), values[here].reshape(-1, view.components)
                    start += len(nodes)

    def _cells_of(self, tags: np.ndarray) -> np.ndarray:
        """Cells with these numbers; -1 for numbers that no cell has."""
        if self._elements is None:
            self._elements = Rows(np.concatenate([block.tags for block in self.content.elements]))
        found = self._elements.find(tags)
        return np.where(found >= 0, self.row[found], -1)


def _means(corners: list[tuple[np.ndarray, np.ndarray]], num_nodes: int, components: int) -> np.ndarray:
    """Mean of all values at each node `[N, c]`, 0 where there are none."""
    total, times = np.zeros((num_nodes, components)), np.zeros(num_nodes)
    for at, values in corners:
        times += np.bincount(at, minlength=num_nodes)
        for i in range(components):
            total[:, i] += np.bincount(at, values[:, i], minlength=num_nodes)
    return total / np.maximum(times, 1)[:, None]


def _flat(values: np.ndarray) -> np.ndarray:
    return values[:, 0] if values.shape[1] == 1 else values
