"""Unsteady incompressible flow that carries heat, with Taylor–Hood elements and backward differences."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import ConfigError, MeshError
from flare_datasets.elements import Array, factorise
from flare_datasets.holed_channels.operators import Operators

Flags = NDArray[np.bool_]

COURANT = 0.15
"""Share of a triangle that fluid may pass in a step at the start."""
MOST_COURANT = 0.3
"""Later on; steps are unstable soon above it."""

# Of each order: the rate of change is (first · now − Σ second · past) / step; third extrapolates. Only the third order
# is stable without friction.
_ORDERS = (
    (1.0, (1.0,), (1.0,)),
    (1.5, (2.0, -0.5), (2.0, -1.0)),
    (11.0 / 6.0, (3.0, -1.5, 1.0 / 3.0), (3.0, -3.0, 1.0)),
)


@dataclass(frozen=True)
class Flow:
    """What is known at one time, at the n quadratic nodes; pressure at the N vertices."""

    velocity: Array
    """`[n, 2]`."""
    temperature: Array
    """`[n]`."""
    pressure: Array
    """`[N]`, of density 1."""


class FlowSolver:
    r"""Steps a flow, and a temperature that it carries, through time.

    $\partial_t u + u \cdot \nabla u = -\nabla p + \nu \Delta u$, $\nabla \cdot u = 0$,
    $\partial_t T + u \cdot \nabla T = \kappa \Delta T$. Backward differences of third order after two steps of lower
    ones, what is carried extrapolated from the last three: every step solves with the same factors. At an outlet
    $\nu \partial_n u = p n$, and fluid that comes back in through it brings no energy and temperature 0.

    Args:
        operators: of the mesh.
        viscosity: ν.
        diffusivity: κ.
        time_step: from step to step.
        held: velocity components that keep what they have at the start `[n, 2]`.
        held_temperature: temperatures that do `[n]`.

    Raises:
        ConfigError: a number is not positive.

    Good values: a time step such that `courant` is `COURANT` at the start.
    Source: Ascher, Ruuth and Wetton 1995 (steps); Braack and Mucha 2014 (outlet).
    """

    def __init__(
        self,
        operators: Operators,
        *,
        viscosity: float,
        diffusivity: float,
        time_step: float,
        held: Flags,
        held_temperature: Flags,
    ) -> None:
        for name, value in {"viscosity": viscosity, "diffusivity": diffusivity, "time_step": time_step}.items():
            if not value > 0.0:
                raise ConfigError(f"`{name}` must be positive, got {value}")
        self.operators, self.viscosity, self.diffusivity, self.time_step = operators, viscosity, diffusivity, time_step
        self.held, self.held_temperature = held, held_temperature
        self._factors = [self._factorised(rate / time_step) for rate, _, _ in _ORDERS]

    def stokes(self, held_velocity: Array) -> Array:
        """Velocity `[n, 2]` of slow steady flow, with the values `[n, 2]` where velocity is held."""
        saddle = _Saddle(self.operators, self.viscosity, 0.0, self.held)
        return saddle(np.zeros_like(held_velocity), held_velocity)[0]

    def courant(self, velocity: Array) -> float:
        """Largest share of a triangle that is passed in a step."""
        return self._passed(self.operators.values @ velocity)

    def steps(self, velocity: Array, temperature: Array) -> Iterator[Flow]:
        """The flow after each step, without end.

        Args:
            velocity: at the start `[n, 2]`; need not be free of divergence.
            temperature: at the start `[n]`.

        Raises:
            MeshError: the flow is too fast for the time step.
        """
        now = np.column_stack([velocity, temperature])
        past, carried = deque([now], len(_ORDERS)), deque([self._carried(now)[0]], len(_ORDERS))
        most = np.abs(temperature).max()
        while True:
            order = len(past) - 1
            _, of_past, of_carried = _ORDERS[order]
            load = self.operators.mass @ sum(c * x for c, x in zip(of_past, past, strict=True)) / self.time_step
            load -= sum(c * x for c, x in zip(of_carried, carried, strict=True))
            flow, heat = self._factors[order]
            u, p = flow(load[:, :2], now[:, :2])
            t = heat(load[:, 2], now[:, 2])
            now = np.column_stack([u, t])
            past.appendleft(now)
            gone, courant = self._carried(now)
            carried.appendleft(gone)
            hottest = np.abs(t).max()
            if not (courant <= MOST_COURANT and hottest <= 1.5 * most):  # not a number fails too
                raise MeshError(
                    f"fluid passes {courant:.2g} triangles in a step of {self.time_step:g} and temperatures of "
                    f"{most:.2g} become {hottest:.2g}: shorten the step"
                )
            yield Flow(u, t, p)

    def _carried(self, both: Array) -> tuple[Array, float]:
        """What the flow carries away, of velocity and temperature `[n, 3]`, against each node, and `courant`."""
        of = self.operators
        speed = of.values @ both[:, :2]
        slope = speed[:, :1] * (of.slopes[0] @ both) + speed[:, 1:] * (of.slopes[1] @ both)
        load = of.loads @ slope
        if len(of.outlet_weights):
            there = of.outlet_values @ both
            inward = of.outlet_weights * np.minimum((there[:, :2] * of.outlet_normals).sum(axis=1), 0.0)
            load -= of.outlet_values.T @ (inward[:, None] * there * [0.5, 0.5, 1.0])
        return np.asarray(load), self._passed(speed)

    def _passed(self, speed: Array) -> float:
        x, y = speed.T
        passed = sum(np.abs(x * row[:, 0] + y * row[:, 1]) for row in self.operators.reference_slopes)
        return float(self.time_step * np.max(passed))

    def _factorised(self, rate: float) -> tuple[_Saddle, _Held]:
        of = self.operators
        heat = rate * of.mass + self.diffusivity * of.stiffness
        return _Saddle(of, self.viscosity, rate, self.held), _Held(heat, self.held_temperature)


class _Held:
    """Factors of a symmetric positive definite matrix without the rows of values that are held.

    Args:
        matrix: sparse `[n, n]`.
        held: which values are `[n]`.
        indefinite: it is not positive definite, and pivots are chosen where they must be.
    """

    def __init__(self, matrix: Any, held: Flags, *, indefinite: bool = False) -> None:
        from scipy.sparse.linalg import splu

        self.held, self.free, fixed = held, np.flatnonzero(~held), np.flatnonzero(held)
        rows = matrix.tocsr()[self.free]
        inner, self.beside = rows[:, self.free].tocsc(), rows[:, fixed].tocsr()
        self.factors = (
            splu(inner, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01) if indefinite else factorise(inner)
        )

    def __call__(self, load: Array, values: Array) -> Array:
        """Solution `[n]`; where values are held it has those of `values`."""
        found = np.where(self.held, values, 0.0)
        found[self.free] = self.factors.solve(load[self.free] - self.beside @ values[self.held])
        return found


class _Saddle:
    """Factors of velocity and pressure together: divergence is zero against every element of the pressure."""

    def __init__(self, of: Operators, viscosity: float, rate: float, held: Flags) -> None:
        from scipy.sparse import bmat

        block, (dx, dy) = rate * of.mass + viscosity * of.stiffness, of.divergence
        self.zeros = np.zeros(dx.shape[0])
        pinned = self.zeros.astype(bool)
        pinned[0] = len(of.outlet_weights) == 0  # without an outlet pressure is only known up to a number
        matrix = bmat([[block, None, -dx.T], [None, block, -dy.T], [-dx, -dy, None]])
        # The pressure has no diagonal of its own until velocities are eliminated.
        self.factors = _Held(matrix, np.concatenate([held.T.ravel(), pinned]), indefinite=True)

    def __call__(self, load: Array, values: Array) -> tuple[Array, Array]:
        """Velocity `[n, 2]` and pressure `[N]`."""
        both = (np.concatenate([part.T.ravel(), self.zeros]) for part in (load, values))
        found = self.factors(*both)
        return found[: load.size].reshape(2, -1).T, found[load.size :]
