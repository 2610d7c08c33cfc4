"""Gmsh files (msh 2.0 to 2.2, 4.0 and 4.1; text and binary): cells, physical groups, fields at one of many times.

Reading them here keeps what meshio loses: several groups of one cell, groups by name whatever the kind of cells, fields
on part of the mesh, time steps, periodic nodes.
"""

from pathlib import Path

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import assemble
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.gmsh.fields import Fields
from flare_connect.mesh.files.gmsh.numbers import Rows, joined
from flare_connect.mesh.files.gmsh.sections import Content, Elements, read_sections
from flare_connect.mesh.files.gmsh.types import GMSH_ORDER
from flare_connect.mesh.files.sides import free_name
from flare_connect.mesh.mesh import Mesh, NamedSet


def read_gmsh(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads the mesh and the fields of one time step.

    Nodes are in the order of the file, cells in the order of their numbers. Elements of lower dimension (boundary lines
    and faces) are cells too. A physical group is a set of cells under its name; one without a name is
    `physical_<dimension>_<number>`, and where groups of two dimensions share a name, but no number, the lower one is
    `<name>:<dimension>`. Where no cell is in a group the numbers of the entities are the cell field `gmsh:geometrical`.
    Values at the corners of elements ($ElementNodeData) are averaged at each node. A field that the file gives once
    belongs to that step and all later ones. Of a pair in `periodic_pairs` the first node is Gmsh's slave.

    Args:
        path: the file.
        step: which of the times in the file, as in a list.
        allow_nonfinite: accept NaN and infinite values; where a field misses nodes or cells it is then NaN, while
            otherwise such a field is left out with a warning.

    Raises:
        FailedError: the file is no Gmsh file, is damaged, or has elements that are not known here.
        MeshError: its arrays do not make a mesh.
    """
    return _Gmsh(read_sections(path.read_bytes()), allow_nonfinite).mesh(step)


class _Gmsh:
    def __init__(self, content: Content, allow_nonfinite: bool):
        self.content, self.allow_nonfinite = content, allow_nonfinite
        if not any(len(block.tags) for block in content.elements):
            raise FailedError(NO_CELLS)
        if not content.points:
            raise FailedError("has no nodes")
        self.points, self.nodes = _nodes(joined(content.points), joined(content.node_tags))
        self.cells: dict[str, np.ndarray] = {}
        self.entities: dict[str, np.ndarray] = {}
        # number of the element, counted through the file → cell, counted through the mesh
        self.row = np.empty(sum(len(block.tags) for block in content.elements), dtype=np.int64)
        self._read_cells()

    def mesh(self, step: int) -> Mesh:
        fields = Fields(self.content, self.nodes, self.cells, self.row, step, self.allow_nonfinite)
        cell_data = fields.cell_data()
        sets = self._sets()
        if not any(len(named.ids) for named in sets.values()) and self._several_entities():
            cell_data.setdefault("gmsh:geometrical", self.entities)
        mesh = assemble(
            self.points,
            self.cells,
            fields.point_data(),
            cell_data,
            sets=sets,
            periodic_pairs=self._pairs(),
            allow_nonfinite=self.allow_nonfinite,
        )
        mesh.time_steps = fields.times
        return mesh

    def _read_cells(self) -> None:
        starts = np.cumsum([0, *(len(block.tags) for block in self.content.elements)]).tolist()
        blocks: dict[str, list[tuple[Elements, int]]] = {}
        for block, start in zip(self.content.elements, starts, strict=False):
            if len(block.tags):
                blocks.setdefault(block.kind, []).append((block, start))
        found = []
        for kind, parts in blocks.items():
            tags = joined([block.tags for block, _ in parts])
            nodes = joined([block.nodes for block, _ in parts])
            entity = joined([block.entity for block, _ in parts])
            physical = joined([block.physical for block, _ in parts])
            numbers = joined([np.arange(start, start + len(block.tags)) for block, start in parts])
            if (tags[1:] < tags[:-1]).any():
                order = np.argsort(tags, kind="stable")
                tags, nodes, entity, physical, numbers = (a[order] for a in (tags, nodes, entity, physical, numbers))
            row = np.arange(len(tags))
            if self.content.num_meshes > 1:
                # whatever the numbers: in msh 2 Gmsh counts otherwise in the mesh that comes with a field
                _, first, row = np.unique(nodes, axis=0, return_index=True, return_inverse=True)
                order = np.argsort(first)
                nodes, entity, row = nodes[first[order]], entity[first[order]], np.argsort(order)[row.reshape(-1)]
            else:
                kept = ~_copies(tags, nodes, entity, physical)
                if not kept.all():
                    nodes, entity, row = nodes[kept], entity[kept], np.cumsum(kept) - 1
            found.append((int(tags[0]), kind, self._known(nodes), entity, numbers, row))
        count = 0
        for _, kind, nodes, entity, numbers, row in sorted(found, key=lambda item: item[0]):
            self.row[numbers] = count + row
            self.cells[kind] = nodes[:, GMSH_ORDER[kind]] if kind in GMSH_ORDER else nodes
            self.entities[kind] = entity
            count += len(nodes)

    def _known(self, tags: np.ndarray) -> np.ndarray:
        """Rows of the nodes that cells name."""
        nodes = self.nodes.find(tags)
        if nodes.min() < 0:
            raise FailedError(f"has elements on node {tags[nodes < 0][0]}, which it does not define")
        return nodes

    def _several_entities(self) -> bool:
        """Whether the cells of some dimension are on more than one entity."""
        numbers: dict[int, set[int]] = {}
        for kind, entity in self.entities.items():
            numbers.setdefault(CELL_KINDS[kind].dim, set()).update((int(entity.min()), int(entity.max())))
        return any(len(found) > 1 for found in numbers.values())

    def _sets(self) -> dict[str, NamedSet]:
        members: dict[tuple[int, int], list[np.ndarray]] = {key: [] for key in self.content.names}
        start = 0
        for block in self.content.elements:
            dim, rows = CELL_KINDS[block.kind].dim, self.row[start : start + len(block.tags)]
            start += len(block.tags)
            for group in np.unique(block.physical).tolist() if block.physical.any() else []:
                if group:
                    members.setdefault((dim, group), []).append(rows[block.physical == group])
            if len(rows) and self.content.groups:
                for group in self.content.groups.get((dim, int(block.entity[0])), []):
                    members.setdefault((dim, group), []).append(rows)
        sets: dict[str, NamedSet] = {}
        for name, keys in self._titles(members).items():
            ids = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(p for key in keys for p in members[key])]))
            sets[free_name(name, "cell", sets)] = NamedSet("cell", torch.from_numpy(ids))
        return sets

    def _titles(self, members: dict[tuple[int, int], list[np.ndarray]]) -> dict[str, list[tuple[int, int]]]:
        """Name of each set → dimension and number of the groups that make it up."""
        by_name: dict[str, list[tuple[int, int]]] = {}
        for dim, group in members:
            by_name.setdefault(self.content.names.get((dim, group), f"physical_{dim}_{group}"), []).append((dim, group))
        titles: dict[str, list[tuple[int, int]]] = {}
        for name, keys in by_name.items():
            top = max(dim for dim, _ in keys)
            main = {group for dim, group in keys if dim == top}
            for dim, group in keys:
                titles.setdefault(name if group in main else f"{name}:{dim}", []).append((dim, group))
        return titles

    def _pairs(self) -> np.ndarray | None:
        if not self.content.pairs:
            return None
        # nodes of parts that were not saved may be named
        pairs = self.nodes.find(np.concatenate(self.content.pairs))
        pairs = pairs[(pairs >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
        if not len(pairs):
            return None
        _, first = np.unique(pairs, axis=0, return_index=True)
        return pairs[np.sort(first)].T


def _nodes(points: np.ndarray, tags: np.ndarray) -> tuple[np.ndarray, Rows]:
    """Positions and rows by number, each node once."""
    rows = Rows(tags)
    if rows.repeated is None:
        return points, rows
    _, first, which = np.unique(tags, return_index=True, return_inverse=True)
    other = (points != points[first][which]).any(1)
    if other.any():
        raise FailedError(f"is damaged: it defines node {tags[other][0]} at two places")
    first = np.sort(first)  # in the order of the file
    return points[first], Rows(tags[first])


def _copies(tags: np.ndarray, nodes: np.ndarray, entity: np.ndarray, physical: np.ndarray) -> np.ndarray:
    """Which elements repeat the one before them `[n]`.

    msh 2 has one group to an element: Gmsh writes one of two groups twice, the second time under the next number;
    others keep the number.
    """
    same = tags[1:] == tags[:-1]
    if physical.any():
        group, before = physical[1:], physical[:-1]
        same |= (group != before) & (group != 0) & (before != 0)
    at = np.flatnonzero(same)
    same[at] = (nodes[at + 1] == nodes[at]).all(1) & (entity[at + 1] == entity[at])
    return np.concatenate([[False], same])
