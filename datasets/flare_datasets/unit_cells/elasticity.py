"""Plane-strain elasticity of a periodic cell: P2 displacements, nodal stress, effective stiffness (scikit-fem)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flare_connect.errors import ConfigError
from flare_datasets.elements import average_at_vertices, factorise, gradient_at_corners, import_skfem
from flare_datasets.plane_strain import corner_stress, plane_strain_stiffness, stiffness_matrix, von_mises
from flare_datasets.unit_cells.torus import torus_classes

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """Fields at the N mesh vertices, and averages over the cell; stress in the unit of Young's modulus."""

    displacement: Array
    """`[N, 2]` total displacement, `strain @ pos + fluctuation`."""
    fluctuation: Array
    """`[N, 2]` its periodic part, of zero mean over the solid."""
    stress: Array
    """`[N, 3]` xx, yy, xy, averaged over the triangles around a vertex, across the sides too."""
    von_mises: Array
    """`[N]` of `stress` with the plane-strain zz part."""
    effective_stress: Array
    """`[3]` stress xx, yy, xy averaged over the cell, holes counted as zero."""
    effective_stiffness: Array
    """`[3, 3]` effective stress = stiffness @ (exx, eyy, 2 exy)."""
    energy: float
    """Strain energy of the solid, per unit of thickness."""


def solve(
    pos: ArrayLike,
    triangles: ArrayLike,
    periodic_pairs: ArrayLike,
    strain: ArrayLike,
    youngs_modulus: float = 1.0,
    poisson_ratio: float = 0.3,
    *,
    body_force: Callable[[Array], Array] | None = None,
) -> Solution:
    r"""Solve the periodic cell problem under a macroscopic strain.

    Find $u = \bar E x + w$, $w$ periodic, with
    $\int_\Omega \varepsilon(v) : C : \varepsilon(u) = \int_\Omega v \cdot b$ for every periodic $v$; holes are free of
    traction. $C$ is isotropic in plane strain.

    Args:
        pos: vertices `[N, 2]`.
        triangles: vertex ids `[E, 3]`.
        periodic_pairs: `[2, P]`, vertex of the left or bottom side, and the vertex one period further.
        strain: macroscopic strain `[3]`: exx, eyy, exy (the tensor's component, half of gamma_xy).
        youngs_modulus: $E$.
        poisson_ratio: $\nu$, below 0.5.
        body_force: of points `[2, ...]`, gives force per area `[2, ...]`, of zero mean over the solid.

    Raises:
        MeshError: the pairs do not match opposite sides, or the solid is in pieces, so that the problem is singular.
        ConfigError: material or strain out of range.
        ImportError: scikit-fem is not installed.

    Good values: 1,000 vertices give the effective stiffness to 1 %; stress at a hole wants 30 vertices around it.
    """
    return PeriodicElasticity(pos, triangles, periodic_pairs, youngs_modulus, poisson_ratio).solve(
        strain, body_force=body_force
    )


