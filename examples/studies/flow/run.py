"""Flow past holes, stepped from its first frame: FlareRollout, its ablations and MeshGraphNet, the same time for each.

    python examples/studies/flow/run.py                     # on a machine with GPUs
    python examples/studies/flow/run.py --data_only         # the series alone, where gmsh and scikit-fem are
    python examples/studies/flow/run.py --models ours MeshGraphNet --seconds 60 --seeds 1
    python examples/studies/flow/run.py --report            # table, curves and pictures, where PyVista is
    python examples/studies/flow/run.py --quick             # two cores, two minutes: only to see it run

Generates the series (or takes `channels.h5` in `--out` as it is), takes the time of a step of each model, tries
learning rates for ours and the peer on a third of the training time, trains the best with every seed, and writes a row
for each model, split and seed into `results/flow.json`. Rows that are there are not made again, so an interrupted run
goes on where it was.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import preparing
import report
from contestants import CONTESTANTS
from jobs import Job, crew

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from crew import Crew, take_times
from options import check_positive, parser_of
from rows import Results

HERE = Path(__file__).parent
RATES = (5e-4, 1e-3, 3e-3, 6e-3)
TIMED = 2.0


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    size = "quick" if args.quick else "full"
    data = preparing.generated(args.out, args.quick, args.workers)
    print(data)
    if args.data_only:
        return
    results = Results(args.out / "flow_quick.json" if args.quick else args.results / "flow.json")
    with crew(data, size, args.per_gpu, args.out) as workers:
        results.check_machine(workers.common["machine"])
        preparing.Graphs.of(data, size, progress=True)  # costs of anchors into their cache, once for all processes
        run(workers, results, args, size)
    print(report.table(results.rows))


def run(workers: Crew, results: Results, args: argparse.Namespace, size: str) -> None:
    """All stages."""

    def job(stage: str, model: str, seconds: float, rate: float, seed: int = 0) -> Job:
        settings = {"stage": stage, "model": model, "size": size, "seed": seed}
        return results.fitted(Job(seconds=seconds, learning_rate=rate, **settings), model=model)

    timed = min(TIMED, args.seconds)
    take_times(workers, [Job(stage="time", model=m, size=size, seconds=timed) for m in args.models], results)
    rates = [args.learning_rate] if args.learning_rate else list(RATES)
    own = list(dict.fromkeys(CONTESTANTS[m].rate_of or m for m in args.models))
    if len(rates) > 1:
        tuning = [job("tune", m, args.seconds / 3, rate) for m, rate in itertools.product(own, rates)]
        workers.run(tuning, results)
    best = {m: results.best("learning_rate", "val_nrmse", rates, model=m) for m in own}
    final = [
        job("train", m, args.seconds, best[CONTESTANTS[m].rate_of or m], seed)
        for seed, m in itertools.product(range(args.seeds), args.models)
    ]
    workers.run([Job(stage="train", model="persistence", size=size, seconds=0.0), *final], results)


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "flow", HERE / "results", seconds=60.0, seeds=3, per_gpu=2)
    parser.add_argument(
        "--models", nargs="+", choices=list(CONTESTANTS), help="which models; all by default, two if --quick"
    )
    parser.add_argument("--learning_rate", type=float, default=None, help="one for all, instead of trying some")
    parser.add_argument("--workers", type=int, default=None, help="processes that make series; all cores by default")
    parser.add_argument("--data_only", action="store_true", help="only make the series")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.seeds, args.learning_rate = min(args.seconds, 4.0), 1, args.learning_rate or 3e-3
    if args.models is None:
        args.models = ["ours", "MeshGraphNet"] if args.quick else list(CONTESTANTS)
    missing = [CONTESTANTS[m].rate_of for m in args.models if CONTESTANTS[m].rate_of not in ("", *args.models)]
    if missing and args.learning_rate is None:
        parser.error(f"learning rates are those of {missing[0]!r}: name it among --models, or give --learning_rate")
    check_positive(parser, args, "seconds", "seeds", "per_gpu", "workers", "learning_rate")
    return args


if __name__ == "__main__":
    given = arguments()
    if given.report:
        report.write(given.results, given.out)
    else:
        main(given)
