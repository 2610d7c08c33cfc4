"""Compressible flow of a viscous ideal gas in one dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError, FlareConnectError
from flare_datasets.config import check_number, check_range
from flare_datasets.pdebench.solvers.one_d_config import OneDConfig, check_states, checked_times
from flare_datasets.pdebench.solvers.one_d_tridiagonal import solve_tridiagonal
from flare_datasets.pdebench.solvers.one_d_waves import draw_waves
from flare_datasets.pdebench.solvers.one_d_weno import GHOSTS, weno_left, weno_right, with_ghosts

BOUNDARIES = ("periodic", "trans")
INITIALS = ("rand", "shock")

_IMPLICIT = 1 - math.sqrt(0.5)


def solve_compressible(
    density: Tensor,
    velocity: Tensor,
    pressure: Tensor,
    times: Any,
    *,
    eta: float = 0.0,
    zeta: float = 0.0,
    gamma: float = 5 / 3,
    boundary: str = "periodic",
    length: float = 1.0,
    courant: float = 0.4,
) -> Tensor:
    r"""Solve the compressible Navier–Stokes equations without conduction of heat.

    $\rho_t + (\rho v)_x = 0$, $(\rho v)_t + (\rho v^2 + p)_x = \sigma_x$, $E_t + ((E + p) v)_x = (\sigma v)_x$ with
    $\sigma = (\tfrac43 \eta + \zeta) v_x$ and $E = p / (\gamma - 1) + \rho v^2 / 2$.

    Finite volumes: WENO-Z in density, velocity and pressure, HLLC, SSP-RK3; viscosity implicitly before and after, in
    half steps of SDIRK2 (Strang). Order 2, as cell averages are taken for values at the centres; 3 to 5 where velocity
    and pressure are even and there is no viscosity. Mass, momentum and energy are kept to rounding on a circle. A step
    of a sample that would leave negative density or pressure is taken again in first order.

    Args:
        density: $\rho$ `[N, X]`, float64, positive, as the following in cells of equal width.
        velocity: $v$ `[N, X]`.
        pressure: $p$ `[N, X]`, positive.
        times: times of the frames `[T]`, the first that of the initial state.
        eta: shear viscosity.
        zeta: bulk viscosity.
        gamma: ratio of specific heats.
        boundary: "periodic", or "trans" for ends that let everything out.
        length: of the domain.
        courant: cells that the fastest wave crosses in a step, at most.

    Returns:
        `[N, X, T, 3]`, float64: density, pressure, velocity, in the files' order.

    Raises:
        ConfigError: a setting is out of range, or density or pressure is not positive.
        FlareConnectError: they turned negative in spite of all.

    Good values: 1,024 cells; viscosities of 0, or from 0.001 to 0.1.

    Source: arXiv 2210.07182; Toro, Spruce, Speares (1994), Shock Waves 4, for HLLC; `weno_left`.
    """
    check_states(density=density, velocity=velocity, pressure=pressure)
    for name, value in (("density", density), ("pressure", pressure)):
        if not bool((value > 0).all()):
            raise ConfigError(f"`{name}` must be positive, got {float(value.min()):g}")
    check_number("eta", eta, 0.0, 1e6)
    check_number("zeta", zeta, 0.0, 1e6)
    check_number("gamma", gamma, 1.000001, 100.0)
    check_number("length", length, 1e-6, 1e6)
    check_number("courant", courant, 1e-3, 0.5)
    if boundary not in BOUNDARIES:
        raise ConfigError(f"`boundary` must be one of {BOUNDARIES}, got {boundary!r}")
    times = checked_times(times)
    gas = _Gas(gamma, 4 / 3 * eta + zeta, boundary == "periodic", length / density.shape[1])
    state = gas.conserved(torch.stack([density, velocity, pressure], dim=1))
    frames = [state]
    for before, after in zip(times, times[1:], strict=False):
        left = torch.full_like(density[:, :1, None], after - before)
        while bool((left > 0).any()):
            step = torch.minimum(left, courant * gas.width / gas.fastest(state))
            state = gas.step(state, step)
            left = left - step
        frames.append(state)
    values = [gas.primitive(frame)[:, [0, 2, 1]] for frame in frames]
    return torch.stack(values, dim=-1).transpose(1, 2).transpose(2, 3)


@dataclass(frozen=True)
class _Gas:
    """Acts on mass, momentum and energy per length `[N, 3, X]`; steps are `[N, 1, 1]`, a sample's own."""

    gamma: float
    viscosity: float
    periodic: bool
    width: float

    def conserved(self, w: Tensor) -> Tensor:
        density, velocity, pressure = w.unbind(1)
        energy = pressure / (self.gamma - 1) + density * velocity**2 / 2
        return torch.stack([density, density * velocity, energy], dim=1)

    def primitive(self, u: Tensor) -> Tensor:
        density, momentum, energy = u.unbind(1)
        velocity = momentum / density
        return torch.stack([density, velocity, (self.gamma - 1) * (energy - momentum * velocity / 2)], dim=1)

    def fastest(self, u: Tensor) -> Tensor:
        density, velocity, pressure = self.primitive(u).unbind(1)
        return (velocity.abs() + (self.gamma * pressure / density).sqrt()).amax(dim=1)[:, None, None]

    def step(self, u: Tensor, step: Tensor) -> Tensor:
        new = self._step(u, step, high=True)
        bad = self._is_bad(new)
        if bool(bad.any()):
            new = torch.where(bad, self._step(u, step, high=False), new)
            if bool(self._is_bad(new).any()):
                raise FlareConnectError("density or pressure turned negative; lower `courant`, or use a milder state")
        return new

    def _is_bad(self, u: Tensor) -> Tensor:
        density, _, pressure = self.primitive(u).unbind(1)
        return ~((density > 0) & (pressure > 0)).all(dim=1)[:, None, None]  # NaN is bad too

    def _step(self, u: Tensor, step: Tensor, *, high: bool) -> Tensor:
        u = self._diffuse(u, step / 2)
        if high:
            a = u + step * self._slope(u, high=True)
            b = 0.75 * u + 0.25 * (a + step * self._slope(a, high=True))
            u = u / 3 + 2 / 3 * (b + step * self._slope(b, high=True))
        else:
            u = u + step * self._slope(u, high=False)
        return self._diffuse(u, step / 2)

    def _slope(self, u: Tensor, *, high: bool) -> Tensor:
        w = with_ghosts(self.primitive(u), periodic=self.periodic)
        left, right = w[..., GHOSTS - 1 : -GHOSTS], w[..., GHOSTS : 1 - GHOSTS]
        if high:
            left, right = _positive_or(weno_left(w), left), _positive_or(weno_right(w), right)
        flux = self._hllc(left, right)
        if self.periodic:  # both end faces are one, to the last bit
            flux = torch.cat([flux[..., :-1], flux[..., :1]], dim=-1)
        return -flux.diff(dim=-1) / self.width

    def _hllc(self, left: Tensor, right: Tensor) -> Tensor:
        (dl, vl, pl), (dr, vr, pr) = left.unbind(1), right.unbind(1)
        cl, cr = (self.gamma * pl / dl).sqrt(), (self.gamma * pr / dr).sqrt()
        sl, sr = torch.minimum(vl - cl, vr - cr), torch.maximum(vl + cl, vr + cr)
        ml, mr = dl * (sl - vl), dr * (sr - vr)
        contact = (pr - pl + ml * vl - mr * vr) / (ml - mr)
        ul, ur = self.conserved(left), self.conserved(right)
        fl, fr = _flux(left, ul), _flux(right, ur)
        inner_l = fl + sl[:, None] * (_behind(left, ul, sl, contact) - ul)
        inner_r = fr + sr[:, None] * (_behind(right, ur, sr, contact) - ur)
        inner = torch.where(contact[:, None] >= 0, inner_l, inner_r)
        return torch.where(sl[:, None] >= 0, fl, torch.where(sr[:, None] <= 0, fr, inner))

    def _diffuse(self, u: Tensor, step: Tensor) -> Tensor:
        """Friction alone: SDIRK2 in the velocity, the work of its stresses in the energy."""
        if self.viscosity == 0:
            return u
        density, momentum, _ = u.unbind(1)
        first = self._implicit(density, momentum, _IMPLICIT * step[:, 0])
        rates = (1 - _IMPLICIT) * self._friction(first)
        middle = momentum + step[:, 0] * rates[:, 1]
        rates = rates + _IMPLICIT * self._friction(self._implicit(density, middle, _IMPLICIT * step[:, 0]))
        return u + step * rates

    def _implicit(self, density: Tensor, momentum: Tensor, step: Tensor) -> Tensor:
        couple = step * self.viscosity / self.width**2 * torch.ones_like(density)
        lower, upper = -couple, -couple
        if not self.periodic:  # no stress at the ends
            lower, upper = lower.clone(), upper.clone()
            lower[:, 0], upper[:, -1] = 0, 0
        return solve_tridiagonal(lower, density - lower - upper, upper, momentum, periodic=self.periodic)

    def _friction(self, velocity: Tensor) -> Tensor:
        padded = with_ghosts(velocity, periodic=self.periodic)[:, GHOSTS - 1 : 1 - GHOSTS]
        stress = self.viscosity * padded.diff(dim=1) / self.width
        work = stress * (padded[:, 1:] + padded[:, :-1]) / 2
        momentum, energy = stress.diff(dim=1) / self.width, work.diff(dim=1) / self.width
        return torch.stack([torch.zeros_like(momentum), momentum, energy], dim=1)


