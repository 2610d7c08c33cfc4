"""The sets and surfaces of an Abaqus deck as sets of the mesh."""

import warnings

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS, FACET_FLIP
from flare_connect.mesh.connectivity import sorted_corners
from flare_connect.mesh.files.abaqus_model import Model, Place
from flare_connect.mesh.files.abaqus_scopes import Member, Surface, member
from flare_connect.mesh.files.abaqus_types import FACES, face_code
from flare_connect.mesh.files.sides import facet_set, facets_of, free_name
from flare_connect.mesh.mesh import NamedSet

_NO_FACE = 99  # a line of a surface without a face: all that are exposed


def named_sets(model: Model) -> dict[str, NamedSet]:
    """Sets of cells, of nodes, and surfaces: facets, or nodes where facets of two kinds meet."""
    return _Sets(model).named()


class _Sets:
    def __init__(self, model: Model):
        self.model = model
        self.places = model.places
        self.uncovered: dict[str, np.ndarray] | None = None

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
        key = name.upper()
        same = [
            other
            for other in self.places.values()
            if (key in other.surfaces if entity == "surface" else (entity, key) in other.groups)
        ]
        return name if not place.name or len(same) == 1 else f"{place.name}.{name}"

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
                    todo += [(at, m) for m in reversed(at.groups[entity, key].members)]
            elif "." in key:  # `instance.set` or `instance.label`
                inside, _, rest = str(value).rpartition(".")
                if inside.upper() in self.places and inside:
                    todo.append((at, member(rest, inside)))
        rows = np.concatenate(found)
        return self.model.cell[rows] if entity == "cell" else rows

    def _nodes(self, cells: np.ndarray) -> np.ndarray:
        tables = [nodes[self._of_kind(kind, cells) - self.model.first[kind]] for kind, nodes in self.model.cells.items()]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(table.reshape(-1) for table in tables)]))

    def _of_kind(self, kind: str, cells: np.ndarray) -> np.ndarray:
        first = self.model.first[kind]
        return cells[(cells >= first) & (cells < first + len(self.model.cells[kind]))]

    def _surface(self, place: Place, surface: Surface) -> NamedSet | None:
        """Its facets in the order of its lines; None where a face is not known."""
        if surface.of == "NODE":
            members = [member(line[0]) for line in surface.lines]
            return NamedSet("node", torch.from_numpy(np.unique(self._rows(place, "node", members))))
        if surface.of != "ELEMENT":
            return None
        cells, faces = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        labels = list(dict.fromkeys(line[1].upper() if len(line) > 1 else "" for line in surface.lines))
        for line in surface.lines:
            rows = np.sort(self._rows(place, "cell", [member(line[0])]))
            cells.append(rows)
            faces.append(np.full(len(rows), labels.index(line[1].upper() if len(line) > 1 else "")))
        return self._facets(surface.name, np.concatenate(cells), np.concatenate(faces), labels)

    def _facets(self, name: str, cells: np.ndarray, faces: np.ndarray, labels: list[str]) -> NamedSet | None:
        """Facets of cells `[m]` on faces `[m]`, which count the labels."""
        tables, places = [], []
        for kind, nodes in self.model.cells.items():
            first = self.model.first[kind]
            of_kind = (cells >= first) & (cells < first + len(nodes))
            for face, shell in {(int(f), bool(s)) for f, s in zip(faces[of_kind], self.model.shell[cells[of_kind]])}:
                at = np.flatnonzero(of_kind & (faces == face))
                at = at[self.model.shell[cells[at]] == shell]
                for facets, of in self._on_face(name, kind, shell, labels[face], cells[at] - first):
                    tables.append(facets)
                    places.append(at[of])
        if not tables:
            return None
        if len({table.shape[1] for table in tables}) == 1:  # in the order of the file
            return facet_set([np.concatenate(tables)[np.argsort(np.concatenate(places), kind="stable")]])
        return facet_set(tables)
