"""Scalars that engineers judge a stress by."""

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import InputError


def von_mises(stress: Float[Tensor, "N K"], *, poisson_ratio: float | None = None) -> Float[Tensor, " N"]:
    r"""Von Mises stress $\sqrt{\tfrac{1}{2} \sum_{i<j} (\sigma_{ii} - \sigma_{jj})^2 + 3 \sum_{i<j} \sigma_{ij}^2}$.

    ```python
    von_mises(model.predict(mesh)["stress"], poisson_ratio=0.3)
    ```

    Args:
        stress: xx, yy, xy of a plane (K = 3); or xx, yy, zz, yz, xz, xy (K = 6). Any unit.
        poisson_ratio: of a plane in plane strain, where zz is ν (xx + yy); None for plane stress, where it is 0.

    Returns:
        In the unit of the stress.

    Raises:
        InputError: another number of columns, or a Poisson ratio for a stress that has its zz.
    """
    if stress.shape[1] == 3:
        xx, yy, xy = stress.unbind(1)
        zz = torch.zeros_like(xx) if poisson_ratio is None else poisson_ratio * (xx + yy)
        shear = xy.square()
    elif stress.shape[1] == 6 and poisson_ratio is None:
        xx, yy, zz = stress[:, :3].unbind(1)
        shear = stress[:, 3:].square().sum(1)
    else:
        raise InputError(
            f"`stress` must have 3 columns (xx, yy, xy), or 6 (xx, yy, zz, yz, xz, xy) and no `poisson_ratio`; it has "
            f"{stress.shape[1]}, `poisson_ratio` is {poisson_ratio}"
        )
    normal = ((xx - yy).square() + (yy - zz).square() + (zz - xx).square()) / 2
    return (normal + 3 * shear).sqrt()
