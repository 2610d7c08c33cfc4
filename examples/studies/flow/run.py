"""Flow past holes, stepped from its first frame: FlareRollout, its ablations and MeshGraphNet, the same time for each.

    python examples/studies/flow/run.py                     # on a machine with GPUs
    python examples/studies/flow/run.py --data_only         # the series alone, where gmsh and scikit-fem are
    python examples/studies/flow/run.py --models ours MeshGraphNet --seconds 60 --seeds 1
    python examples/studies/flow/run.py --report            # table and pictures from the results, where PyVista is
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
from jobs import Crew, Job, Results, provenance

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
    results.check_machine(provenance()["machine"])
    preparing.Graphs.of(data, size, progress=True)  # costs of anchors into their cache, once for all processes
    with Crew(data, size, args.per_gpu, args.out) as crew:
        run(crew, results, args, size)
    print(report.table(results.rows))


def run(crew: Crew, results: Results, args: argparse.Namespace, size: str) -> None:
    """All stages."""
    crew.run(
        [Job(stage="time", model=m, size=size, seconds=min(TIMED, args.seconds)) for m in args.models],
        results,
        alone=True,
    )
    rates = [args.learning_rate] if args.learning_rate else list(RATES)
    own = list(dict.fromkeys(CONTESTANTS[m].rate_of or m for m in args.models))
    if len(rates) > 1:
        shorter = args.seconds / 3
        tuning = [
            Job(
                stage="tune", model=m, size=size, learning_rate=rate, seconds=shorter, steps=results.steps(m, shorter)
            )
            for m, rate in itertools.product(own, rates)
        ]  # fmt: skip
        crew.run(tuning, results)
    final = [
        Job(
            stage="train", model=m, size=size, seed=seed, seconds=args.seconds, steps=results.steps(m, args.seconds),
            learning_rate=results.best_rate(CONTESTANTS[m].rate_of or m, rates),
        )
        for seed, m in itertools.product(range(args.seeds), args.models)
    ]  # fmt: skip
    crew.run([Job(stage="train", model="persistence", size=size, seconds=0.0), *final], results)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/studies/flow"), help="folder for data and pictures")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument(
        "--models", nargs="+", choices=list(CONTESTANTS), help="which models; all by default, two if --quick"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of training for each run, on a GPU of its own")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--learning_rate", type=float, default=None, help="one for all, instead of trying some")
    parser.add_argument("--per_gpu", type=int, default=2, help="runs a GPU at a time")
    parser.add_argument("--workers", type=int, default=None, help="processes that make series; all cores by default")
    parser.add_argument("--data_only", action="store_true", help="only make the series")
    parser.add_argument("--quick", action="store_true", help="tiny meshes, seconds of training")
    parser.add_argument("--report", action="store_true", help="only table and pictures")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.seeds, args.learning_rate = min(args.seconds, 4.0), 1, args.learning_rate or 3e-3
    if args.models is None:
        args.models = ["ours", "MeshGraphNet"] if args.quick else list(CONTESTANTS)
    missing = [CONTESTANTS[m].rate_of for m in args.models if CONTESTANTS[m].rate_of not in ("", *args.models)]
    if missing and args.learning_rate is None:
        parser.error(f"learning rates are those of {missing[0]!r}: name it among --models, or give --learning_rate")
    for name in ("seconds", "seeds", "per_gpu", "workers", "learning_rate"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be positive, got {value}")
    return args


if __name__ == "__main__":
    given = arguments()
    if given.report:
        report.write(given.results, given.out)
    else:
        main(given)
