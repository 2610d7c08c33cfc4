"""Series with a known solution: heat in an insulated square is a sum of cosines that fade."""

import numpy as np
import torch
from fixtures_meshes import square

from flare_connect.mesh import Mesh, write_store
from flare_connect.models import Architecture
from flare_connect.train import OptimiserConfig, RolloutTrainConfig, SeriesConfig

FRAMES = 12


def heat(side=8, seed=0, frames=FRAMES):
    """A mesh with the series "temperature" [N, T], in which waves of the square fade at their rates."""
    x, y, triangles, _ = square(side)
    generator = np.random.default_rng(seed)
    time = 0.03 * np.arange(frames)
    series = np.zeros((len(x), frames))
    for i in range(4):
        for j in range(4):
            wave = np.cos(np.pi * i * x) * np.cos(np.pi * j * y)
            series += generator.normal() * wave[:, None] * np.exp(-0.1 * np.pi**2 * (i**2 + j**2) * time)
    return Mesh.from_arrays(
        np.stack([x, y], 1), {"triangle": triangles}, point_data={"temperature": torch.from_numpy(series).float()},
        units={"temperature": "K"},
    )  # fmt: skip


def write_heat(path, count=20, **options):
    """Some of them; the last four are the splits "val" and "test"."""
    order = np.arange(count)
    return write_store(
        path, (heat(seed=i, **options) for i in range(count)),
        splits={"train": order[:-4], "val": order[-4:], "test": order[-4:]},
        generator="heat", generator_version=1, seed=0, parameters={"count": count},
    )  # fmt: skip


def rollout_config(data, output, *, epochs=4, unroll=None, **options):
    """A small model, a run of seconds."""
    return RolloutTrainConfig(
        data=SeriesConfig(**{"path": str(data), "fields": ("temperature",), "batch_size": 4, "window": 6} | options),
        output=str(output),
        model=Architecture(channels=16, num_blocks=2, num_heads=4, num_latents=4),
        optimiser=OptimiserConfig(epochs=epochs, learning_rate=5e-3),
        accelerator="cpu",
        progress=False,
        **({} if unroll is None else {"unroll": unroll}),
    )