def _positive_or(faces: Tensor, cells: Tensor) -> Tensor:
    good = (faces[:, 0] > 0) & (faces[:, 2] > 0)
    return torch.where(good[:, None], faces, cells)


def _flux(w: Tensor, u: Tensor) -> Tensor:
    _, velocity, pressure = w.unbind(1)
    flux = u * velocity[:, None]
    return torch.stack([flux[:, 0], flux[:, 1] + pressure, flux[:, 2] + pressure * velocity], dim=1)


def _behind(w: Tensor, u: Tensor, front: Tensor, contact: Tensor) -> Tensor:
    """State between an outer wave and the contact."""
    density, velocity, pressure = w.unbind(1)
    new = density * (front - velocity) / (front - contact)
    energy = u[:, 2] / density + (contact - velocity) * (contact + pressure / (density * (front - velocity)))
    return torch.stack([new, new * contact, new * energy], dim=1)


@dataclass(frozen=True, kw_only=True)
class CompressibleConfig(OneDConfig):
    r"""What to draw: random fields, or two states that meet.

    "rand": density and pressure are drawn evenly in their logarithm from `density` and `pressure`, times one plus
    waves; velocity is waves whose largest is `mach` times the speed of sound of the even state. "shock": density and
    pressure of either side from the same ranges, velocities up to the slower speed of sound, met at a place from 1/4
    to 3/4. The paper describes such states; its exact ranges could not be confirmed, so these are this library's own.

    Args:
        eta: shear viscosity.
        zeta: bulk viscosity.
        initial: "rand" or "shock".
        boundary: "periodic" or "trans"; "shock" needs "trans".
        mach: "rand" only: see above; 1 where left out.
        density: (least, most).
        pressure: (least, most).
        fluctuation: "rand" only: largest change of density and pressure over their even part; 0.2 where left out.
        gamma: ratio of specific heats.
        domain_ends: both ends of the interval. Configurations beside the published files have -1 and 1, the paper
            writes 0 and 1.
        num_samples: N.
        num_points: X, centres of equal cells.
        num_frames: T, from time 0 to `end_time`.
        end_time: of the last frame.
        seed: same seed, same samples.

    Raises:
        ConfigError: a value is out of range, or a setting belongs to the other initial states.

    Good values: eta and zeta alike, 0 or from 0.001 to 0.1; PDEBench has 1e-8 where it means none, which the scheme
    does not resolve and which costs as much time again. The time a batch takes grows with its fastest sound.
    """

    pde: ClassVar[str] = "compressible_1d"

    eta: float
    zeta: float
    initial: str = "rand"
    boundary: str = "periodic"
    mach: float | None = None
    density: tuple[float, float] = (0.5, 2.0)
    pressure: tuple[float, float] = (0.5, 2.0)
    fluctuation: float | None = None
    gamma: float = 5 / 3
    domain_ends: tuple[float, float] = (0.0, 1.0)
    num_frames: int = 101
    end_time: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0.0, 1e3)
        check_number("zeta", self.zeta, 0.0, 1e3)
        check_number("gamma", self.gamma, 1.01, 10.0)
        check_range("density", self.density, 1e-3, 1e3)
        check_range("pressure", self.pressure, 1e-3, 1e3)
        check_range("domain_ends", self.domain_ends, -1e3, 1e3)
        if self.domain_ends[1] - self.domain_ends[0] < 1e-3:
            raise ConfigError(f"`domain_ends` must be 0.001 apart or more, got {self.domain_ends}")
        if self.boundary not in BOUNDARIES:
            raise ConfigError(f"`boundary` must be one of {BOUNDARIES}, got {self.boundary!r}")
        if self.initial not in INITIALS:
            raise ConfigError(f"`initial` must be one of {INITIALS}, got {self.initial!r}")
        if self.initial == "shock":
            for name in ("mach", "fluctuation"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"`{name}` must be left out for `initial='shock'`, got {getattr(self, name)!r}")
            if self.boundary == "periodic":
                raise ConfigError("`boundary` must be 'trans' for `initial='shock'`: on a circle two states meet twice")
        else:
            check_number("mach", self._mach, 0.0, 10.0)
            check_number("fluctuation", self._fluctuation, 0.0, 0.9)

    @property
    def _mach(self) -> float:
        return 1.0 if self.mach is None else self.mach

    @property
    def _fluctuation(self) -> float:
        return 0.2 if self.fluctuation is None else self.fluctuation

    @property
    def domain(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.domain_ends

    @property
    def attributes(self) -> dict[str, float]:
        """Viscosities, and the Mach number of random fields."""
        found = {"eta": self.eta, "zeta": self.zeta}
        return found | ({"M": self._mach} if self.initial == "rand" else {})

    def solve(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Draw samples and solve for them: `[N, X, T, 3]`."""
        fields = self._random(indices, device) if self.initial == "rand" else self._shocks(indices, device)
        return solve_compressible(
            *fields,
            self.times,
            eta=self.eta,
            zeta=self.zeta,
            gamma=self.gamma,
            boundary=self.boundary,
            length=self.domain_ends[1] - self.domain_ends[0],
        )

    def _random(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.as_tensor((np.arange(self.num_points) + 0.5) / self.num_points, device=device)
        waves = []
        for field in range(3):
            seeds = [(self.seed, i, field) for i in indices]
            values = draw_waves(seeds, device, fold_probability=0.0, window_probability=0.0)(x)
            waves.append(values / values.abs().amax(dim=1, keepdim=True))
        draws = np.array([np.random.default_rng([self.seed, i, 3]).random(2) for i in indices])
        even = torch.as_tensor(self._scaled(draws), device=device)
        density, pressure = (
            mean[:, None] * (1 + self._fluctuation * wave) for mean, wave in zip(even.T, waves[:2], strict=True)
        )
        sound = (self.gamma * even[:, 1] / even[:, 0]).sqrt()[:, None]
        return density, self._mach * sound * waves[2], pressure

    def _shocks(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        draws = np.array([np.random.default_rng([self.seed, i]).random(7) for i in indices])
        sides = self._scaled(draws[:, :4].reshape(-1, 2, 2))  # [N, side, density or pressure]
        sound = np.sqrt(self.gamma * sides[..., 1] / sides[..., 0]).min(axis=1, keepdims=True)
        speeds = (2 * draws[:, 4:6] - 1) * sound
        x = (np.arange(self.num_points) + 0.5) / self.num_points
        beyond = (x >= 0.25 + 0.5 * draws[:, 6:]).astype(int)
        density, pressure, velocity = (
            torch.as_tensor(np.take_along_axis(values, beyond, axis=1), device=device)
            for values in (sides[..., 0], sides[..., 1], speeds)
        )
        return density, velocity, pressure

    def _scaled(self, draws: np.ndarray) -> np.ndarray:
        """Density and pressure along the last axis, even in their logarithm."""
        low, high = np.array([self.density, self.pressure], dtype=np.float64).T
        return low * (high / low) ** draws
