"""Generators of the two-dimensional families: files that are read as published ones, resumed, and refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.pdebench import PDEBenchWriter, open_pdebench
from flare_datasets.pdebench.solvers import darcy, diffusion_reaction, incompressible, shallow_water
from flare_datasets.pdebench.solvers.darcy import DarcyConfig
from flare_datasets.pdebench.solvers.diffusion_reaction import DiffusionReactionConfig
from flare_datasets.pdebench.solvers.incompressible import IncompressibleConfig
from flare_datasets.pdebench.solvers.shallow_water import ShallowWaterConfig
from flare_datasets.pdebench.solvers.two_d_grids import cell_centres

CASES = {
    "shallow_water": (shallow_water, ShallowWaterConfig(num_samples=3, resolution=32, num_frames=11)),
    "diffusion_reaction": (diffusion_reaction, DiffusionReactionConfig(num_samples=3, resolution=8, num_frames=11)),
    "darcy": (darcy, DarcyConfig(num_samples=3, resolution=8, beta=10.0)),
    "incompressible": (
        incompressible,
        IncompressibleConfig(num_samples=3, resolution=8, num_frames=11, end_time=0.2),
    ),
}


def read(path):
    """All samples and their static fields."""
    with open_pdebench(path) as file:
        return np.stack(list(file)), [file.static(i) for i in range(len(file))] if file.family.static else None


@pytest.mark.parametrize("pde", CASES)
def test_generated_files_are_read_as_what_they_are(pde, tmp_path):
    module, config = CASES[pde]
    with open_pdebench(module.generate(tmp_path / "a.h5", config, progress=False)) as file:
        assert (file.family.name, len(file)) == (pde, 3)
        low, high = {"shallow_water": (-2.5, 2.5), "diffusion_reaction": (-1.0, 1.0)}.get(pde, (0.0, 1.0))
        np.testing.assert_allclose(file.grid[:, 0, 0], cell_centres(config.resolution, low, high), atol=1e-6)
        if pde == "darcy":
            assert file.parameters == {"beta": 10.0}
            assert set(np.unique(file.static(0))) == {np.float32(0.1), np.float32(1.0)}
        else:
            np.testing.assert_allclose(file.times(), config.times, atol=1e-6)
        samples = list(file)
    assert all(np.isfinite(sample).all() for sample in samples)
    assert not np.array_equal(samples[0], samples[1])


@pytest.mark.parametrize("pde", CASES)
def test_an_interrupted_file_goes_on_and_is_the_same(pde, tmp_path, monkeypatch):
    module, config = CASES[pde]
    whole = read(module.generate(tmp_path / "whole.h5", config, progress=False))
    write, written = PDEBenchWriter.write, []

    def stop_at_third(self, index, *args):
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, index, *args)
        written.append(index)

    with monkeypatch.context() as patch:
        patch.setattr(PDEBenchWriter, "write", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            module.generate(tmp_path / "broken.h5", config, batch_size=1, progress=False)
    assert not (tmp_path / "broken.h5").exists()
    resumed = read(module.generate(tmp_path / "broken.h5", config, batch_size=2, progress=False))
    np.testing.assert_allclose(resumed[0], whole[0], rtol=0, atol=2e-6 * np.abs(whole[0]).max())
    if whole[1] is not None:
        np.testing.assert_array_equal(resumed[1], whole[1])


@pytest.mark.parametrize("pde", CASES)
def test_files_of_other_settings_are_refused(pde, tmp_path, capfd):
    module, config = CASES[pde]
    path = module.generate(tmp_path / "a.h5", config)
    assert "3/3" in capfd.readouterr().err
    assert module.generate(path, config) == path  # at once
    other = replace(config, seed=1)
    with pytest.raises(StoreError, match="seed"):
        module.generate(path, other, progress=False)
    before = read(path)[0]
    after = read(module.generate(path, other, progress=False, overwrite=True))[0]
    assert not np.array_equal(before, after)
    with pytest.raises(ConfigError, match="batch_size"):
        module.generate(tmp_path / "b.h5", config, batch_size=0)


def test_samples_do_not_change_with_their_number(tmp_path):
    module, config = CASES["darcy"]
    three, two = (module.generate(tmp_path / f"{n}.h5", replace(config, num_samples=n), progress=False) for n in (3, 2))
    np.testing.assert_allclose(read(three)[0][:2], read(two)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (ShallowWaterConfig, {"num_samples": 0}, "num_samples"),
        (ShallowWaterConfig, {"num_samples": 10_001}, "num_samples"),
        (ShallowWaterConfig, {"radius": (0.7, 0.3)}, "radius"),
        (ShallowWaterConfig, {"boundary": "periodic"}, "boundary"),
        (ShallowWaterConfig, {"outer_depth": 0.0}, "outer_depth"),
        (ShallowWaterConfig, {"resolution": 2}, "resolution"),
        (DiffusionReactionConfig, {"num_frames": 1}, "num_frames"),
        (DiffusionReactionConfig, {"diffusion_v": -1.0}, "diffusion_v"),
        (DiffusionReactionConfig, {"k": math.nan}, "`k`"),
        (DarcyConfig, {"beta": 0.0}, "beta"),
        (DarcyConfig, {"values": (0.1,)}, "values"),
        (DarcyConfig, {"alpha": 0.5}, "alpha"),
        (IncompressibleConfig, {"viscosity": True}, "viscosity"),
        (IncompressibleConfig, {"num_waves": 64}, "num_waves"),
        (IncompressibleConfig, {"velocity_scale": 0.0, "force_scale": 0.0}, "at rest"),
        (IncompressibleConfig, {"walls": "periodic"}, "walls"),
    ],
)
def test_settings_out_of_range_are_refused(config, change, message):
    with pytest.raises(ConfigError, match=message):
        config(**({"num_samples": 1} | change))


@pytest.mark.gpu
@pytest.mark.parametrize("pde", CASES)
def test_a_gpu_gives_the_same_file(pde, tmp_path):
    module, config = CASES[pde]
    here, there = (module.generate(tmp_path / f"{d}.h5", config, device=d, progress=False) for d in ("cpu", "cuda"))
    a, b = read(here)[0], read(there)[0]
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(a).max())
