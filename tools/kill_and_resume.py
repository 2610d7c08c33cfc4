"""Kills generation and training with SIGKILL at random moments, resumes them, and compares with unbroken runs.

    python tools/kill_and_resume.py [--kills 10] [--seed 0]

Counts only kills that hit a running process. A data set must hold the same numbers, a training must end with the same
weights and the same table of errors, bit for bit. Prints one line a part; exits with 1 if anything differs.
"""

import argparse
import csv
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import flare_connect as fc

CELLS = ["--cells.num_nodes", "700", "--cells.num_test", "2", "--cells.num_val", "6", "--cells.num_shift", "2"]
CLI = [sys.executable, "-m", "flare_connect.cli"]


def generation(out: Path, num_train: int) -> list[str]:
    """The command that makes a data set."""
    return [*CLI, "generate", "unit-cells", "--out", str(out), "--quiet", "--cells.num_train", str(num_train), *CELLS]


def training(data: Path, out: Path) -> list[str]:
    """The command that trains a small model."""
    return [
        *CLI, "train", "--data.path", str(data), "--data.conditions", "[macro_strain]", "--data.batch_size", "4",
        "--model.channels", "32", "--model.num_blocks", "2", "--model.num_heads", "4", "--model.num_latents", "16",
        "--optimiser.epochs", "24", "--accelerator", "cpu", "--progress", "false", "--output", str(out),
    ]  # fmt: skip


def run(command: list[str]) -> float:
    """Run to the end; seconds it took."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def broken(command: list[str], kills: int, waits: tuple[float, float], draw: random.Random) -> int:
    """Run to the end, killed on the way; the number of kills that hit."""
    hits = 0
    while hits < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(draw.uniform(*waits))
        except subprocess.TimeoutExpired:
            # The workers die of their own once their parent is gone; that is part of what is shown here.
            process.send_signal(signal.SIGKILL)
            process.wait()
            hits += 1
            continue
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
        break
    run(command)
    return hits


def digest(path: Path) -> str:
    """Of all that a data set holds."""
    with fc.MeshStore(path) as store:
        return store.digest


def trace(folder: Path) -> tuple[str, list]:
    """Weights, and the table without its clock."""
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    with (folder / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    return weights, rows


def main(kills: int, seed: int) -> bool:
    """Both parts; whether all was equal."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = run(generation(folder / "whole.h5", 160))
        # Starting takes seconds of its own, so a wait of this length leaves some samples done and the most to do.
        hits = broken(generation(folder / "broken.h5", 160), kills, (1.0, max(4.0, seconds / 4)), draw)
        same_data = digest(folder / "whole.h5") == digest(folder / "broken.h5")
        print(f"generation: {hits} kills (unbroken {seconds:.0f} s), content equal: {same_data}", flush=True)
        data = folder / "whole.h5"
        seconds = run(training(data, folder / "whole"))
        hits_in_training = broken(training(data, folder / "broken"), kills, (3.0, max(9.0, seconds / 4)), draw)
        same_run = trace(folder / "whole") == trace(folder / "broken")
        print(f"training: {hits_in_training} kills (unbroken {seconds:.0f} s), weights and table equal: {same_run}")
    return same_data and same_run and hits == hits_in_training == kills


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="kills of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    sys.exit(0 if main(args.kills, args.seed) else 1)
