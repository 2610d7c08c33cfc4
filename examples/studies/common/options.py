"""Options on the command line that studies have in common."""

import argparse
from pathlib import Path


def parser_of(
    words: str | None, name: str, results: Path, *, seconds: float, seeds: int, per_gpu: int
) -> argparse.ArgumentParser:
    """A parser with what every study can be told.

    Args:
        words: what the study is, with its commands.
        name: of the study; it has a folder of this name for data.
        results: folder of its results.
        seconds: of training by default.
        seeds: likewise.
        per_gpu: likewise.
    """
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    out = Path("runs/studies") / name
    parser.add_argument("--out", type=Path, default=out, help="folder for data, models and pictures")
    parser.add_argument("--results", type=Path, default=results, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=seconds, help="of training for each run, on a GPU of its own")
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of each model")
    parser.add_argument("--per_gpu", type=int, default=per_gpu, help="runs a GPU at a time")
    parser.add_argument("--quick", action="store_true", help="tiny meshes, seconds of training")
    parser.add_argument("--report", action="store_true", help="only tables and pictures")
    return parser


def check_positive(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Stops where a number that was given is not positive.

    Args:
        parser: which says so.
        args: what was given.
        names: of numbers, or of lists of them; None is no number.
    """
    for name in names:
        given = getattr(args, name)
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is not None and value <= 0:
                parser.error(f"--{name} must be positive, got {value}")
