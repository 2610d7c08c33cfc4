"""Files of PDEBench from the command line: what a generator of Python writes, in the layout that is read."""

import h5py
import numpy as np
import pytest

from flare_connect.cli import main
from flare_connect.cli.pdebench import _FAMILIES
from flare_datasets.pdebench import FAMILIES, open_pdebench
from flare_datasets.pdebench.solvers import (
    advection,
    burgers,
    compressible_1d,
    darcy,
    diffusion_reaction,
    diffusion_sorption,
    incompressible,
    one_d_generation,
    reaction_diffusion,
    shallow_water,
)

LINE = {"num_points": 16, "num_frames": 3, "end_time": 0.02}
TALL = {"resolution": 8, "num_frames": 3, "end_time": 0.02}
CFD = "1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5"
CASES = [
    ("1D_Advection_Sols_beta0.4.hdf5", advection.AdvectionConfig, {"beta": 0.4, "max_number": 4} | LINE),
    ("1D_Burgers_Sols_Nu0.01.hdf5", burgers.BurgersConfig, {"nu": 0.01, "max_number": 4} | LINE),
    ("ReacDiff_Nu0.5_Rho1.0.hdf5", reaction_diffusion.ReactionDiffusionConfig,
     {"nu": 0.5, "rho": 1.0, "max_number": 4} | LINE),
    ("1D_diff-sorp_NA_NA.h5", diffusion_sorption.DiffusionSorptionConfig, {"initial": (0.0, 0.1)} | LINE),
    (CFD, compressible_1d.CompressibleConfig, {"eta": 0.01, "zeta": 0.01, "mach": 0.5, "num_points": 32} | LINE),
    ("2D_DarcyFlow_beta1.0_Train.hdf5", darcy.DarcyConfig, {"values": (0.5, 2.0), "resolution": 8}),
    ("2D_diff-react_NA_NA.h5", diffusion_reaction.DiffusionReactionConfig, {"k": 0.01} | TALL),
    ("2D_rdb_NA_NA.h5", shallow_water.ShallowWaterConfig, {"inner_depth": 1.5} | TALL),
    ("ns_incom_inhom_2d_512-0.h5", incompressible.IncompressibleConfig, {"viscosity": 0.02, "num_waves": 3} | TALL),
]  # fmt: skip


def flags(options):
    return [f"--{name}={list(value) if isinstance(value, tuple) else value}" for name, value in options.items()]


@pytest.mark.parametrize(("name", "kind", "options"), CASES, ids=[kind.pde for _, kind, _ in CASES])
def test_a_file_is_what_the_generator_makes(name, kind, options, tmp_path, capsys):
    """Each option of the command arrives: the file is, bit by bit, the one that Python makes."""
    expected, found = tmp_path / "python" / name, tmp_path / name
    generate = one_d_generation.generate if "num_points" in options else darcy.generate
    generate(expected, kind(num_samples=2, seed=3, **options), device="cpu", progress=False)
    command = ["generate-pdebench", kind.pde, "--out", str(found), "--samples=2", "--seed=3", "--quiet", "--device=cpu"]
    assert main([*command, *flags(options)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{found}: 2 samples of {', '.join(FAMILIES[kind.pde].channels)} at ")
    with h5py.File(expected) as left, h5py.File(found) as right:
        assert dict(left.attrs) == dict(right.attrs)
        names = []
        left.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
        assert names
        for key in names:
            np.testing.assert_array_equal(left[key], right[key])
    assert open_pdebench(found).family.name == kind.pde


def test_an_interruption_costs_little(tmp_path, monkeypatch, capsys):
    """What was solved is kept; the same command goes on, others are refused."""
    from flare_datasets.pdebench.writer import PDEBenchWriter

    out, write, written = tmp_path / "1D_Advection_Sols_beta0.4.hdf5", PDEBenchWriter.write, []

    def counted(self, index, *values):
        written.append(index)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, index, *values)

    monkeypatch.setattr(PDEBenchWriter, "write", counted)
    command = ["generate-pdebench", "advection", "--out", str(out), "--samples", "5", "--quiet", *flags(CASES[0][2])]
    assert main(command) == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    assert not out.exists()
    assert main(command) == 0
    assert written == [0, 1, 2, 2, 3, 4]
    assert len(open_pdebench(out)) == 5
    assert main([*command, "--seed", "1"]) == 2
    assert "made with other" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--overwrite"]) == 0


def test_every_solver_has_a_command(capsys):
    """Three-dimensional and two-dimensional compressible flow have none."""
    assert set(_FAMILIES) == set(FAMILIES) - {"compressible_2d", "compressible_3d"}
    with pytest.raises(SystemExit):
        main(["generate-pdebench", "--help"])
    told = capsys.readouterr().out
    assert all(name in told and summary in told for name, (*_, summary) in _FAMILIES.items())
    with pytest.raises(SystemExit):
        main(["generate-pdebench", "burgers", "--help"])
    told = capsys.readouterr().out
    assert "--nu" in told
    assert "--beta" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["burgers", "--out", "b.hdf5", "--samples", "0", "--nu", "1"], "`num_samples` must be"),
        (["burgers", "--out", "b.hdf5", "--samples", "2", "--nu", "-1"], "`--nu` must be"),
        (["burgers", "--out", "no/b.hdf5", "--samples", "2", "--nu", "1"], "the folder 'no' does not exist"),
        (["compressible_1d", "--out", "c.hdf5", "--samples", "2", "--eta", "0.1", "--zeta", "0.1"],
         "`--out` must have 'periodic' between underscores"),
        (["darcy", "--out", "d.hdf5", "--samples", "2", "--batch_size", "0"], "`--batch_size` must be"),
    ],
)  # fmt: skip
def test_mistakes_get_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate-pdebench", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["burgers", "--out", "b.hdf5", "--samples", "2"], "nu"),
        (["burgers", "--out", "b.hdf5", "--samples", "2", "--nu", "1", "--beta", "2"], "--beta"),
        (["euler", "--out", "e.hdf5"], "euler"),
    ],
)
def test_wrong_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["generate-pdebench", *arguments])
    assert message in capsys.readouterr().err
