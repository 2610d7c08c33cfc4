"""Your own mesh files: a folder of .vtu files in, a trained model, a prediction for ParaView out.

    python examples/02_your_own_mesh.py                    # writes a folder of stand-in files first
    python examples/02_your_own_mesh.py path/to/my/files --out runs/mine

Give each folder of files an `--out` of its own: a run that is found there is resumed.

Each file needs a point or cell field `von_mises`, node sets `hole` and `edge` and the field data `tension`. Other names
are a matter of changing the strings below.

The stand-in files are plates with one round hole under tension along x and y. Their stress is Kirsch's closed formula
for a hole in an *infinite* plate, written onto a finite one: good enough to learn from, no finite-element result.
"""

# --8<-- [start:imports]
import argparse
from pathlib import Path

import numpy as np
import pyvista as pv

import flare_connect as fc

# --8<-- [end:imports]


def main(folder: Path | None, out: Path, num_files: int, epochs: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if folder is None:
        folder = out / "plates"
        write_plates(folder, num_files)

    # --8<-- [start:prepare]
    # Three splits by file name. "val" chooses the best epoch, so that "test" is looked at once, at the end. Shuffled,
    # because names often follow a parameter, and a split by name would then test on the end of its range.
    files = np.random.default_rng(0).permutation(sorted(path.name for path in folder.glob("*.vtu"))).tolist()
    held_out = max(len(files) // 8, 1)
    splits = {"test": files[:held_out], "val": files[held_out : 2 * held_out], "train": files[2 * held_out :]}
    # Reading many files is slow and can fail half way; one packed file is read by every later run.
    fc.prepare_meshes(folder, out / "plates.h5", fields=["von_mises"], splits=splits, overwrite=True)
    # --8<-- [end:prepare]

    # --8<-- [start:train]
    config = fc.TrainConfig(
        data=fc.DataConfig(
            path=str(out / "plates.h5"),
            outputs=("von_mises",),
            conditions=("tension",),  # numbers of the whole mesh: field data in the file
            boundary={"hole": "free", "edge": "free"},  # node sets: two types of boundary, told apart
            val_split="val",
            batch_size=4,
        ),
        model=fc.Architecture(channels=32, num_blocks=2, num_heads=4, num_latents=16),
        optimiser=fc.OptimiserConfig(epochs=epochs, learning_rate=3e-3),
        output=str(out / "model"),
    )
    fc.fit(config)
    # --8<-- [end:train]

    # --8<-- [start:predict]
    # A file that was not trained on, read as any new file would be: the model needs its sets and numbers, no stress.
    model = fc.FlareConnect.from_pretrained(out / "model")
    mesh = fc.load_mesh(folder / splits["test"][0])
    stress = model.predict(mesh)["von_mises"]
    # The file keeps what it had; the prediction stands beside it under a name of its own.
    fc.save_fields(mesh, {"predicted": stress}, out / "prediction.vtu", units={"predicted": "MPa"})
    fc.plot_field(mesh, stress, truth="von_mises", name="von Mises stress", units="MPa", save=out / "prediction.png")
    with fc.MeshStore(out / "plates.h5") as store:
        errors = fc.evaluate(model, store, "test")["von_mises"]
    print(
        f"relative L2 error of von Mises stress on test files: {errors.rel_l2:.3f} "
        f"(predicting the training mean: {errors.rel_l2_of_mean:.3f})"
    )
    # --8<-- [end:predict]


# --8<-- [start:write]
def write_plates(folder: Path, num_files: int) -> None:
    """Writes square plates of side 2 m with one hole, each with its own hole and tension."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(num_files):
        radius = rng.uniform(0.15, 0.4)
        centre = rng.uniform(-0.25, 0.25, size=2)
        tension = rng.uniform([60.0, -60.0], [120.0, 60.0])  # MPa, along x and y
        points, triangles, ring = polar_mesh(radius, centre)

        grid = pv.UnstructuredGrid({pv.CellType.TRIANGLE: triangles}, np.pad(points, ((0, 0), (0, 1))))
        grid.point_data["von_mises"] = kirsch_von_mises(points - centre, radius, tension)
        grid.point_data["set:hole"] = (ring == 0).astype(np.uint8)  # an array `set:NAME` is the node set NAME
        grid.point_data["set:edge"] = (ring == ring.max()).astype(np.uint8)
        grid.field_data["tension"] = tension  # field data are the numbers of the whole mesh
        grid.save(folder / f"plate_{i:03d}.vtu")


# --8<-- [end:write]


def polar_mesh(radius: float, centre: np.ndarray, num_around: int = 32, num_out: int = 10) -> tuple[np.ndarray, ...]:
    """Triangles in rings from the hole to the edge of the plate; nodes `[N, 2]`, triangles `[n, 3]`, ring `[N]`."""
    # The first node lies on the diagonal, so that with a multiple of eight nodes there is one in each corner.
    angle = np.pi / 4 + 2 * np.pi * np.arange(num_around) / num_around
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    hole = centre + radius * direction
    edge = direction / np.abs(direction).max(axis=1, keepdims=True)
    # Rings are close together at the hole, where the stress changes fast.
    share = np.linspace(0, 1, num_out)[:, None, None] ** 1.5
    points = hole + share * (edge - hole)
    node = np.arange(num_out * num_around).reshape(num_out, num_around)
    a, b = node[:-1], node[1:]
    c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 2), triangles, np.repeat(np.arange(num_out), num_around)


def kirsch_von_mises(points: np.ndarray, radius: float, tension: np.ndarray) -> np.ndarray:
    """Plane-stress von Mises stress around a hole in an infinite plate that is pulled along x and y (Kirsch, 1898)."""
    r, angle = np.hypot(*points.T), np.arctan2(*points.T[::-1])
    s = (radius / r) ** 2
    mean, half = tension.sum() / 2, (tension[0] - tension[1]) / 2  # an even part and a shearing part
    rr = mean * (1 - s) + half * (1 - 4 * s + 3 * s**2) * np.cos(2 * angle)
    tt = mean * (1 + s) - half * (1 + 3 * s**2) * np.cos(2 * angle)
    rt = -half * (1 + 2 * s - 3 * s**2) * np.sin(2 * angle)
    return np.sqrt(rr**2 - rr * tt + tt**2 + 3 * rt**2).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a surrogate on a folder of mesh files.")
    parser.add_argument("folder", type=Path, nargs="?", help="folder of .vtu files; stand-in files by default")
    parser.add_argument("--files", type=int, default=64, help="stand-in files to write")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training files")
    parser.add_argument("--out", type=Path, default=Path("runs/your_own_mesh"), help="folder for everything made")
    args = parser.parse_args()
    main(args.folder, args.out, args.files, args.epochs)
