"""Isotropic plane strain: stiffness, stress, and von Mises stress."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import ConfigError
from flare_datasets.elements import import_skfem

Array = NDArray[np.float64]


def plane_strain_stiffness(youngs_modulus: float, poisson_ratio: float) -> Array:
    r"""$C$ `[3, 3]` with $(\sigma_{xx}, \sigma_{yy}, \sigma_{xy}) = C (e_{xx}, e_{yy}, 2 e_{xy})$.

    Raises:
        ConfigError: the modulus is not positive, or the ratio outside (-1, 0.5).
    """
    if not (np.isfinite(youngs_modulus) and youngs_modulus > 0.0):
        raise ConfigError(f"`youngs_modulus` must be positive, got {youngs_modulus}")
    if not -1.0 < poisson_ratio < 0.5:
        raise ConfigError(
            f"`poisson_ratio` must lie between -1 and 0.5 (plane strain locks there), got {poisson_ratio}"
        )
    mu = youngs_modulus / (2.0 * (1.0 + poisson_ratio))
    lame = youngs_modulus * poisson_ratio / ((1.0 + poisson_ratio) * (1.0 - 2.0 * poisson_ratio))
    return np.array([[lame + 2.0 * mu, lame, 0.0], [lame, lame + 2.0 * mu, 0.0], [0.0, 0.0, mu]])


def von_mises(stress: Array, poisson_ratio: float) -> Array:
    r"""Von Mises stress `[N]` of `stress [N, 3]` (xx, yy, xy), $\sigma_{zz} = \nu (\sigma_{xx} + \sigma_{yy})$."""
    xx, yy, xy = stress[:, 0], stress[:, 1], stress[:, 2]
    zz = poisson_ratio * (xx + yy)
    return np.sqrt(0.5 * ((xx - yy) ** 2 + (yy - zz) ** 2 + (zz - xx) ** 2) + 3.0 * xy**2)


def stiffness_matrix(basis: Any, stiffness_tensor: Array) -> Any:
    """Sparse matrix `[dofs, dofs]` of the strain energy on a vector `skfem.Basis`; the tensor `[3, 3]` is isotropic."""
    skfem = import_skfem()
    from skfem.helpers import ddot, sym_grad

    mu, lame = stiffness_tensor[2, 2], stiffness_tensor[0, 1]

    @skfem.BilinearForm  # type: ignore[untyped-decorator,unused-ignore]
    def energy(u: Any, v: Any, _: Any) -> Any:
        eu, ev = sym_grad(u), sym_grad(v)
        return 2.0 * mu * ddot(eu, ev) + lame * (eu[0, 0] + eu[1, 1]) * (ev[0, 0] + ev[1, 1])

    return energy.assemble(basis).tocsr()


def corner_stress(stiffness_tensor: Array, gradient: Array) -> Array:
    """Stress xx, yy, xy `[3, E, 3]` of displacement gradients `[2, 2, E, 3]`."""
    strain = np.stack([gradient[0, 0], gradient[1, 1], gradient[0, 1] + gradient[1, 0]])
    return np.einsum("ij,jek->iek", stiffness_tensor, strain)
