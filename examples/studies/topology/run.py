"""Fields that jump between close points: ours, its ablations and the peers, the same time and parameters for each.

    python examples/studies/topology/run.py                     # on a machine with GPUs: all sets and models, hours
    python examples/studies/topology/run.py --sets plates --models ours FLARE --seconds 120 --seeds 1
    python examples/studies/topology/run.py --report            # tables and pictures from the results, where PyVista is
    python examples/studies/topology/run.py --quick             # two cores, minutes: only to see it run

Generates the data, takes the time of a step of each model, tries four learning rates for each on a third of the
training time and meshes (both without the harmonic inputs, unless all are with them), trains the best with every seed,
and writes a row for each model, split and seed into `results/<set>.json`. Settings of ours that differ in one part are
trained once, at the learning rate of ours. Rows that are there are not made again, so an
interrupted run goes on where it was. `--out` keeps data and the worst meshes of each model for the pictures.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import contestants
import report
from jobs import Crew, Job, Results, crew, provenance
from preparing import prepare
from sets import SETS

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from options import check_positive, parser_of

HERE = Path(__file__).parent
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
TIMED = 1.0


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        study = SETS[name]
        results = Results((args.out if args.quick else args.results) / f"{name}{'_quick' if args.quick else ''}.json")
        kinds = [h for h in (False, True) if args.harmonic is None or h == (args.harmonic == "with")]
        # Runs with the same inputs after one another, since each process keeps one kind on its device.
        models = [model for model in contestants.of(study) if model in args.models]
        if not models:
            continue  # none of those asked for takes part
        todo = [(model, harmonic) for harmonic in kinds for model in models]
        prepared = prepare(
            study, study.generate(args.out, args.quick, args.workers), args.workers or os.cpu_count() or 1,
            [contestants.architecture(model) for model in models],
        )  # fmt: skip
        if not args.any_machine:
            results.check_machine(provenance(prepared)["machine"])
        elif untimed := [model for model in models if not results.timed(model=model)]:
            raise SystemExit(f"{results.path} has no times of {', '.join(untimed)}: leave out --any_machine once")
        with crew(prepared, args.per_gpu, args.out) as workers:
            run(workers, results, args, todo)
        print(report.table(results.rows))


def run(crew: Crew, results: Results, args: argparse.Namespace, todo: list[tuple[str, bool]]) -> None:
    """All stages of one data set, of pairs of a model and whether it has the harmonic inputs."""
    models = list(dict.fromkeys(model for model, _ in todo))
    first = todo[0][1]  # the kind of inputs for which time is taken and rates are tried
    if not args.any_machine:
        crew.run([Job(stage="time", model=m, harmonic=first, seconds=TIMED) for m in models], results)
    rates = [args.learning_rate] if args.learning_rate else list(RATES)
    if len(rates) > 1 and "tune" in args.stages:
        shorter = args.seconds / 3
        tuning = [
            Job(
                stage="tune", model=m, harmonic=first, learning_rate=rate, seconds=shorter,
                steps=results.steps(shorter, model=m),
            )
            for m, rate in itertools.product(models, rates) if m not in contestants.PARTS
        ]  # fmt: skip
        crew.run(tuning, results)
    if "train" in args.stages:
        final = [
            Job(
                stage="train", model=m, harmonic=h, seed=s, seconds=args.seconds,
                steps=results.steps(args.seconds, model=m),
                learning_rate=results.best(
                    "learning_rate", "val_rel_l2", rates, model="ours" if m in contestants.PARTS else m
                ),
            )
            for s, (m, h) in itertools.product(range(args.seeds), todo)
            if m not in contestants.PARTS or (s == 0 and h == first)
        ]  # fmt: skip
        crew.run(final, results)


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "topology", HERE / "results", seconds=300.0, seeds=3, per_gpu=2)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="which data sets")
    parser.add_argument(
        "--models", nargs="+", choices=contestants.NAMES, help="which models; all by default, two if --quick"
    )
    parser.add_argument(
        "--harmonic", choices=["with", "without"], default=None, help="only with these inputs, or without"
    )
    parser.add_argument(
        "--stages",
        nargs="*",
        choices=["tune", "train"],
        default=["tune", "train"],
        help="which; with none of them only the time of a step is taken",
    )
    parser.add_argument("--learning_rate", type=float, default=None, help="one for all, instead of trying four")
    parser.add_argument(
        "--any_machine", action="store_true",
        help="train here as many steps as fit into the time where they were timed, be it another machine",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=None, help="processes that make meshes; all cores by default")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.seeds, args.learning_rate = 3.0, 1, 1e-3
    if args.models is None:
        args.models = ["ours", "FLARE"] if args.quick else list(contestants.NAMES)
    check_positive(parser, args, "seconds", "seeds", "per_gpu", "workers", "learning_rate")
    return args


if __name__ == "__main__":
    given = arguments()
    if given.report:
        report.write(given.results, given.out)
    else:
        main(given)
