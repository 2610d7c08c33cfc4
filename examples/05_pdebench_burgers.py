"""Burgers from PDEBench: a file of waves that steepen into shocks, a rollout that steps them on, curves and a film.

Fills a file in the layout of the published ones, trains a small rollout on it, scores it with the benchmark's errors on
waves that it has never seen, draws the error of each frame, films a wave and prints the nRMSE. Run it with

    python examples/05_pdebench_burgers.py                          # sensible sizes
    python examples/05_pdebench_burgers.py --samples 20 --epochs 2  # only to see it run

A published file goes the same way: leave the first step out, and give its path to `open_pdebench`. Run it again after
an interruption: finished samples and finished epochs are kept.
"""

# --8<-- [start:imports]
import argparse
from pathlib import Path

import flare_connect as fc
from flare_connect.train import evaluate_on_grid, predict_on_grid
from flare_datasets.pdebench import PDEBenchGraphs, open_pdebench, prepare_pdebench
from flare_datasets.pdebench.solvers.burgers import BurgersConfig
from flare_datasets.pdebench.solvers.one_d_generation import generate

# --8<-- [end:imports]

GIVEN = 10  # frames, as in the benchmark


def main(out: Path, num_samples: int, epochs: int) -> None:
    # --8<-- [start:generate]
    # Fewer points, shorter waves and half the time of the published files, so that two cores need seconds for it.
    waves = BurgersConfig(nu=0.01, num_samples=num_samples, num_points=128, num_frames=41, end_time=1.0, max_number=2)
    path = generate(out / "1D_Burgers_Sols_Nu0.01.hdf5", waves)
    # --8<-- [end:generate]

    # --8<-- [start:prepare]
    # Whatever the family and its layout: a sequence of samples, read lazily; here every second point.
    file = open_pdebench(path, reduced_resolution=2)
    if not (out / "series.h5").is_file():
        prepare_pdebench(file, out / "series.h5")
    # --8<-- [end:prepare]

    # --8<-- [start:train]
    config = fc.RolloutTrainConfig(
        data=fc.SeriesConfig(path=str(out / "series.h5"), fields=("u",), batch_size=2, window=12, initial=GIVEN),
        unroll=fc.UnrollConfig(own_steps=1),
        # Small, so that a CPU trains it in a minute; examples/recipes/pdebench has larger ones.
        model=fc.Architecture(channels=32, num_blocks=2, num_heads=4, num_latents=16, num_kv_layers=-1),
        optimiser=fc.OptimiserConfig(epochs=epochs, learning_rate=2e-3),
        output=str(out / "model"),
    )
    fc.fit(config)
    # --8<-- [end:train]

    # --8<-- [start:score]
    # The first tenth of the file is the test split, as published. Nothing of it was trained on or validated with.
    model = fc.FlareRollout.from_pretrained(out / "model")
    graphs = PDEBenchGraphs(file, "test")
    found = evaluate_on_grid(model, graphs, graphs.grid.to_grid, initial_step=GIVEN)
    # --8<-- [end:score]

    # --8<-- [start:draw]
    fc.plot_curves(found, channels=["u"], initial_step=GIVEN, window=config.data.window, save=out / "curves.png")
    prediction, truth = predict_on_grid(model, graphs[0], graphs.grid.to_grid, initial_step=GIVEN)
    fc.save_movie(
        truth, prediction, out / "film.gif", channels=["u"], coordinates=file.coordinates, times=file.times(),
        given=GIVEN, progress=True,
    )  # fmt: skip
    print(f"nRMSE of {file.num_frames - GIVEN} frames on unseen waves: {found['model'].scalars()['nrmse']:.3f}")
    # --8<-- [end:draw]


# --8<-- [start:run]
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a rollout on Burgers' equation in a file of PDEBench.")
    parser.add_argument("--samples", type=int, default=100, help="samples of the file; a tenth is the test split")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training samples")
    parser.add_argument("--out", type=Path, default=Path("runs/pdebench_burgers"), help="folder for everything made")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    main(args.out, args.samples, args.epochs)
# --8<-- [end:run]
