"""The whole path on a laptop: finite-element cells, a small surrogate, predictions, a picture, one number.

A model that comes with the package predicts the same cells.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from flare_connect.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from flare_connect.mesh import Mesh
    from flare_connect.models import FlareConnect
    from flare_connect.train import TrainConfig
    from flare_datasets.unit_cells import UnitCellConfig

SHIPPED = "unit-cells"


def run_demo(
    out: Path, *, num_train: int, num_test: int, num_nodes: int, test_nodes: int, epochs: int
) -> dict[str, float]:
    """Generate perforated cells, train on them, predict others that were never seen, draw one.

    Args:
        out: folder for `cells.h5`, `unseen.h5`, the trained model and `stress.png`.
        num_train: cells to train on.
        num_test: cells to test on, and as many to choose the best epoch by.
        num_nodes: nodes of a cell to train on.
        test_nodes: nodes of a cell to test on.
        epochs: passes over the training cells.

    Returns:
        Relative L2 errors of von Mises stress, means over the test cells: `rel_l2` of the model trained here,
        `rel_l2_shipped` of the one that comes with the package, `rel_l2_of_mean` of predicting the training mean.

    Raises:
        ConfigError: if gmsh or scikit-fem is missing.
    """
    import torch

    import flare_connect as fc
    from flare_connect.metrics import relative_l2

    cells = _cells(num_train, num_test, num_nodes)
    shipped = fc.FlareConnect.from_pretrained(SHIPPED)
    print(f"1/4  {num_train + 2 * num_test} finite-element cells")
    # Coarse meshes train fast, and what is learned there holds on fine ones. The shipped model knows fine ones only.
    unseen = replace(cells, num_train=0, num_val=0, num_test=num_test, num_nodes=test_nodes)
    path, mean, meshes = _generated(out, cells, unseen)

    print("2/4  training")
    config = _training(path, out / "model", epochs)
    fc.fit(config)

    print("3/4  prediction")
    models = {"trained here": fc.FlareConnect.from_pretrained(config.output), "shipped": shipped}
    predictions = {name: _von_mises(model, meshes, cells.poisson_ratio) for name, model in models.items()}
    truths = [mesh.point_data["von_mises"] for mesh in meshes]
    errors = {
        name: [relative_l2(*pair) for pair in zip(fields, truths, strict=True)] for name, fields in predictions.items()
    }

    print("4/4  picture")
    picture = out / "stress.png"
    # The median cell: neither the best nor the worst of those never seen.
    chosen = sorted(range(num_test), key=errors["trained here"].__getitem__)[num_test // 2]
    _draw(meshes[chosen], {name: fields[chosen] for name, fields in predictions.items()}, picture)
    print(f"{picture}: finite elements, the model trained here and the shipped one, on a cell that neither saw")
    found = {
        "rel_l2": fmean(errors["trained here"]),
        "rel_l2_shipped": fmean(errors["shipped"]),
        "rel_l2_of_mean": fmean(relative_l2(torch.full_like(truth, mean), truth) for truth in truths),
    }
    print(f"the shipped model {SHIPPED!r} on the same cells: {found['rel_l2_shipped']:.3f}")
    print(
        f"relative L2 error of von Mises stress over {num_test} unseen cells: {found['rel_l2']:.3f} "
        f"(predicting the training mean: {found['rel_l2_of_mean']:.3f})"
    )
    return found


def _cells(num_train: int, num_test: int, num_nodes: int) -> "UnitCellConfig":
    """What a small model learns within minutes: one hole a cell.

    The defaults, up to four holes that nearly touch, want a GPU.
    """
    try:
        from flare_datasets.unit_cells import UnitCellConfig, generate  # noqa: F401 (needed after this, named if missing)
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'flare-connect[generate]'") from error

    return UnitCellConfig(
        num_train=num_train, num_val=num_test, num_test=0, num_shift=0, num_nodes=num_nodes, num_holes=(1, 1), seed=1
    )


def _generated(out: Path, cells: "UnitCellConfig", unseen: "UnitCellConfig") -> "tuple[Path, float, list[Mesh]]":
    """The file to train on, the mean of its von Mises stress, and the cells to test on."""
    from flare_connect.mesh import MeshStore
    from flare_datasets.unit_cells import generate

    path = generate(out / "cells.h5", cells)
    with MeshStore(path) as store:
        mean = float(store.statistics("train")["von_mises"]["mean"][0])
    with MeshStore(generate(out / "unseen.h5", unseen)) as store:
        return path, mean, list(store)


def _training(data: Path, output: Path, epochs: int) -> "TrainConfig":
    """A model that two cores train in a minute."""
    import flare_connect as fc

    return fc.TrainConfig(
        data=fc.DataConfig(
            path=str(data),
            # Stress answers strain linearly, and `loads` says so; von Mises stress, which does not, follows from it.
            outputs=("stress",),
            conditions=("macro_strain",),
            loads=("macro_strain",),
            directional=("macro_strain",),
            boundary={"holes": "free"},
            harmonic="macro_strain",
            batch_size=4,
        ),
        model=fc.Architecture(channels=48, num_blocks=2, num_latents=16, num_kv_layers=-1),
        optimiser=fc.OptimiserConfig(epochs=epochs, learning_rate=5e-3),
        output=str(output),
        accelerator="cpu",
    )


def _draw(mesh: "Mesh", fields: "dict[str, Tensor]", picture: Path) -> None:
    """Von Mises stress of finite elements and of each model, side by side."""
    from flare_connect.viz import plot_worst

    plot_worst(
        mesh,
        "von_mises",
        fields,
        name="von Mises stress",
        units="Young's modulus",
        truth_title="finite elements",
        errors=False,
        save=picture,
    )


def _von_mises(model: "FlareConnect", meshes: "Sequence[Mesh]", poisson_ratio: float) -> "list[Tensor]":
    """Von Mises stress `[N]` of each mesh, from the stress that the model predicts."""
    from tqdm import tqdm

    from flare_connect.metrics import von_mises

    steps = tqdm(meshes, desc="predict", unit="mesh", leave=False)
    return [von_mises(model.predict(mesh)["stress"], poisson_ratio=poisson_ratio) for mesh in steps]
