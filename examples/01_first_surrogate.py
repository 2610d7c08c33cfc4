"""The first surrogate: perforated cells in, von Mises stress out.

Makes periodic unit cells with holes by finite elements, trains a small model on them, predicts cells that the model
has never seen, draws one of them and prints the relative L2 error. Run it with

    python examples/01_first_surrogate.py                        # sensible sizes
    python examples/01_first_surrogate.py --cells 8 --epochs 2   # only to see it run

Run it again after an interruption: finished cells and finished epochs are kept. It needs the extra `generate` (gmsh,
scikit-fem).
"""

# --8<-- [start:imports]
import argparse
from pathlib import Path

import flare_connect as fc
from flare_datasets.unit_cells import UnitCellConfig, generate

# --8<-- [end:imports]


def main(out: Path, num_cells: int, num_nodes: int, epochs: int) -> None:
    # --8<-- [start:generate]
    # "val" chooses the best epoch. A number measured on cells that had a say in the training would flatter the model,
    # so the cells that are judged at the end, "test", are others.
    # One hole a cell is an easy set, on which a small model shows something within minutes. The defaults draw up to
    # four holes, some of which nearly touch: they want more cells and a longer training.
    num_other = max(num_cells // 8, 2)
    cells = UnitCellConfig(
        num_train=num_cells,
        num_val=num_other,
        num_test=num_other,
        num_shift=0,
        num_nodes=num_nodes,
        num_holes=(1, 1),
        seed=1,
    )
    generate(out / "cells.h5", cells)
    # --8<-- [end:generate]

    # --8<-- [start:train]
    config = fc.TrainConfig(
        data=fc.DataConfig(
            path=str(out / "cells.h5"),
            outputs=("von_mises",),
            # The load. Without it one geometry would have many right answers.
            conditions=("macro_strain",),
            # A strain has a direction: tell each node how it acts on the hole nearby.
            directional=("macro_strain",),
            # The holes are free surfaces, the sides are periodic: only the holes are a boundary to the physics.
            boundary={"holes": "free"},
            # One Laplace solve a cell tells each node how the strain goes round the holes.
            harmonic="macro_strain",
            batch_size=4,
        ),
        # Small, so that a CPU trains it in minutes; the defaults are larger.
        model=fc.Architecture(channels=48, num_blocks=2, num_latents=16, num_kv_layers=-1),
        optimiser=fc.OptimiserConfig(epochs=epochs, learning_rate=5e-3),
        output=str(out / "model"),
    )
    fc.fit(config)
    # --8<-- [end:train]

    # --8<-- [start:predict]
    # The folder is all that a prediction needs: weights, configuration and the statistics of the training data.
    model = fc.FlareConnect.from_pretrained(out / "model")
    with fc.MeshStore(out / "cells.h5") as store:
        errors = fc.evaluate(model, store, "test")["von_mises"]
        # The median cell is a fair one to look at: neither the best nor the worst.
        ranked = sorted(range(num_other), key=errors.rel_l2_per_mesh.__getitem__)
        mesh = store[int(store.split("test")[ranked[num_other // 2]])]
    stress = model.predict(mesh)["von_mises"]
    # --8<-- [end:predict]

    # --8<-- [start:plot]
    # Truth, prediction and error side by side: an error has a place, and one number does not show it.
    fc.plot_field(mesh, stress, truth="von_mises", name="von Mises stress", save=out / "stress.png")
    print(f"relative L2 error of von Mises stress on unseen cells: {errors.rel_l2:.3f}")
    # --8<-- [end:plot]


# --8<-- [start:run]
# Generation starts worker processes, which import this file again: the work must not start on import.
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a first surrogate on perforated cells.")
    parser.add_argument("--cells", type=int, default=240, help="cells to train on")
    parser.add_argument("--nodes", type=int, default=500, help="nodes of a cell")
    parser.add_argument("--epochs", type=int, default=16, help="passes over the training cells")
    parser.add_argument("--out", type=Path, default=Path("runs/first_surrogate"), help="folder for everything made")
    args = parser.parse_args()
    main(args.out, args.cells, args.nodes, args.epochs)
# --8<-- [end:run]
