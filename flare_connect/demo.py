"""The whole path on a laptop: finite-element cells, a small surrogate, a prediction, a picture, one number."""

from pathlib import Path

from flare_connect.errors import ConfigError


def run_demo(out: Path, *, num_train: int, num_test: int, num_nodes: int, epochs: int) -> dict[str, float]:
    """Generate perforated cells, train on them, predict one that was never seen, draw it.

    Args:
        out: folder for `cells.h5`, the trained model and `stress.png`.
        num_train: cells to train on.
        num_test: cells to test on.
        num_nodes: nodes of a cell.
        epochs: passes over the training cells.

    Returns:
        `rel_l2` of von Mises stress over the test cells, and `rel_l2_of_mean`, that of predicting the training mean.

    Raises:
        ConfigError: if gmsh or scikit-fem is missing.
    """
    try:
        from flare_datasets.unit_cells import UnitCellConfig, generate
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'flare-connect[generate]'") from error
    import flare_connect as fc

    print(f"1/4  {num_train + 2 * num_test} finite-element cells")
    # One hole a cell: what a small model learns within minutes. The defaults, up to four holes that nearly touch, want
    # a GPU.
    cells = UnitCellConfig(
        num_train=num_train,
        num_val=num_test,
        num_test=num_test,
        num_shift=0,
        num_nodes=num_nodes,
        num_holes=(1, 1),
        seed=1,
    )
    path = generate(out / "cells.h5", cells)
    print("2/4  training")
    config = fc.TrainConfig(
        data=fc.DataConfig(
            path=str(path),
            outputs=("von_mises",),
            conditions=("macro_strain",),
            directional=("macro_strain",),
            boundary={"holes": "free"},
            harmonic="macro_strain",
            batch_size=4,
        ),
        model=fc.Architecture(channels=48, num_blocks=2, num_latents=16, num_kv_layers=-1),
        optimiser=fc.OptimiserConfig(epochs=epochs, learning_rate=5e-3),
        output=str(out / "model"),
        accelerator="cpu",
    )
    fc.fit(config)
    print("3/4  prediction")
    model = fc.FlareConnect.from_pretrained(config.output)
    with fc.MeshStore(path) as store:
        errors = fc.evaluate(model, store, "test")["von_mises"]
        # The median cell: neither the best nor the worst of those never seen.
        order = sorted(range(len(errors.rel_l2_per_mesh)), key=errors.rel_l2_per_mesh.__getitem__)
        mesh = store[int(store.split("test")[order[len(order) // 2]])]
    prediction = model.predict(mesh)["von_mises"]
    print("4/4  picture")
    picture = out / "stress.png"
    fc.plot_field(mesh, prediction, truth=mesh.point_data["von_mises"], name="von Mises stress", save=picture)
    print(f"{picture}: prediction beside finite elements, on a cell that the model never saw")
    print(
        f"relative L2 error of von Mises stress over {num_test} unseen cells: {errors.rel_l2:.3f} "
        f"(predicting the training mean: {errors.rel_l2_of_mean:.3f})"
    )
    return {"rel_l2": errors.rel_l2, "rel_l2_of_mean": errors.rel_l2_of_mean}
