"""Isotropic plane strain: stiffness, and von Mises stress."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import ConfigError

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
