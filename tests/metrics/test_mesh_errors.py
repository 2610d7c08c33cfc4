"""One call gives what the single functions give, for every field."""

import math

import pytest
import torch
from metrics.plates import cracked, plate, slit

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, local_thickness
from flare_connect.metrics import (
    MeshErrors,
    boundary_error,
    combine,
    error_against_thickness,
    evaluate_fields,
    jump_error,
    jump_pairs,
    near_boundary,
    peak_error,
    relative_l2,
)


def test_every_error_is_the_one_of_its_function():
    mesh, _ = slit(24, 17, 8, 4, 20)
    truth, noise = torch.randn(2, mesh.num_nodes).double()
    prediction = truth + 0.1 * noise
    found = MeshErrors.prepare(mesh).of(prediction, truth)
    pairs, peak = jump_pairs(mesh), peak_error(mesh, prediction, truth)
    thin = error_against_thickness(mesh, prediction, truth)
    assert found == pytest.approx(
        {
            "rel_l2": relative_l2(prediction, truth),
            "rel_l2_volume": relative_l2(prediction, truth, mesh.node_volume),
            "boundary_error": boundary_error(mesh, prediction, truth),
            "peak_error": peak.value,
            "peak_error_robust": peak.robust,
            "peak_distance": peak.distance,
            "jump_error": jump_error(pairs, prediction, truth),
            "jump_error_untrimmed": jump_error(pairs, prediction, truth, trim=0.0),
            "num_jump_pairs": len(pairs),
            "thickness_error_0_2": thin.relative[0],
            "thickness_error_2_4": thin.relative[1],
            "thickness_error_4_8": thin.relative[2],
            "thickness_error_8_16": thin.relative[3],
            "thickness_error_16_inf": thin.relative[4],
        },
        rel=1e-12,
        nan_ok=True,
    )
    assert found["jump_error"] != found["jump_error_untrimmed"]
    assert all(type(value) is float for value in found.values())


def test_settings_reach_the_functions():
    mesh, _ = slit(24, 17, 8, 4, 20)
    truth = torch.randn(mesh.num_nodes)
    errors = MeshErrors.prepare(mesh, layers=1, radius=0.5, edges=(0.0, 0.1, 1.0), unit="domain")
    assert torch.equal(errors.near, near_boundary(mesh, 1))
    assert torch.equal(errors.thickness, local_thickness(mesh))
    found = errors.of(2 * truth, truth)
    assert found["num_jump_pairs"] == 0
    assert math.isnan(found["jump_error"])
    assert found["thickness_error_0_0.1"] == pytest.approx(1.0)
    once = errors.against_thickness(2 * truth, truth)
    assert once == error_against_thickness(mesh, 2 * truth, truth, (0.0, 0.1, 1.0), unit="domain")
    assert combine([once, once]).num_nodes == tuple(2 * count for count in once.num_nodes)


def test_fields_of_a_mesh_by_name():
    mesh, _ = cracked(24, 16, 8, 4, 20)
    stress, shift = torch.randn(mesh.num_nodes), torch.randn(mesh.num_nodes, 2)
    mesh = Mesh.from_arrays(mesh.pos, mesh.cells, point_data={"stress": stress, "shift": shift, "other": stress})
    predictions = {"shift": 1.5 * shift, "stress": stress}
    found = evaluate_fields(mesh, predictions)
    assert found["shift.rel_l2"] == pytest.approx(0.5, rel=1e-6)
    assert found["shift.jump_error"] == pytest.approx(0.5, rel=1e-6)
    assert found["stress.rel_l2"] == found["stress.peak_distance"] == 0.0
    assert len(found) == 2 * 14
    prepared = evaluate_fields(MeshErrors.prepare(mesh), predictions, {"stress": stress, "shift": shift})
    assert prepared == pytest.approx(found, nan_ok=True)


def test_what_is_missing_is_named(monkeypatch):
    mesh, _ = plate(3)
    monkeypatch.setattr(MeshErrors, "prepare", None)  # nothing is computed before all is known to fit
    with pytest.raises(InputError, match="field 'stress' has no truth to compare it with; there are 'heat'"):
        evaluate_fields(mesh, {"stress": torch.ones(16)}, {"heat": torch.ones(16)})
    with pytest.raises(InputError, match="there is no prediction to evaluate"):
        evaluate_fields(mesh, {})
    with pytest.raises(InputError, match=r"prediction has shape \[15\] but truth \[16\]"):
        evaluate_fields(mesh, {"stress": torch.ones(15)}, {"stress": torch.ones(16)})
