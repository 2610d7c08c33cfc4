"""What is run: jobs, the rows that they make, and a file of rows from which a run goes on where it was."""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from recall import accuracy, train_recall
from torch import Tensor
from training import train_text
from variants import CHANGES, FLARE, LM, PEERS, SETTING, SOFTMAX, mixer

from flare_connect.files import write_atomically

sys.path.insert(0, str(Path(__file__).parents[3] / "kernels" / "benchmarks"))
import measure

Row = dict[str, Any]
COMMAND = "python examples/studies/language/run.py"
STAGES = ("text", "stability", "recall")
POINTS = 200  # of the curve of a gradient's norms
NO_NORM = "without k-normalisation"
NO_CONV = "without convolution"
NO_FADING = "without fading"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of models and of training; "text" is for stability too."""

    channels: int = 256
    heads: int = 8
    blocks: int = 4
    latents: int = SETTING["num_latents"]
    length: int = 512
    batch: int = 32
    steps: int = 2_000
    windows: int = 1_024
    rates: tuple[float, ...] = (1e-3, 3e-3, 9e-3, 2.7e-2)
    recall_channels: int = 128
    recall_heads: int = 4
    recall_latents: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    recall_cases: tuple[tuple[int, int], ...] = (
        (64, 4), (64, 16), (128, 8), (128, 32), (256, 16), (256, 64), (512, 64),
    )  # fmt: skip
    recall_rates: tuple[float, ...] = (3e-3, 1e-3)
    recall_steps: int = 4_000
    recall_tokens: int = 32_768
    vocabulary: int = 8_192
    queries: int = 20_000

    @property
    def numbers_of_latents(self) -> set[int]:
        """All that are trained; 0 stands for softmax."""
        return {0, self.latents, *self.recall_latents, *(each.get("num_latents", 0) for each in CHANGES.values())}


QUICK = Sizes(
    channels=32, heads=2, blocks=2, latents=8, length=64, batch=4, steps=8, windows=8, rates=(2e-3, 4e-3, 8e-3),
    recall_channels=32, recall_heads=2, recall_latents=(8, 16), recall_cases=((32, 2), (64, 8)), recall_rates=(1e-2,),
    recall_steps=30, recall_tokens=512, vocabulary=64, queries=400,
)  # fmt: skip
# The defaults of the example.
SMALL = Sizes(
    channels=64, heads=4, blocks=2, latents=8, length=128, batch=8, steps=300, windows=64, rates=(5e-3, 1e-2, 2e-2),
    recall_channels=64, recall_latents=(4, 8, 16, 32), recall_cases=((32, 4), (64, 8)), recall_steps=600,
    recall_tokens=2_048, recall_rates=(3e-3,), vocabulary=128, queries=4_000,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training. Rows with the same values are not made again.

    Attributes:
        stage: of `STAGES`.
        model: of `variants`.
        learning_rate: the largest.
        num_latents: M; 0 for softmax.
        seed: of weights and of what is drawn.
    """

    stage: str
    model: str
    learning_rate: float
    num_latents: int
    seed: int = 0