class PeriodicElasticity:
    """One cell, factored once; `solve` for as many strains as wanted. Arguments and errors as in `solve`."""

    def __init__(
        self,
        pos: ArrayLike,
        triangles: ArrayLike,
        periodic_pairs: ArrayLike,
        youngs_modulus: float = 1.0,
        poisson_ratio: float = 0.3,
    ) -> None:
        skfem = import_skfem()
        self._pos = np.asarray(pos, dtype=np.float64)
        pairs = np.asarray(periodic_pairs, dtype=np.int64)
        self.stiffness_tensor = plane_strain_stiffness(youngs_modulus, poisson_ratio)
        self._poisson_ratio = poisson_ratio
        mesh = skfem.MeshTri(self._pos.T.copy(), np.asarray(triangles, dtype=np.int64).T.copy())
        self.basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=2)
        self._component = np.zeros((2, self.basis.N))  # which dofs are of x, which of y
        for axis in (0, 1):
            self._component[axis, self.basis.nodal_dofs[axis]] = 1.0
            self._component[axis, self.basis.facet_dofs[axis]] = 1.0
        self._vertex_class, facet_class, periods = torus_classes(mesh, pairs)
        self.cell_area = float(np.prod(periods))
        self._reduce = self._reduction(facet_class)
        self._stiffness = self._assemble()
        self._factor = self._factorise()
        self._volume = self._unit_integrals()
        self.unit_fluctuations = self._solve_unit_strains()
        self.effective_stiffness = self._homogenise()

    def solve(self, strain: ArrayLike, *, body_force: Callable[[Array], Array] | None = None) -> Solution:
        """Superpose the unit strains; `strain [3]` is (exx, eyy, exy)."""
        tensor = np.asarray(strain, dtype=np.float64)
        if tensor.shape != (3,) or not np.isfinite(tensor).all():
            raise ConfigError(f"`strain` must be three finite numbers (exx, eyy, exy), got {strain!r}")
        voigt = tensor * [1.0, 1.0, 2.0]
        coefficients = self.unit_fluctuations @ voigt
        if body_force is not None:
            coefficients = coefficients + self.respond(self.load(body_force))
        return self._solution(voigt, coefficients)

    def _solution(self, voigt: Array, coefficients: Array) -> Solution:
        macro = np.array([[voigt[0], 0.5 * voigt[2]], [0.5 * voigt[2], voigt[1]]])
        fluctuation = coefficients[self.basis.nodal_dofs].T
        stress = self._nodal_stress(macro, coefficients)
        total = coefficients + self._affine(macro)
        # The mean of the stress from its work on the three unit strains: exact for the discrete field.
        effective = np.array([self._affine(m) @ (self._stiffness @ total) for m in _UNIT_STRAINS]) / self.cell_area
        return Solution(
            displacement=self._pos @ macro + fluctuation,
            fluctuation=fluctuation,
            stress=stress,
            von_mises=von_mises(stress, self._poisson_ratio),
            effective_stress=effective,
            effective_stiffness=self.effective_stiffness,
            energy=0.5 * float(total @ (self._stiffness @ total)),
        )

    def _reduction(self, facet_class: Ids) -> Any:
        """Sparse 0/1 matrix: dofs of the cell from dofs of the torus."""
        from scipy.sparse import coo_matrix

        master = np.arange(self.basis.N)
        nodal, facet = self.basis.nodal_dofs, self.basis.facet_dofs
        master[nodal] = nodal[:, self._vertex_class]
        master[facet] = facet[:, facet_class]
        kept, column = np.unique(master, return_inverse=True)
        return coo_matrix(
            (np.ones(len(column)), (np.arange(len(column)), column)), shape=(len(column), len(kept))
        ).tocsr()

    def _assemble(self) -> Any:
        return stiffness_matrix(self.basis, self.stiffness_tensor)

    def _factorise(self) -> Any:
        reduced = (self._reduce.T @ self._stiffness @ self._reduce).tocsc()
        # On the torus a rigid rotation is no longer free: two translations are, and one pinned node takes them.
        self._free = np.setdiff1d(np.arange(reduced.shape[0]), self._pinned())
        return factorise(reduced[np.ix_(self._free, self._free)])

    def _pinned(self) -> Ids:
        return self._reduce[self.basis.nodal_dofs[:, 0]].indices

    def respond(self, load: Array) -> Array:
        """Periodic fluctuation of zero mean under `load [dofs]` or `[dofs, k]`."""
        reduced = np.zeros((self._reduce.shape[1], *load.shape[1:]))
        reduced[self._free] = self._factor.solve((self._reduce.T @ load)[self._free])
        full = self._reduce @ reduced
        mean = (self._volume @ full) / self._volume.sum(axis=1).reshape(2, *[1] * (load.ndim - 1))
        return full - np.einsum("id,i...->d...", self._component, mean)

    def _unit_integrals(self) -> Array:
        """`[2, dofs]`: integrals of the x and the y component of each shape function."""
        ones = self.load(np.ones_like)
        return self._component * ones

    def load(self, body_force: Callable[[Array], Array]) -> Array:
        """Load vector `[dofs]` of a force per area; see `solve` for `body_force`."""
        skfem = import_skfem()
        basis = skfem.Basis(self.basis.mesh, self.basis.elem, intorder=6)

        @skfem.LinearForm  # type: ignore[untyped-decorator,unused-ignore]
        def work(v: Any, w: Any) -> Any:
            force = body_force(np.asarray(w.x))
            return force[0] * v[0] + force[1] * v[1]

        return np.asarray(work.assemble(basis), dtype=np.float64)

    def _affine(self, gradient: Array) -> Array:
        """Dofs `[dofs]` of the displacement `gradient @ x`."""
        return np.einsum("id,id->d", gradient @ self.basis.doflocs, self._component)

    def _solve_unit_strains(self) -> Array:
        """`[dofs, 3]`: fluctuations under exx = 1, eyy = 1 and gamma_xy = 1."""
        affine = np.stack([self._affine(m) for m in _UNIT_STRAINS], axis=1)
        return self.respond(-(self._stiffness @ affine))

    def _homogenise(self) -> Array:
        total = self.unit_fluctuations + np.stack([self._affine(m) for m in _UNIT_STRAINS], axis=1)
        stiffness = total.T @ (self._stiffness @ total) / self.cell_area
        return 0.5 * (stiffness + stiffness.T)

    def _nodal_stress(self, macro: Array, coefficients: Array) -> Array:
        fluctuation, area = gradient_at_corners(self.basis, coefficients)
        gradient = fluctuation + macro[:, :, None, None]
        vertex = self._vertex_class[self.basis.mesh.t.T]
        stress = corner_stress(self.stiffness_tensor, gradient)
        return average_at_vertices(stress, area, vertex, len(self._pos))[self._vertex_class]


_UNIT_STRAINS = (
    np.array([[1.0, 0.0], [0.0, 0.0]]),
    np.array([[0.0, 0.0], [0.0, 1.0]]),
    np.array([[0.0, 0.5], [0.5, 0.0]]),
)
