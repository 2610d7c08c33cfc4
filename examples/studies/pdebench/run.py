"""Rollouts on the equations of PDEBench: ours, FNO, U-Net and persistence, the same time and parameters for each.

    python examples/studies/pdebench/run.py                               # on a machine with GPUs: all sets
    python examples/studies/pdebench/run.py --sets advection --seconds 60 --seeds 2 --published folder/of/files
    python examples/studies/pdebench/run.py --report                      # tables and curves from the results
    python examples/studies/pdebench/run.py --quick                       # two cores, two minutes: only to see it run

Generates the data with our solvers, takes the time of a step of each model, tries learning rates for each on a third
of the training time and then, at the best of them, how it learns to live with its own errors (`training.UNROLLS`). Both
are chosen by rollouts on the validation split. The best is trained with every seed on the first half of the frames, and
judged on these and on as many after them. A row for each model, split and seed goes into `results/<set>.json`. Rows
that are there are not made again, so an interrupted run goes on where it was.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import contestants
import report
import torch
import training
from jobs import COUNTS, Job, crew
from sets import SETS, GridSet, prepare

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from crew import Crew, take_times
from options import check_positive, parser_of
from rows import Results

from flare_connect.errors import FlareConnectError

HERE = Path(__file__).parent
RATES = (1e-3, 3e-3, 9e-3)
WAYS = ("noise of all sizes", "teacher", "pushforward", "unrolled")


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in args.sets:
        study = SETS[name].quick() if args.quick else SETS[name]
        data = prepare(study, args.out / "data", device, args.published)
        if data is None:
            print(f"{name} is left out: give --published the folder that holds {' and '.join(study.files)}")
            continue
        results = Results((args.out if args.quick else args.results) / f"{name}{'_quick' if args.quick else ''}.json")
        counts = (2, 4) if args.quick else COUNTS
        with crew(study, data, counts, args.per_gpu, args.out) as workers:
            results.check_machine(workers.common["machine"])
            run(workers, results, args, study)
        print(report.table(results.rows))


def run(workers: Crew, results: Results, args: argparse.Namespace, study: GridSet) -> None:
    """All stages of one data set."""
    learned = [model for model in args.models if model != "persistence"]
    seeds = 1 if study.dim > 1 and args.seeds_2d is None else args.seeds_2d if study.dim > 1 else args.seeds
    take_times(workers, [Job(stage="time", model=m, unroll=u) for m in learned for u in args.unrolls], results)
    if "tune" in args.stages:
        _tune(workers, results, args, learned)
    if "train" in args.stages:
        final = []
        for seed in range(seeds):
            for model in learned:
                unroll = results.best("unroll", "val_nrmse", args.unrolls, model=model)
                rate = results.best("learning_rate", "val_nrmse", args.rates, model=model, unroll=unroll)
                final.append(_job("train", results, model, unroll, rate, args.seconds, seed))
        if "persistence" in args.models:
            final.append(Job(stage="train", model="persistence"))
        workers.run(final, results)
    if "cost" in args.stages:
        workers.run([Job(stage="cost", model=model) for model in args.models], results)


def _tune(workers: Crew, results: Results, args: argparse.Namespace, models: Sequence[str]) -> None:
    """Learning rates with the first way of training, then the other ways at the best rate of each model."""
    shorter, (first, *others) = args.seconds / 3, args.unrolls
    if len(args.rates) * len(args.unrolls) == 1:
        return  # nothing to choose
    workers.run(
        [_job("tune", results, model, first, rate, shorter) for model in models for rate in args.rates], results
    )
    rates = {
        model: results.best("learning_rate", "val_nrmse", args.rates, model=model, unroll=first) for model in models
    }
    workers.run(
        [_job("tune", results, model, unroll, rates[model], shorter) for model in models for unroll in others], results
    )


def _job(stage: str, results: Results, model: str, unroll: str, rate: float, seconds: float, seed: int = 0) -> Job:
    job = Job(stage=stage, model=model, unroll=unroll, learning_rate=rate, seed=seed, seconds=seconds)
    return results.fitted(job, model=model, unroll=unroll)


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "pdebench", HERE / "results", seconds=60.0, seeds=2, per_gpu=3)
    parser.add_argument("--published", type=Path, default=None, help="folder of the published files of Burgers")
    parser.add_argument(
        "--sets", nargs="+", choices=list(SETS), default=None, help="which; all by default, two if --quick"
    )
    parser.add_argument("--models", nargs="+", choices=contestants.NAMES, default=contestants.MAIN, help="which models")
    parser.add_argument(
        "--stages", nargs="*", choices=["tune", "train", "cost"], default=["tune", "train", "cost"],
        help="which; with none of them only the time of a step is taken",
    )  # fmt: skip
    parser.add_argument(
        "--unrolls", nargs="+", choices=list(training.UNROLLS), default=WAYS,
        help="ways of training to try, learning rates with the first of them",
    )  # fmt: skip
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates to try")
    parser.add_argument("--seeds_2d", type=int, default=None, help="runs in two dimensions; one by default")
    args = parser.parse_args()
    if args.sets is None:
        args.sets = ["advection", "diffusion_reaction"] if args.quick else list(SETS)
    if args.quick:
        args.seconds, args.seeds, args.rates, args.unrolls = 1.0, 1, [2e-3], ["pushforward"]
    check_positive(parser, args, "seconds", "seeds", "seeds_2d", "per_gpu", "rates")
    return args


if __name__ == "__main__":
    given = arguments()
    if given.report:
        report.write(given.results)
    else:
        try:
            main(given)
        except FlareConnectError as error:
            raise SystemExit(str(error)) from error
