"""Fourth-order steps in time that take a stiff linear term exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_NEAR = 1.0  # below it the series, beyond it the closed form: both lose at most two digits


def phi_functions(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""$\varphi_1, \varphi_2, \varphi_3$ of real $z \le 0$.

    $\varphi_0 = e^z$ and $\varphi_j = (\varphi_{j-1} - 1/(j-1)!) / z$.
    """
    near = z.abs() < _NEAR
    small, large = torch.where(near, z, 0.0), torch.where(near, -_NEAR, z)
    third, term = torch.zeros_like(z), torch.full_like(z, 1 / 6)
    for k in range(4, 22):
        third = third + term
        term = term * small / k
    series = (1 + small * (0.5 + small * third), 0.5 + small * third, third)
    first = torch.expm1(large) / large
    second = (first - 1) / large
    closed = (first, second, (second - 0.5) / large)
    one, two, three = (torch.where(near, s, c) for s, c in zip(series, closed, strict=True))
    return one, two, three


class ExponentialStep:
    r"""A step of $\hat u_t = L \hat u + N(\hat u)$ with ETDRK4; $L$ is real, diagonal and not positive.

    With $L = 0$ it is the classical Runge–Kutta method.

    Args:
        linear: $L$ `[M]`.
        step: a number, or one for each sample `[N, 1]`.

    Source: Cox, Matthews (2002), J. Comput. Phys. 176; Kassam, Trefethen (2005), SIAM J. Sci. Comput. 26.
    """

    def __init__(self, linear: Tensor, step: float | Tensor):
        z = linear * step
        one, two, three = phi_functions(z)
        self._whole, self._half = torch.exp(z), torch.exp(z / 2)
        self._to_middle = step / 2 * phi_functions(z / 2)[0]
        self._start = step * (one - 3 * two + 4 * three)
        self._middle = 2 * step * (two - 2 * three)
        self._end = step * (4 * three - two)

    def __call__(self, u: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        """The next state `[N, M]`; `slope` is $N$."""
        first = slope(u)
        a = self._half * u + self._to_middle * first
        second = slope(a)
        third = slope(self._half * u + self._to_middle * second)
        fourth = slope(self._half * a + self._to_middle * (2 * third - first))
        return self._whole * u + self._start * first + self._middle * (second + third) + self._end * fourth
