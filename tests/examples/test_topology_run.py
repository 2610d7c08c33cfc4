"""Stages of the study of topology, on the machine where steps were timed and on another, and what its steps cost."""

from argparse import Namespace

import pytest
import torch
from fixtures_devices import AloneOnTheDevice, meta  # noqa: F401 (a fixture)
from fixtures_meshes import plate
from fixtures_studies import Inline, modules_of

import flare_connect as fc

NAMES = (
    "run", "report", "jobs", "preparing", "shelf", "contestants", "sets", "tables", "training", "showing", "trained",
    "crew", "rows", "options", "wording", "steps", "cost", "resolution",
)  # fmt: skip


@pytest.fixture(scope="module")
def study(repository):
    """The modules of the study, by name."""
    with modules_of(repository / "examples/studies", ("common", "topology"), NAMES) as found:
        yield found


def trained(job):
    """What a run on the machine at hand gives, where a step takes 5 ms."""
    return [{"split": "none", "step_ms": 5.0} if job.stage == "time" else {"split": "id", "val_rel_l2": 0.1}]


@pytest.mark.parametrize(("any_machine", "steps"), [(False, 200), (True, 500)])
def test_times_of_another_machine_count_if_they_are_to(study, tmp_path, any_machine, steps):
    """And none is taken then, whatever inputs they were taken with: the file tells of one machine's time."""
    results = study("rows").Results(tmp_path / "heat.json")
    there = {"stage": "time", "model": "ours", "harmonic": False, "step_ms": 2.0, "machine": "there"}
    results.add([there] if any_machine else [])
    args = Namespace(any_machine=any_machine, learning_rate=None, seconds=1.0, seeds=1, stages=["train"])
    crew = Inline(trained, {"machine": "here"})
    study("run").run(crew, results, args, [("ours", True)])
    assert [job.stage for job in crew.made] == ["train"] if any_machine else ["time", "train"]
    assert crew.made[-1].steps == steps


def test_what_was_timed_is_known(study, tmp_path):
    results = study("rows").Results(tmp_path / "heat.json")
    results.add(
        [{"stage": "time", "model": "ours", "step_ms": 2.0}, {"stage": "time", "model": "FLARE", "failed": "x"}]
    )
    assert [results.timed(model=model) for model in ("ours", "FLARE", "geoflare")] == [True, False, False]


def test_what_a_prediction_costs_in_a_graph_of_a_gpu(study, meta):  # noqa: F811
    """Is the prediction, and asks nothing of the host once it is laid out."""
    config = fc.FlareConnectConfig(
        dim=2, outputs={"stress": 1}, conditions={"load": 2}, boundary={"left": "free"},
        architecture=fc.Architecture(channels=16, num_blocks=2, num_heads=4, num_latents=8),
    )  # fmt: skip
    model = fc.FlareConnect(config).eval()
    graph = model.build_graph(plate(5), with_targets=True)
    with torch.no_grad():
        torch.testing.assert_close(study("cost").laid_out(model, graph)(), model(graph))
        model.to(meta)
        call = study("cost").laid_out(model, graph.to(meta))
        with AloneOnTheDevice():
            call()
