"""Heat over time: hot spots spread through plates with slits, a rollout steps them on.

Meshes plates with slits, lets heat flow in them by finite elements and implicit steps, trains a small rollout on the
series, steps a plate on that the model has never seen, draws the last frame and prints the relative L2 error. Run it
with

    python examples/03_heat_over_time.py                         # sensible sizes
    python examples/03_heat_over_time.py --plates 8 --epochs 2   # only to see it run

Run it again after an interruption: finished plates and finished epochs are kept. It needs the extra `generate` (gmsh,
scikit-fem).
"""

# --8<-- [start:imports]
import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import diags
from scipy.sparse.linalg import splu
from tqdm import tqdm

import flare_connect as fc
from flare_connect.mesh.operators import laplacian
from flare_datasets.slit_plates import SlitPlateConfig, generate

# --8<-- [end:imports]

FRAMES, TIME_STEP = 20, 0.002  # in units of side² / diffusivity


def main(out: Path, num_plates: int, num_nodes: int, epochs: int) -> None:
    # --8<-- [start:generate]
    # The meshes of a set of plates; their own fields, a steady temperature, are not used here.
    num_other = max(num_plates // 8, 2)
    counts = {"num_train": num_plates, "num_val": num_other, "num_test": num_other}
    others = {f"num_{name}": 0 for name in ("more", "serpentine", "comb", "spiral")}
    plates = SlitPlateConfig(physics="heat", num_nodes=num_nodes, opening=(0.25, 1.0), **counts, **others)
    with fc.MeshStore(generate(out / "plates.h5", plates)) as store:
        if not (out / "series.h5").is_file():
            meshes = tqdm((store[i] for i in range(len(store))), desc="series", unit="plate", total=len(store))
            fc.write_store(
                out / "series.h5",
                (with_series(mesh, seed) for seed, mesh in enumerate(meshes)),
                splits={name: ids for name, ids in store.splits.items() if len(ids)},
                generator="heat over time", generator_version=1, seed=0, parameters={"time step": TIME_STEP},
            )  # fmt: skip
    # --8<-- [end:generate]

    # --8<-- [start:train]
    config = fc.RolloutTrainConfig(
        data=fc.SeriesConfig(path=str(out / "series.h5"), fields=("temperature",), batch_size=4, window=8),
        # Three of its own predictions in a row, at most, and then the one that is learned: a rollout reads what it
        # wrote, and a model that has only seen true frames does not know how its own look. Noise on what it reads
        # teaches it to smooth what is as fine as the elements: true frames have nothing of it, and it would grow.
        unroll=fc.UnrollConfig(own_steps=3, noise=0.3),
        model=fc.Architecture(channels=32, num_blocks=2, num_heads=4, num_latents=16, num_kv_layers=-1),
        optimiser=fc.OptimiserConfig(epochs=epochs, learning_rate=5e-3),
        output=str(out / "model"),
    )
    fc.fit(config)
    # --8<-- [end:train]

    # --8<-- [start:rollout]
    # One frame in, all others out; the memory of a rollout is the same after one step and after a million.
    model = fc.FlareRollout.from_pretrained(out / "model")
    errors = []
    with fc.MeshStore(out / "series.h5") as store:
        for i in store.split("test"):
            mesh = store[int(i)]
            truth = mesh.point_data["temperature"]
            guess = model.rollout(mesh, {"temperature": truth[:, :1]}, FRAMES - 1)["temperature"]
            errors.append(((guess - truth[:, 1:]).norm(dim=0) / truth[:, 1:].norm(dim=0)).mean().item())
    # --8<-- [end:rollout]

    # --8<-- [start:plot]
    fc.plot_field(mesh, guess[:, -1], truth=truth[:, -1], name="temperature", save=out / "heat.png")
    print(f"relative L2 error of {FRAMES - 1} frames on unseen plates: {np.mean(errors):.3f}")
    # --8<-- [end:plot]


# --8<-- [start:series]
def with_series(mesh: fc.Mesh, seed: int) -> fc.Mesh:
    """The mesh with a series [N, T] of temperatures: two hot spots that spread, no heat through any boundary."""
    generator = np.random.default_rng(seed)
    pos = mesh.pos.numpy()
    frame = np.zeros(len(pos))
    for centre in generator.uniform(0.15, 0.85, size=(2, 2)):
        frame += np.exp(-((pos - centre) ** 2).sum(1) / (2 * 0.08**2))
    mass = diags(mesh.node_volume.numpy().astype(np.float64))
    step = splu((mass + TIME_STEP * laplacian(pos, {k: v.numpy() for k, v in mesh.cells.items()})).tocsc())
    frames = [frame]
    for _ in range(FRAMES - 1):
        frames.append(step.solve(mass @ frames[-1]))
    series = torch.from_numpy(np.stack(frames, 1)).float()
    return fc.Mesh.from_arrays(mesh.pos, mesh.cells, point_data={"temperature": series}, units={"temperature": "K"})


# --8<-- [end:series]


# --8<-- [start:run]
# Generation starts worker processes, which import this file again: the work must not start on import.
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a rollout on heat that spreads through plates with slits.")
    parser.add_argument("--plates", type=int, default=48, help="plates to train on")
    parser.add_argument("--nodes", type=int, default=500, help="nodes of a plate")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training plates")
    parser.add_argument("--out", type=Path, default=Path("runs/heat_over_time"), help="folder for everything made")
    args = parser.parse_args()
    main(args.out, args.plates, args.nodes, args.epochs)
# --8<-- [end:run]
