"""What studies have in common: batches are dealt once, rows say what they should, and a failure is a row."""

import queue
from dataclasses import asdict, dataclass

import pytest
import torch
from fixtures_studies import modules_of

MODULES = ("crew", "rows", "steps", "curves", "wording", "options")


@dataclass(frozen=True, kw_only=True)
class Job:
    """As the studies have them."""

    stage: str = "train"
    model: str = "ours"
    seed: int = 0
    learning_rate: float = 0.0
    seconds: float = 2.0
    steps: int = 0
    captured: bool = True


@pytest.fixture(scope="module")
def common(repository):
    """The modules, by name."""
    with modules_of(repository / "examples/studies", ("common",), MODULES) as module:
        yield module


def test_batches_are_dealt_once_and_full(common):
    def dealt(count, size, limit=None):
        return common("steps").dealt(count, size, torch.Generator().manual_seed(3), limit)

    found = dealt(11, 4)
    assert [len(each) for each in found] == [4, 4]
    assert len({*found[0], *found[1]} & {*range(11)}) == 8
    assert dealt(11, 4) == found
    assert dealt(11, 4, 1) == found[:1]
    assert sorted(dealt(3, 4)[0]) == [0, 1, 2]  # one smaller batch where there are not so many


def test_a_training_is_captured_where_its_step_was(common, tmp_path):
    results = common("rows").Results(tmp_path / "rows.json")
    for model, captured, step_ms in (("ours", False, 8.0), ("peer", False, 5.0), ("peer", True, 4.0)):
        results.add([asdict(Job(stage="time", model=model, captured=captured)) | {"step_ms": step_ms}])
    fitted = {model: results.fitted(Job(model=model), model=model) for model in ("ours", "peer", "failed")}
    assert {model: (job.steps, job.captured) for model, job in fitted.items()} == {
        "ours": (250, False), "peer": (500, True), "failed": (1, False),
    }  # fmt: skip


def test_lines_are_medians_of_each_model(common):
    lines = (("a", [1, 2]), ("b", [5, 7]), ("a", [3, 80]), ("a", [20, 8]))
    rows = [{"model": model, "curve": curve} for model, curve in lines]
    assert common("curves").medians(rows, "curve") == {"a": [3, 8], "b": [5, 7]}


def test_lines_tell_what_came_of_a_run(common):
    row = asdict(Job(learning_rate=3e-3)) | {"split": "id"}
    told = common("rows").told
    assert told(row, "ours + more", "nRMSE 0.1", "noise") == "train ours + more, seed 0, lr 0.003, noise, id: nRMSE 0.1"
    assert told(row | {"step_ms": 2.5}, "x", "").endswith(", id: 2.5 ms a step")
    assert told(row | {"failed": "ValueError: no"}, "x", "").endswith(", id: ValueError: no")


def test_what_fails_is_a_row_and_the_next_run_goes_on(common, monkeypatch):
    """As a process of a crew serves, here in this one: started once, its seed set before every run."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda kind: None)
    waiting, done, started = queue.SimpleQueue(), queue.SimpleQueue(), []

    def work(job):
        if job.model == "bad":
            raise ValueError("no such model")
        return [{"split": "id", "drawn": float(torch.rand(()))}]

    for job in (Job(seed=5), Job(model="bad"), Job(seed=5), None):
        waiting.put(job)
    with torch.random.fork_rng():
        common("crew")._serve(lambda device: started.append(device) or work, 7, "cpu", waiting, done)
    (first, bad, again) = (done.get_nowait() for _ in range(3))
    assert bad == (7, [{"split": "none", "failed": "ValueError: no such model"}], False)
    assert first == again
    assert started == [torch.device("cpu")]


@pytest.mark.parametrize(
    "told", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "died, for lack of memory"]
)
def test_what_finds_no_memory_beside_others_is_made_again(common, tmp_path, told):
    """Three on a GPU that holds two; what fails alone, or for another reason, is a row."""
    crew = common("crew").Crew(None, 0, {}, str)
    crew.places, given = ["cuda:0"] * 3 + ["cuda:1"], []

    def next_of(busy):
        i = min(busy)
        here = [j for j in busy if crew.places[j] == crew.places[i]]
        if len(here) > 2 or busy[i].model == "large":
            return i, [{"split": "none", "failed": told}]
        return i, [{"split": "id"} | ({"failed": "ValueError: 3"} if busy[i].model == "bad" else {})]

    crew._give, crew._next = lambda i, job: given.append((i, job)), next_of
    results = common("rows").Results(tmp_path / "rows.json")
    crew.run([Job(seed=seed) for seed in range(6)] + [Job(model="bad")], results)
    assert sorted((row["model"], row["seed"]) for row in results.rows) == [("bad", 0), *(("ours", i) for i in range(6))]
    assert [row["model"] for row in results.rows if "failed" in row] == ["bad"]
    assert len(given) == 8
    assert crew.left_out == {0}  # also in the stages that come
    crew.run([Job(model="large")], results)
    assert results.rows[-1]["failed"] == told
    assert crew.left_out < {0, 1, 2}


def test_numbers_that_must_be_positive(common, capsys):
    parser = common("options").parser_of("words", "name", "results", seconds=60.0, seeds=2, per_gpu=3)
    parser.add_argument("--rates", nargs="+", type=float, default=None)
    args = parser.parse_args([])
    common("options").check_positive(parser, args, "seconds", "seeds", "per_gpu", "rates")
    assert (args.seconds, args.seeds, args.per_gpu, args.out.as_posix()) == (60.0, 2, 3, "runs/studies/name")
    with pytest.raises(SystemExit):
        common("options").check_positive(parser, parser.parse_args(["--rates", "1", "-2"]), "seeds", "rates")
    assert "--rates must be positive, got -2.0" in capsys.readouterr().err
