"""A small prepared data set and the configuration of a short run on it."""

import numpy as np
from fixtures_meshes import plate

from flare_connect.mesh import write_store
from flare_connect.models import Architecture
from flare_connect.train import DataConfig, OptimiserConfig, TrainConfig


def write_plates(path, count=6):
    """Plates of different sizes; the last two are the splits "val" and "test"."""
    order = np.arange(count)
    return write_store(
        path,
        (plate(4 + i, seed=i) for i in range(count)),
        splits={"train": order[:-2], "val": order[-2:], "test": order[-2:], "none": order[:0]},
        generator="plates",
        generator_version=1,
        seed=0,
        parameters={"count": count},
    )


def run_config(data, output, *, epochs=4, **options):
    """A model of two thousand weights, a run of seconds."""
    return TrainConfig(
        data=DataConfig(path=str(data), outputs=("stress",), conditions=("load",), batch_size=2),
        output=str(output),
        model=Architecture(channels=16, num_blocks=1, num_heads=4, num_latents=4),
        optimiser=OptimiserConfig(epochs=epochs, learning_rate=3e-3, **options),
        accelerator="cpu",
        progress=False,
    )
