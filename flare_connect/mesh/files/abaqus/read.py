"""Abaqus input decks: flat ones and those of parts and instances; sets, surfaces, included files."""

import warnings
from pathlib import Path

from flare_connect.mesh.files.abaqus.model import Model
from flare_connect.mesh.files.abaqus.scopes import read_deck
from flare_connect.mesh.files.abaqus.sets import named_sets
from flare_connect.mesh.files.assemble import assemble
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.mesh import Mesh


def read_abaqus(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads nodes, elements, sets and surfaces; every instance of a part is moved to its place.

    A set of a part keeps its name where one instance alone has it, and is called `instance.set` otherwise. The helper
    sets that Abaqus/CAE writes for the faces of a surface are left out.

    Args:
        path: the deck; files it includes lie beside it.
        step: a deck holds no results; ignored.
        allow_nonfinite: as for the other readers; a deck holds no fields.

    Raises:
        FailedError: the file is no Abaqus deck, is damaged, or makes its mesh in a way that is not known here.
        MeshError: its arrays do not make a mesh.
    """
    deck = read_deck(path)
    model = Model(deck)
    left_out = ", ".join(f"{count} of type {name or 'none'!r}" for name, count in deck.left_out.items() if count)
    if not model.cells:
        raise FailedError(f"no elements but {left_out}, which are not understood" if left_out else NO_CELLS)
    if left_out:
        warnings.warn(f"elements left out: {left_out}", stacklevel=3)
    return assemble(model.points, model.cells, {}, {}, sets=named_sets(model), allow_nonfinite=allow_nonfinite)
