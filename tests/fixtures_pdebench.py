"""PDEBench files as published, a few points large, written with h5py alone."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

F4 = np.dtype("<f4")


@dataclass
class Published:
    """A file and what it must be read as."""

    name: str
    pde: str
    values: np.ndarray  # [N, X…, T, V]
    static: np.ndarray | None = None  # [N, X…, W]
    parameters: dict = field(default_factory=dict)
    attributes: bool = True
    coordinates: tuple = ()
    times: np.ndarray | None = None

    def __post_init__(self):
        dim = self.values.ndim - 3
        if not self.coordinates:
            self.coordinates = tuple(((np.arange(n) + 0.5) / n).astype(F4) for n in self.values.shape[1 : 1 + dim])
        if self.times is None:
            self.times = np.linspace(0, 1, self.values.shape[-2], dtype=F4)

    @property
    def dim(self):
        return self.values.ndim - 3

    def write(self, folder: Path, name: str | None = None) -> Path:
        """The file in the published layout."""
        path = folder / (name or self.name)
        disk = np.moveaxis(self.values, -2, 1)  # [N, T, X…, V]
        axes = dict(zip(("x", "y", "z"), self.coordinates, strict=False))
        with h5py.File(path, "w") as file:
            if self.attributes:
                file.attrs.update(self.parameters)
            if self.pde in ("diffusion_sorption", "diffusion_reaction", "shallow_water"):
                for i, sample in enumerate(disk):
                    file[f"{i:04d}/data"] = sample
                    for axis, x in axes.items():
                        file[f"{i:04d}/grid/{axis}"] = x
                    file[f"{i:04d}/grid/t"] = self.times
                return path
            if self.pde == "incompressible":
                file["velocity"], file["particles"] = disk[..., :2], disk[..., 2:]
                file["force"] = self.static
                file["t"] = np.tile(self.times, (len(disk), 1))
                return path
            for axis, x in axes.items():
                file[f"{axis}-coordinate"] = x
            if self.pde == "darcy":
                file["tensor"], file["nu"] = disk[..., 0], self.static[..., 0]
                return path
            if self.pde.startswith("compressible"):
                file["t-coordinate"] = self.times
                for v, key in enumerate(("density", "pressure", "Vx", "Vy", "Vz")[: 2 + self.dim]):
                    file[key] = disk[..., v]
                return path
            step = self.times[-1] - self.times[-2]
            file["t-coordinate"] = np.append(self.times, self.times[-1] + step).astype(F4)
            file["tensor"] = disk[..., 0]
        return path


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(F4)


def published() -> list[Published]:
    """One small file of each family."""
    return [
        Published("1D_Advection_Sols_beta0.4.hdf5", "advection", numbers(10, 16, 21, 1), parameters={"beta": 0.4}),
        Published("1D_Burgers_Sols_Nu.001.hdf5", "burgers", numbers(10, 16, 21, 1), parameters={"Nu": 0.001}),
        Published(
            "ReacDiff_Nu0.5_Rho2.0.hdf5",
            "reaction_diffusion",
            numbers(10, 16, 11, 1),
            parameters={"Nu": 0.5, "rho": 2.0},
        ),
        Published("1D_diff-sorp_NA_NA.h5", "diffusion_sorption", numbers(10, 16, 11, 1)),
        Published(
            "1D_CFD_Rand_Eta1.e-8_Zeta0.1_periodic_Train.hdf5",
            "compressible_1d",
            numbers(10, 16, 11, 3),
            parameters={"eta": 1e-8, "zeta": 0.1},
            attributes=False,
        ),
        Published(
            "2D_CFD_Turb_M0.1_Eta0.01_Zeta0.01_trans_512_Train.hdf5",
            "compressible_2d",
            numbers(10, 8, 6, 11, 4),
            parameters={"M": 0.1, "eta": 0.01, "zeta": 0.01},
            attributes=False,
        ),
        Published("3D_CFD_Rand_M1.0_periodic_Train.hdf5", "compressible_3d", numbers(10, 4, 6, 8, 11, 5),
                  parameters={"M": 1.0}, attributes=False),
        Published("2D_DarcyFlow_beta0.01_Train.hdf5", "darcy", numbers(10, 8, 6, 1, 1), numbers(10, 8, 6, 1),
                  parameters={"beta": 0.01}, attributes=False),
        Published("2D_diff-react_NA_NA.h5", "diffusion_reaction", numbers(10, 8, 6, 11, 2)),
        Published("2D_rdb_NA_NA.h5", "shallow_water", numbers(10, 8, 6, 11, 1)),
        Published("ns_incom_inhom_2d_512-0.h5", "incompressible", numbers(3, 8, 6, 11, 3), numbers(3, 8, 6, 2)),
    ]  # fmt: skip


ALL = published()
BY_NAME = {case.pde: case for case in ALL}
