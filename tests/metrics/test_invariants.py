"""Von Mises stress: known states, the formula of the data sets, no change under a turn of the axes."""

import numpy as np
import pytest
import torch

from flare_connect.errors import InputError
from flare_connect.metrics import von_mises


def columns(tensors):
    """xx, yy, zz, yz, xz, xy."""
    return torch.stack([tensors[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], dim=1)


def test_known_states():
    tension, shear, pressure = [5.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2.0], [3.0, 3.0, 3.0, 0, 0, 0]
    found = von_mises(torch.tensor([tension, shear, pressure]))
    torch.testing.assert_close(found, torch.tensor([5.0, 2 * 3**0.5, 0.0]))
    torch.testing.assert_close(von_mises(torch.tensor([[5.0, 0.0, 0.0]])), torch.tensor([5.0]))


def test_it_does_not_depend_on_the_axes():
    torch.manual_seed(0)
    stress = torch.randn(20, 3, 3, dtype=torch.float64)
    stress = stress + stress.mT
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    torch.testing.assert_close(von_mises(columns(turn @ stress @ turn.T)), von_mises(columns(stress)))


def test_plane_strain_is_that_of_the_data_sets():
    plane_strain = pytest.importorskip("flare_datasets.plane_strain")
    stress = np.random.default_rng(0).standard_normal((30, 3))
    found = von_mises(torch.from_numpy(stress), poisson_ratio=0.3)
    np.testing.assert_allclose(found.numpy(), plane_strain.von_mises(stress, 0.3), rtol=1e-12)


def test_other_columns_are_refused():
    with pytest.raises(InputError, match="it has 4, `poisson_ratio` is None"):
        von_mises(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"it has 6, `poisson_ratio` is 0\.3"):
        von_mises(torch.zeros(2, 6), poisson_ratio=0.3)