class Rows:
    """A file of rows, written anew after each job."""

    def __init__(self, path: Path, common: Row):
        self.path, self.common = path, common
        self.rows: list[Row] = json.loads(path.read_text()) if path.is_file() else []

    def of(self, **wanted: Any) -> list[Row]:
        """Rows with these values."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in wanted.items())]

    def add(self, job: Job, found: list[Row]) -> None:
        """The rows of a job."""
        self.rows += [self.common | asdict(job) | each for each in found]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.rows, indent=1, sort_keys=True).encode() + b"\n")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where jobs run, and with what; of all models and latents, or those named; and whether times tell anything."""

    sizes: Sizes
    device: torch.device
    impl: str
    bf16: bool
    rows: Rows
    models: Sequence[str] = ()
    latents: Sequence[int] = ()
    alone: bool = True

    def run(self, stage: str, seeds: int, seconds: float) -> None:
        """The jobs of a stage, most telling first, until the next might take longer than what is left of the time."""
        start, longest = time.perf_counter(), 0.0
        for job in self._jobs(stage, seeds):
            if self.rows.of(**asdict(job)) or not self._wanted(job):
                continue
            began = time.perf_counter()
            if began - start + longest > seconds:
                print(f"{stage}: out of time; call again to go on", flush=True)
                return
            try:
                found = (self._recall if stage == "recall" else self._text)(job)
            except (RuntimeError, ValueError) as error:
                print(f"{job} failed: {error}", flush=True)
                continue
            longest = max(longest, time.perf_counter() - began)
            self.rows.add(job, found)
            told = {name: value for name, value in found[-1].items() if isinstance(value, float)}
            print(job.stage, job.model, job.num_latents, job.learning_rate, told, flush=True)

    def _wanted(self, job: Job) -> bool:
        return job.model in (self.models or [job.model]) and job.num_latents in (self.latents or [job.num_latents])

    def _jobs(self, stage: str, seeds: int) -> Iterator[Job]:
        """Made one after another, since some are at the rate at which others were best."""
        sizes = self.sizes

        def job(model: str, rate: float, latents: int = sizes.latents, **more: Any) -> Job:
            latents = 0 if model in PEERS else CHANGES[model].get("num_latents", latents)
            return Job(stage=stage, model=model, learning_rate=rate, num_latents=latents, **more)

        if stage == "recall":
            for rate in sizes.recall_rates:
                yield job(SOFTMAX, rate)
                yield from (job(FLARE, rate, latents) for latents in sizes.recall_latents)
                yield job("softmax, no convolution", rate)
                yield from (job(NO_CONV, rate, latents) for latents in sizes.recall_latents)
            for rate in sizes.recall_rates:
                yield from (job(NO_FADING, rate, latents) for latents in sizes.recall_latents)
            return
        if stage == "stability":
            yield from (job(model, rate) for rate in sizes.rates for model in (FLARE, NO_NORM))
            return
        tried = (FLARE, *PEERS)
        yield from (job(model, rate) for rate in sizes.rates for model in tried)
        best = {model: self._best(model) for model in tried}
        if best[FLARE] is not None:
            yield from (job(model, best[FLARE]) for model in CHANGES if model != FLARE)
        for seed in range(1, seeds):
            yield from (job(model, rate, seed=seed) for model, rate in best.items() if rate is not None)

    def _best(self, model: str) -> float | None:
        """The rate with the least validation loss, or None if not all were tried."""
        found = self.rows.of(stage="text", model=model, seed=0)
        if len(found) < len(self.sizes.rates):
            return None
        return min(found, key=lambda row: row["bits_per_byte"] or math.inf)["learning_rate"]

    def _model(self, job: Job, channels: int, heads: int, blocks: int, vocabulary: int) -> Any:
        torch.manual_seed(job.seed)
        options = {"num_latents": job.num_latents} if job.num_latents else {}
        make = mixer(job.model, channels, heads, self.impl, **options)
        return LM.Decoder(channels, blocks, make, vocabulary=vocabulary).to(self.device)

    def _text(self, job: Job) -> list[Row]:
        """Loss, time of a step and norms of gradients; "stability" clips nothing and keeps the curve of the norms."""
        sizes, kept = self.sizes, job.stage == "stability"
        text, held_out = (part.to(self.device) for part in _text())
        model = self._model(job, sizes.channels, sizes.heads, sizes.blocks, 256)
        norms, seconds = train_text(
            model, text, length=sizes.length, batch=sizes.batch, steps=sizes.steps, rate=job.learning_rate,
            bf16=self.bf16, clip=math.inf if kept else 1.0, seed=job.seed,
        )  # fmt: skip
        bits = LM.bits_per_byte(model, held_out, length=sizes.length, windows=sizes.windows, bf16=self.bf16)
        row = {
            "dataset": "Python's library", "python": sys.version.split()[0], "train_bytes": len(text),
            "val_bytes": len(held_out), "channels": sizes.channels, "heads": sizes.heads, "blocks": sizes.blocks,
            "length": sizes.length, "batch": sizes.batch, "steps": sizes.steps, "bits_per_byte": known(bits),
            "ms": 1e3 * seconds / sizes.steps if self.alone else None,
            "train_seconds": seconds if self.alone else None, "clip": None if kept else 1.0,
        }  # fmt: skip
        return [row | self._facts(model) | norm_facts(norms.cpu(), kept)]

    def _recall(self, job: Job) -> list[Row]:
        """A row for each case."""
        sizes = self.sizes
        model = self._model(job, sizes.recall_channels, sizes.recall_heads, 2, sizes.vocabulary)
        options = {"vocabulary": sizes.vocabulary, "bf16": self.bf16, "device": self.device}
        trained = train_recall(
            model, list(sizes.recall_cases), tokens=sizes.recall_tokens, steps=sizes.recall_steps,
            rate=job.learning_rate, seed=job.seed, **options,
        )  # fmt: skip
        row = {
            "dataset": "MQAR", "train_seconds": trained.seconds if self.alone else None,
            "channels": sizes.recall_channels,
            "heads": sizes.recall_heads, "blocks": 2, "steps": sizes.recall_steps, "batch_tokens": sizes.recall_tokens,
            "vocabulary": sizes.vocabulary,
        }  # fmt: skip
        row |= self._facts(model) | {"queries": sizes.queries}
        found = []
        for length, pairs in sizes.recall_cases:
            right = accuracy(model, length, pairs, queries=sizes.queries, **options)
            found.append(row | {"length": length, "pairs": pairs, "accuracy": right})
        return found

    def _facts(self, model: torch.nn.Module) -> Row:
        return {
            "params": sum(p.numel() for p in model.parameters()), "dtype": "bf16" if self.bf16 else "fp32",
            "impl": self.impl,
        }  # fmt: skip


@cache
def _text() -> tuple[Tensor, Tensor]:
    return LM.read_text()


def norm_facts(norms: Tensor, curve: bool) -> Row:
    """Of the gradients' norms, one a step; the curve is the largest of as many stretches as `POINTS`."""
    finite = norms[norms.isfinite()].double()
    found: Row = {"norm_not_finite": len(norms) - len(finite), "norm_median": None, "norm_p99": None, "norm_max": None}
    if len(finite):
        found |= {
            "norm_median": finite.median().item(), "norm_p99": finite.quantile(0.99).item(),
            "norm_max": finite.max().item(),
        }  # fmt: skip
    if curve:
        found["norms"] = [known(part.max().item()) for part in norms.tensor_split(min(POINTS, len(norms)))]
    return found


def known(number: float) -> float | None:
    """JSON has no number for what is not finite."""
    return round(number, 6) if math.isfinite(number) else None


def provenance(device: torch.device, options: str) -> Row:
    """Columns that every row has; the seed is that of the job."""
    common = measure.provenance(f"{COMMAND} {options}".strip(), device)
    del common["seed"]
    return common
