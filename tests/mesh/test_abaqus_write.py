"""Abaqus decks that are written come back as they were."""

import pytest
import torch
from mesh.meshes import single

from flare_connect.errors import MeshError
from flare_connect.mesh import CELL_KINDS, NamedSet
from flare_connect.mesh.files.abaqus.read import read_abaqus
from flare_connect.mesh.files.abaqus.write import write_abaqus


def sets_of(mesh):
    return {name: (named.entity, named.ids.tolist()) for name, named in mesh.sets.items()}


@pytest.mark.parametrize("dim", [2, 3])
def test_round_trip_of_every_kind(kind, dim, tmp_path):
    if dim < CELL_KINDS[kind].dim:
        pytest.skip("needs space")
    mesh = single(kind, dim)
    if kind in ("vertex", "pyramid13"):
        with pytest.raises(MeshError, match=rf"Abaqus has no elements of kind {kind}; write a \.vtu file"):
            write_abaqus(mesh, tmp_path / "deck.inp")
        return
    noise = torch.rand(mesh.pos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mesh.pos = mesh.pos + noise / 7
    facets = {}
    for facet_kind, local in CELL_KINDS[kind].facets:
        facets.setdefault(facet_kind, []).append([*local])
    mesh.sets = {
        "one": NamedSet("cell", torch.tensor([0])),
        "One, or \u00bdit": NamedSet("node", torch.tensor([0])),
        **{facet_kind: NamedSet("facet", torch.tensor(rows)) for facet_kind, rows in facets.items()},
    }
    if CELL_KINDS[kind].dim == 2:
        mesh.sets["whole"] = NamedSet("facet", mesh.cells[kind].clone())
    assert write_abaqus(mesh, tmp_path / "deck.inp") == []
    back = read_abaqus(tmp_path / "deck.inp")
    assert torch.equal(back.pos, mesh.pos)
    assert {k: v.tolist() for k, v in back.cells.items()} == {k: v.tolist() for k, v in mesh.cells.items()}
    assert sets_of(back) == sets_of(mesh)


def test_what_a_deck_cannot_hold_is_named(rich_mesh, tmp_path):
    rich_mesh.sets = rich_mesh.sets | {
        "side": NamedSet("facet", torch.tensor([[2, 5], [0, 1]])),
        "inner": NamedSet("facet", torch.tensor([[4, 1]])),
        "far": NamedSet("facet", torch.tensor([[0, 5]])),
        "LEFT": NamedSet("node", torch.tensor([5])),
        'quo"ted': NamedSet("cell", torch.tensor([2])),
    }
    assert write_abaqus(rich_mesh, tmp_path / "deck.inp") == [
        "field 'temperature'", "field 'displacement'", "field 'type'", "field 'stress'", "units", "periodic_pairs",
        "global 'load'", "global 'material'", "facets of 'far'", "the name of set 'LEFT'",
        "the name of set 'quo\"ted'",
    ]  # fmt: skip
    back = read_abaqus(tmp_path / "deck.inp")
    assert sets_of(back) == {
        "quo_ted": ("cell", [2]), "left": ("node", [0, 3]), "far": ("node", [0, 5]), "LEFT_2": ("node", [5]),
        "side": ("facet", [[2, 5], [0, 1]]), "inner": ("facet", [[4, 1]]),
    }  # fmt: skip
