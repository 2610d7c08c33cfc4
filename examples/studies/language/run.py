"""Causal FLARE along tokens, beside softmax attention: real text, stability of training, and associative recall.

    python examples/studies/language/run.py --bf16                        # one GPU: every stage, until its time is over
    python examples/studies/language/run.py --bf16 --stages recall --seconds 500
    python examples/studies/language/run.py --small --stages text         # two cores: the sizes of the example
    python examples/studies/language/run.py --report                      # tables from the rows
    python examples/studies/language/run.py --quick                       # two cores, two minutes: only to see it run

Writes rows into `results/language.json`, or `language_cpu.json` if `--small`, after each training. Rows that are there
are not made again, so an interrupted run goes on where it was. `--seconds` bounds each stage: no training is started
that might not end in it.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import summary
from stages import QUICK, SMALL, STAGES, Bench, Rows, Sizes, provenance
from variants import CHANGES, PEERS

HERE = Path(__file__).parent


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes, path = Sizes(), args.results / f"language{'-' * bool(args.part)}{args.part}.json"
    if args.quick:
        sizes, path = QUICK, args.out / "language_quick.json"
    elif args.small:
        sizes, path = SMALL, args.results / "language_cpu.json"
    if unknown := [count for count in args.latents if count not in sizes.numbers_of_latents]:
        raise SystemExit(f"--latents must be among {sorted(sizes.numbers_of_latents)}, got {unknown[0]}")
    options = ["--quick"] * args.quick + ["--small"] * args.small + ["--bf16"] * args.bf16
    options += [f"--impl {args.impl}"] * (args.impl != "auto")
    rows = Rows(path, provenance(device, " ".join(options)))
    bench = Bench(
        sizes=sizes, device=device, impl=args.impl, bf16=args.bf16, rows=rows, models=args.models, latents=args.latents,
        alone=not args.part,
    )  # fmt: skip
    for stage in args.stages:
        bench.run(stage, args.seeds, args.seconds)
    print(summary.text(rows.rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which")
    parser.add_argument("--seconds", type=float, default=3_600.0, help="of each stage")
    parser.add_argument("--seeds", type=int, default=1, help="runs on text of models at their best rate")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--impl", default="auto", help="of the operator, see flare_kernels.causal_mixer")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/language"), help="folder of what --quick makes")
    parser.add_argument("--models", nargs="+", choices=[*CHANGES, *PEERS], default=(), help="which; all by default")
    parser.add_argument("--latents", nargs="+", type=int, default=(), help="how many; all by default, 0 is softmax")
    parser.add_argument(
        "--part",
        default="",
        help="one of several processes on a device: the name of its file of rows; no times are kept",
    )
    parser.add_argument("--small", action="store_true", help="the sizes of the example")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few steps")
    parser.add_argument("--report", action="store_true", help="only tables")
    given = parser.parse_args()
    if given.report:
        summary.write(given.results)
    else:
        main(given)
