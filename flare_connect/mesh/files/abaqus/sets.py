"""The sets and surfaces of an Abaqus deck as sets of the mesh."""

import re
import warnings
from collections import Counter

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS, FACET_FLIP
from flare_connect.mesh.connectivity import Boundary, boundary, topological_dim
from flare_connect.mesh.files.abaqus.model import Model, Place
from flare_connect.mesh.files.abaqus.scopes import Member, Surface, member
from flare_connect.mesh.files.abaqus.types import FACES, face_code
from flare_connect.mesh.files.sides import facet_set, facets_of, free_name
from flare_connect.mesh.mesh import NamedSet

_FACE = re.compile(r"|SPOS|SNEG|(?:S|E|END)\d{1,2}")  # none means all faces that are exposed


def named_sets(model: Model) -> dict[str, NamedSet]:
    """Sets of cells, of nodes, and surfaces: facets, or nodes where facets of two kinds meet."""
    return _Sets(model).named()


class _Sets:
    def __init__(self, model: Model):
        self.model = model
        self.places = model.places
        self.named_so = Counter(key for place in self.places.values() for key in place.groups)
        self.named_so.update(("surface", key) for place in self.places.values() for key in place.surfaces)
        self.top = topological_dim(model.cells)
        self.boundary: Boundary | None = None

    def named(self) -> dict[str, NamedSet]:
        out: dict[str, NamedSet] = {}
        helpers = {
            line[0].upper().rpartition(".")[2]
            for place in self.places.values()
            for surface in place.surfaces.values()
            for line in surface.lines
            if line[0].startswith("_")
        }
        for entity in ("cell", "node"):
            for place in self.places.values():
                for (of, key), group in place.groups.items():
                    if of == entity and (of == "node" or key not in helpers):
                        ids = torch.from_numpy(np.unique(self._rows(place, entity, group.members)))
                        title = free_name(self._title(place, entity, group.name), f"{entity}s", out)
                        out[title] = NamedSet("cell" if entity == "cell" else "node", ids)
        for place in self.places.values():
            for surface in place.surfaces.values():
                found = self._surface(place, surface)
                if found is not None:
                    out[free_name(self._title(place, "surface", surface.name), "surface", out)] = found
        return out

    def _title(self, place: Place, entity: str, name: str) -> str:
        alone = self.named_so[entity, name.upper()] == 1
        return name if not place.name or alone else f"{place.name}.{name}"

    def _rows(self, place: Place, entity: str, members: list[Member]) -> np.ndarray:
        """Rows of nodes, or cells, that some members mean; labels and names that are not defined are left out."""
        found = [np.zeros(0, dtype=np.int64)]
        todo = [(place, m) for m in reversed(members)]
        seen: set[tuple[str, str]] = set()
        while todo:
            at, (instance, what, value) = todo.pop()
            if instance and instance.upper() not in self.places:
                continue
            at = self.places[instance.upper()] if instance else at
            key = str(value).upper() if isinstance(value, str) else ""
            if isinstance(value, np.ndarray):
                found.append(at.labels[entity].known(value) + at.start[entity])
            elif isinstance(value, tuple):
                found.append(at.labels[entity].between(*value) + at.start[entity])
            elif what == "nodes of":
                found.append(self._nodes(self._rows(at, "cell", [Member("", "name", value)])))
            elif (entity, key) in at.groups:
                if (at.name, key) not in seen:
                    seen.add((at.name, key))
                    at.labels[entity].spend(20)  # as long as it takes, for sets that lead from one to the next
                    todo += [(at, m) for m in reversed(at.groups[entity, key].members)]
            elif "." in key:  # `instance.set` or `instance.label`
                inside, _, rest = str(value).rpartition(".")
                if inside.upper() in self.places and inside:
                    todo.append((at, member(rest, inside)))
        rows = np.concatenate(found)
        return self.model.cell[rows] if entity == "cell" else rows

    def _nodes(self, cells: np.ndarray) -> np.ndarray:
        found = [np.zeros(0, dtype=np.int64)]
        for kind, nodes in self.model.cells.items():
            local = cells - self.model.first[kind]
            found.append(nodes[local[(local >= 0) & (local < len(nodes))]].reshape(-1))
        return np.unique(np.concatenate(found))

    def _surface(self, place: Place, surface: Surface) -> NamedSet | None:
        """Its facets in the order of its lines; None where a face is not known."""
        if surface.of == "NODE":
            members = [member(line[0]) for line in surface.lines]
            return NamedSet("node", torch.from_numpy(np.unique(self._rows(place, "node", members))))
        if surface.of != "ELEMENT":
            return None
        labels = {""} | {line[1].upper() for line in surface.lines if len(line) > 1}
        unknown = sorted(label for label in labels if not _FACE.fullmatch(label))
        if unknown:
            warnings.warn(f"surface {surface.name!r} left out: there is no face {unknown[0]!r}", stacklevel=6)
            return None
        number = {label: i for i, label in enumerate(sorted(labels))}
        cells, faces = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for line in surface.lines:
            cells.append(np.sort(self._rows(place, "cell", [member(line[0])])))
            faces.append(np.full(len(cells[-1]), number[line[1].upper() if len(line) > 1 else ""]))
        tables, places = self._facets(np.concatenate(cells), np.concatenate(faces), sorted(labels), surface.name)
        if len({table.shape[1] for table in tables}) != 1:
            return facet_set(tables)
        return facet_set([np.concatenate(tables)[np.argsort(np.concatenate(places), kind="stable")]])

    def _facets(
        self, cells: np.ndarray, faces: np.ndarray, labels: list[str], name: str
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Tables of facets `[n, k]` and which of the cells `[m]` and faces `[m]` each facet comes from `[n]`."""
        tables, places, unknown = [], [], []
        for kind, nodes in self.model.cells.items():
            first, corners = self.model.first[kind], CELL_KINDS[kind].corners
            here = np.flatnonzero((cells >= first) & (cells < first + len(nodes)))
            which = 2 * faces[here] + self.model.shell[cells[here]]
            for value in np.unique(which).tolist():
                label, shell, at = labels[value // 2], bool(value % 2), here[which == value]
                of_kind = nodes[cells[at] - first]
                code = face_code(label, corners, shell) if label else 0
                if code is None:
                    unknown.append(f"{label!r} of a {kind}")
                elif code > 0:
                    tables += facets_of(kind, of_kind, FACES[corners][code - 1])
                    places.append(at)
                elif label or shell or CELL_KINDS[kind].dim < self.top:
                    tables.append(of_kind[:, FACET_FLIP[kind]] if code < 0 else of_kind)
                    places.append(at)
                else:
                    for facets, of in self._exposed(kind, cells[at] - first):
                        tables.append(facets)
                        places.append(at[of])
        if unknown:
            warnings.warn(f"surface {name!r} is incomplete: there is no face {unknown[0]}", stacklevel=7)
        return tables, places

    def _exposed(self, kind: str, wanted: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Facets that no other cell shares, of cells `[m]` of one kind, and which of these each belongs to."""
        if self.boundary is None:
            upright = {name: np.ones(len(nodes)) for name, nodes in self.model.cells.items()}
            self.boundary = boundary(self.model.cells, len(self.model.points), upright)
        place = np.full(len(self.model.cells[kind]), -1)
        place[wanted] = np.arange(len(wanted))
        index, out = list(self.model.cells).index(kind), []
        for facet_kind, table in self.boundary.nodes.items():
            own = np.flatnonzero(self.boundary.owner_kind[facet_kind] == index)
            of = place[self.boundary.owner[facet_kind][own]]
            out.append((table[own[of >= 0]], of[of >= 0]))
        return out
