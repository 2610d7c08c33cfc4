"""The language model and its study: nothing from the future, steps as the whole, recall that can be solved."""

import functools
import importlib
import json
import math
import os
import re
import subprocess
import sys

import pytest
import torch
from fixtures_devices import AloneOnTheDevice, meta  # noqa: F401 (a fixture)

MODULES = ("summary", "stages", "recall", "variants", "softmax", "training", "steps")


@pytest.fixture(scope="module")
def study(repository):
    """The modules of the study, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "examples/studies/language")
        for name in MODULES:
            sys.modules.pop(name, None)
        yield importlib.import_module
        for name in MODULES:
            sys.modules.pop(name, None)


def decoder(study, name, latents=5, vocabulary=256):
    """Two blocks, whose convolutions do something."""
    variants = study("variants")
    options = {} if name in variants.PEERS else {"num_latents": latents}
    made = variants.LM.Decoder(16, 2, variants.mixer(name, 16, 2, "auto", **options), vocabulary=vocabulary)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "conv" in name:
                p.normal_()
        made.embedding.weight.normal_()
    return made


OURS = ("FLARE", "without fading", "without separate decode", "adapted queries")


def shapes(states):
    """Of everything that is kept between tokens."""
    parts = [part for state in states for part in state if part is not None]
    return [x.shape for part in parts for x in (part if isinstance(part, tuple) else [part])]


@torch.no_grad()
def test_no_model_sees_what_it_is_to_tell(study):
    tokens = torch.randint(256, (2, 40))
    other = tokens.clone()
    other[0, 23] = (tokens[0, 23] + 1) % 256
    for name in (*OURS, "softmax"):
        made = decoder(study, name)
        before, after = made(tokens), made(other)
        torch.testing.assert_close(after[0, :23], before[0, :23], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after[1], before[1], rtol=1e-5, atol=1e-5)
        assert (after[0, 23:] - before[0, 23:]).abs().amax(-1).min() > 1e-4, name


@torch.no_grad()
def test_steps_choose_what_the_whole_sequence_chooses_from_a_state_of_one_size(study):
    for name in OURS:
        made = decoder(study, name)
        states = [block.mixer.initial_state(2) for block in made.blocks]
        sizes = shapes(states)
        tokens, steps = torch.randint(256, (2, 1)), []
        for _ in range(40):
            steps.append(made.step(tokens[:, -1], states))
            tokens = torch.cat([tokens, steps[-1].argmax(-1, keepdim=True)], dim=1)
        whole = made(tokens[:, :-1])
        torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-3, atol=1e-3)
        assert torch.equal(whole.argmax(-1), tokens[:, 1:])
        assert shapes(states) == sizes


def test_text_is_written_on_and_the_state_has_a_size(study):
    made = decoder(study, "FLARE")
    short, kept = study("variants").LM.generate(made, b"def ", 3)
    long, kept_then = study("variants").LM.generate(made, b"def ", 30)
    assert (len(short), len(long)) == (7, 34)
    assert long.startswith(short)
    # Two blocks: log-sums and means of 2 heads, 5 latents, 8 channels; three tokens for the convolution.
    assert kept == kept_then == 2 * 4 * (2 * 5 + 2 * 5 * 8 + 3 * 16)


def test_what_differs_is_how_tokens_are_read(study):
    """As many parameters within 10 %, at the width of the study and at that of the example."""
    variants = study("variants")
    for channels, heads, latents in ((256, 8, 64), (64, 4, 16)):
        made = (
            variants.LM.Decoder(channels, 2, variants.mixer(name, channels, heads, "auto", **more))
            for name, more in ((variants.FLARE, {"num_latents": latents}), (variants.SOFTMAX, {}))
        )
        ours, theirs = (sum(p.numel() for p in each.parameters()) for each in made)
        assert theirs < ours < 1.1 * theirs


def test_text_is_split_by_files(study):
    text, held_out = study("variants").LM.read_text()
    assert len(text) > 5 * len(held_out) > 0
    again, _ = study("variants").LM.read_text()
    assert torch.equal(text, again)


@pytest.mark.parametrize(("length", "pairs", "vocabulary"), [(16, 4, 12), (64, 16, 64), (512, 64, 8192)])
def test_every_query_of_recall_has_its_answer(study, length, pairs, vocabulary):
    draw = torch.Generator().manual_seed(1)
    tokens, asked, values = study("recall").draw_recall(30, length, pairs, vocabulary, draw)
    assert tokens.shape == (30, length)
    assert asked.shape == values.shape == (30, pairs)
    assert 0 <= tokens.min() <= tokens.max() < vocabulary
    for row, places, answers in zip(tokens.tolist(), asked.tolist(), values.tolist(), strict=True):
        known = dict(zip(row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert len(known) == len({*known.values()}) == pairs
        assert max(known) < vocabulary // 2 <= min(known.values())
        assert len({*places}) == pairs
        assert min(places) >= 2 * pairs
        assert [known[row[place]] for place in places] == answers


def test_recall_without_room_is_refused(study):
    with pytest.raises(ValueError, match=r"`pairs` must be between 1 and a quarter of `length`.*got 5 pairs"):
        study("recall").draw_recall(1, 16, 5, 64, torch.Generator())


def test_recall_is_measured_as_right_answers(study):
    """A model that looks the answer up is always right; one that guesses a constant hardly ever."""
    recall = study("recall")

    class Looking(torch.nn.Module):
        def __init__(self, vocabulary, right):
            super().__init__()
            self.vocabulary, self.right = vocabulary, right

        def read(self, tokens):
            x = torch.zeros(*tokens.shape, self.vocabulary)
            for row, line in enumerate(tokens.tolist()):
                known = dict(zip(line[0:16:2], line[1:16:2], strict=True))
                for place, token in enumerate(line):
                    x[row, place, known.get(token, 0) if self.right else 0] = 1.0
            return x

        def scores(self, x):
            return x

    for right, wanted in ((True, 1.0), (False, 0.0)):
        options = {"vocabulary": 64, "queries": 100, "bf16": False, "device": torch.device("cpu")}
        assert recall.accuracy(Looking(64, right), 32, 8, **options) == wanted


def test_norms_that_are_not_finite_are_counted(study):
    stages = study("stages")
    norms = torch.cat([torch.arange(1.0, 401.0), torch.tensor([math.nan, math.inf])])
    found = stages.norm_facts(norms, curve=True)
    assert (found["norm_not_finite"], found["norm_max"]) == (2, 400.0)
    assert len(found["norms"]) == stages.POINTS
    assert found["norms"][-1] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_tables_say_what_is_missing_and_take_the_best_rate(study):
    summary = study("summary")
    assert summary.text([]).count(summary.MISSING) == 3
    common = {
        "stage": "text", "model": "FLARE", "num_latents": 64, "params": 1_000, "ms": 2.0, "norm_median": 0.5,
        "norm_max": 1.5, "machine": "H100", "dtype": "bf16", "impl": "triton", "blocks": 4, "channels": 256,
        "heads": 8, "steps": 2_000, "batch": 32, "length": 512, "seed": 0, "commit": "abc1234", "command": "run.py",
    }  # fmt: skip
    rows = [common | {"learning_rate": rate, "bits_per_byte": bits}
            for rate, bits in ((1e-3, 1.6), (2e-3, 1.5), (4e-3, None))]  # fmt: skip
    text = summary.text(rows)
    assert "| FLARE | 64 | 1,000 | 1.500 | 0.002 (3) | 2.0 | 0.5 | 1.5 |" in text
    assert text.count(summary.MISSING) == 2


def test_tables_of_the_docs_are_those_of_the_rows(repository, study):
    summary, results = study("summary"), repository / "examples/studies/language/results"
    assert (results / "tables.md").read_text() == f"{summary.WRITTEN}\n\n{summary.page(results)}\n"


@pytest.mark.slow
def test_study_goes_on_where_it_was(study, tmp_path):
    """Every stage in tiny sizes; a second call makes nothing again."""
    from dataclasses import replace

    stages = study("stages")
    sizes = replace(
        stages.QUICK, steps=2, length=32, windows=2, recall_steps=2, recall_latents=(4,), rates=(1e-3,), queries=50
    )
    path = tmp_path / "language.json"

    def run(seconds):
        rows = stages.Rows(path, {"machine": "here", "commit": "abc1234", "command": "run.py", "date": "today"})
        bench = stages.Bench(sizes=sizes, device=torch.device("cpu"), impl="auto", bf16=False, rows=rows)
        for stage in stages.STAGES:
            bench.run(stage, 1, seconds)
        return rows

    run(0.0)
    assert not path.exists()
    found = run(1e6)
    peers, changes = len(study("variants").PEERS), len(study("variants").CHANGES)
    assert len(found.of(stage="text")) == peers + changes
    assert len(found.of(stage="stability")) == 2
    assert len(found.of(stage="recall")) == 5 * len(sizes.recall_cases)
    before = path.read_bytes()
    run(1e6)
    assert path.read_bytes() == before


def test_only_models_and_latents_that_are_named_are_trained(study, tmp_path, monkeypatch):
    stages, made = study("stages"), []
    monkeypatch.setattr(stages.Bench, "_recall", lambda self, job: made.append((job.model, job.num_latents)) or [{}])
    common = {"sizes": stages.QUICK, "device": torch.device("cpu"), "impl": "auto", "bf16": False}
    for models, latents in ((["FLARE"], [16]), ([], [8]), (["softmax"], [])):
        rows = stages.Rows(tmp_path / f"{len(made)}.json", {})
        stages.Bench(**common, rows=rows, models=models, latents=latents).run("recall", 1, 1e6)
    assert made == [
        ("FLARE", 16), ("FLARE", 8), ("without convolution", 8), ("without fading", 8), ("softmax", 0)
    ]  # fmt: skip


def test_latents_that_nothing_is_trained_with_are_refused(repository, tmp_path):
    command = [sys.executable, repository / "examples/studies/language/run.py", "--quick", "--latents", "8", "7"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert re.search(r"--latents must be among \[0, 8, 16, 256\], got 7", done.stderr)


@pytest.mark.slow
def test_example_prints_bits_per_byte_and_text(repository, tmp_path):
    options = "--steps", "2", "--length", "32", "--batch", "2", "--channels", "16", "--write", "20"
    done = subprocess.run(
        [sys.executable, repository / "examples/04_language_model.py", *options],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("bits per byte"))
    bits = [float(number) for number in re.findall(r"\d+\.\d+", line)]
    assert len(bits) == 2
    assert all(4 < number < 10 for number in bits)
    assert re.search(r"a state of [\d,]+ bytes", done.stdout)


def test_the_loop_is_that_of_the_example(study):
    """Whose steps no graph ever holds."""
    lm, found = study("variants").LM, []
    text = lm.read_text()[0][:5_000]
    options = {"length": 20, "batch": 3, "steps": 12, "rate": 3e-3, "bf16": False, "clip": 0.5, "seed": 7}
    for train in (lm.train, study("training").train_text):
        torch.manual_seed(0)
        model = decoder(study, "FLARE")
        norms = train(model, text, **options)
        found.append((norms if isinstance(norms, torch.Tensor) else norms.norms, *model.parameters()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["FLARE", "without convolution", "write gate", "adapted queries", "softmax"])
def test_a_step_could_be_captured(study, name, meta):  # noqa: F811
    """It fetches nothing from the host and tells it nothing, once it was computed before."""
    recall, model = study("recall"), decoder(study, name).to(meta)
    tokens, asked = (torch.zeros(2, count, dtype=torch.long, device=meta) for count in (16, 3))
    recall._scores(model, tokens, asked, False).sum().backward()
    with AloneOnTheDevice():
        recall._scores(model, tokens, asked, False).sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["FLARE", "softmax"])
def test_captured_steps_are_steps(study, name, monkeypatch):
    """Of recall, whose cases are graphs of their own, in half precision: the first losses have the same gradients."""
    training, found = study("training"), []
    steps_of = training.common.steps_of
    for captured in (True, False):
        monkeypatch.setattr(training.common, "steps_of", functools.partial(steps_of, captured=captured))
        torch.manual_seed(0)
        model = decoder(study, name, vocabulary=64).to("cuda")
        options = {"vocabulary": 64, "tokens": 256, "steps": 9, "rate": 1e-3, "bf16": True, "seed": 0}
        cases = [(16, 2), (32, 4), (64, 4)]
        found.append(study("recall").train_recall(model, cases, device=torch.device("cuda"), **options).norms)
    torch.testing.assert_close(*found, rtol=0.05, atol=1e-3)
