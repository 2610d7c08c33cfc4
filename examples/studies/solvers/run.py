"""How exact our solvers of PDEBench's equations are: errors on ever finer grids, and what they keep.

    python examples/studies/solvers/run.py            # a CPU, minutes
    python examples/studies/solvers/run.py --report   # only the tables, from the rows
    python examples/studies/solvers/run.py --solvers burgers darcy

Each problem has an answer that is known (`flare_datasets.pdebench.solvers.exact`), or for diffusion-reaction that of a
grid or a step far finer. Rows go into `results/solvers.json`, where those of a solver that is measured again take the
place of its old ones; tables into `results/tables.md`.
"""

import argparse
import itertools
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
sys.path.insert(0, str(Path(__file__).parent))

import rows
from cases import CONVERGENCE, KEPT, Convergence
from rows import Row
from tqdm import tqdm

from flare_connect.files import write_atomically

HERE = Path(__file__).parent
COMMAND = "python examples/studies/solvers/run.py"
WRITTEN = f"<!-- Written by `{COMMAND} --report`; change that, not this. -->"
LEAST = 1e-11  # an error below is one of rounding, which has no order


def measured(solvers: list[str], sizes: int | None = None) -> list[Row]:
    """Rows of some solvers, at the first few sizes of each problem."""
    found = []
    common = rows.provenance(COMMAND)
    known = [case for case in CONVERGENCE if case.solver in solvers]
    for case in tqdm(known, desc="convergence", unit="problem"):
        for size in case.sizes[:sizes]:
            begun = time.perf_counter()
            error = case.of(size)
            found.append(common | {
                "kind": "convergence", "solver": case.solver, "problem": case.problem, "refined": case.refined,
                "error_of": case.error, "factor": case.factor, "size": size, "error": error,
                "seconds": round(time.perf_counter() - begun, 3),
            })  # fmt: skip
    for each in tqdm([each for each in KEPT if each.solver in solvers], desc="what is kept", unit="problem"):
        found.append(common | {
            "kind": "kept", "solver": each.solver, "problem": each.problem, "what": each.what, "drift": each.drift(),
        })  # fmt: skip
    return found


def page(found: list[Row]) -> str:
    """Both tables in Markdown."""
    lines = ["| solver | problem | refined | error | errors, coarse to fine | orders |", "|---" * 6 + "|"]
    lines += [_line(case, found) for case in CONVERGENCE]
    kept = ["| solver | problem | kept | largest change, relative |", "|---" * 4 + "|"]
    kept += [
        f"| {row['solver']} | {row['problem']} | {row['what']} | {row['drift']:.1e} |"
        for row in found if row["kind"] == "kept"
    ]  # fmt: skip
    machines = "; ".join(sorted({f"{row['machine']}, commit {row['commit']}" for row in found}))
    return "\n\n".join([WRITTEN, "\n".join(filter(None, lines)), "\n".join(kept), f"Measured on {machines}."])


def _line(case: Convergence, found: list[Row]) -> str:
    mine = [row for row in found if row["kind"] == "convergence" and row["problem"] == case.problem]
    if not mine:
        return ""
    errors = [row["error"] for row in mine]
    orders = [f"{math.log(a / b, case.factor):.1f}" if b > LEAST else "rounding" for a, b in itertools.pairwise(errors)]
    sizes, values = (", ".join(each) for each in ((str(row["size"]) for row in mine), (f"{e:.1e}" for e in errors)))
    return (
        f"| {case.solver} | {case.problem} | {case.refined}: {sizes} | {case.error} | {values} | {', '.join(orders)} |"
    )


def main(args: argparse.Namespace) -> None:
    path = args.results / "solvers.json"
    results = rows.read(path)
    if not args.report:
        results = [row for row in results if row["solver"] not in args.solvers] + measured(args.solvers)
        args.results.mkdir(parents=True, exist_ok=True)
        rows.write(path, results)
    text = page(results)
    write_atomically(args.results / "tables.md", f"{text}\n".encode())
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(case.solver for case in CONVERGENCE))
    parser.add_argument("--solvers", nargs="+", choices=names, default=names, help="which; all by default")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--report", action="store_true", help="only the tables")
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
