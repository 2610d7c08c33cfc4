"""All errors of one field or of several on one mesh, in one call; what depends on the mesh alone is found once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, local_thickness
from flare_connect.metrics.boundary import error_over, near_boundary
from flare_connect.metrics.fields import Field, checked_pair, relative_l2
from flare_connect.metrics.jumps import JumpPairs, jump_error, jump_pairs
from flare_connect.metrics.peak import peak_error
from flare_connect.metrics.thickness import ThicknessErrors, checked_edges, error_against_thickness


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshErrors:
    """A mesh with what its errors need, for many models and fields; make it with `MeshErrors.prepare`.

    ```python
    errors = MeshErrors.prepare(mesh)
    rows = {name: errors.of(model.predict(mesh)["stress"], mesh.point_data["stress"]) for name, model in models.items()}
    ```

    Attributes:
        mesh: N nodes.
        pairs: pairs across voids.
        near: whether each node is in the boundary's band `[N]`.
        thickness: local thickness `[N]`, in units of `pos`.
        edges: limits of the bins of thickness.
        unit: what they count, "element" or "domain".
    """

    mesh: Mesh
    pairs: JumpPairs
    near: Bool[Tensor, " N"]
    thickness: Float[Tensor, " N"]
    edges: tuple[float, ...]
    unit: str

    @classmethod
    def prepare(
        cls,
        mesh: Mesh,
        *,
        layers: int = 2,
        radius: float | None = None,
        edges: Sequence[float] | None = None,
        unit: str = "element",
    ) -> "MeshErrors":
        """Finds pairs, boundary band and thickness: 0.2 s for 10,000 nodes of triangles, most of it for thickness.

        Args:
            mesh: any mesh.
            layers: depth of the boundary's band, see `near_boundary`.
            radius: see `jump_pairs`.
            edges: limits of the bins of thickness, see `error_against_thickness`.
            unit: what they count.

        Raises:
            InputError: a setting is out of range.
        """
        limits = checked_edges(edges, unit)
        near = near_boundary(mesh, layers)
        pairs = jump_pairs(mesh, radius=radius)
        return cls(mesh=mesh, pairs=pairs, near=near, thickness=local_thickness(mesh), edges=limits, unit=unit)

    def of(self, prediction: Field, truth: Field) -> dict[str, float]:
        """Every error of a field, by name.

        Args:
            prediction: `[N]` or `[N, c]`, in the unit of the truth.
            truth: the same shape.

        Returns:
            `rel_l2`, `rel_l2_volume` (weighted by node volume), `boundary_error`, `peak_error`, `peak_error_robust`,
            `peak_distance`, `jump_error` (top 5 % left out), `jump_error_untrimmed`, `num_jump_pairs`, and
            `thickness_error_<low>_<high>` for each bin. NaN where the mesh has nothing of the kind.

        Raises:
            InputError: a field does not fit the mesh.
        """
        guess, right = checked_pair(prediction, truth, self.mesh.num_nodes)
        used = (self.mesh.component >= 0).cpu()
        peak = peak_error(self.mesh, guess, right)
        thin = self.against_thickness(guess, right)
        bins = zip(thin.edges[:-1], thin.edges[1:], thin.relative, strict=True)
        return {
            "rel_l2": relative_l2(guess[used], right[used]),
            "rel_l2_volume": relative_l2(guess, right, self.mesh.node_volume),
            "boundary_error": error_over(self.near, guess, right),
            "peak_error": peak.value,
            "peak_error_robust": peak.robust,
            "peak_distance": peak.distance,
            "jump_error": jump_error(self.pairs, guess, right),
            "jump_error_untrimmed": jump_error(self.pairs, guess, right, trim=0.0),
            "num_jump_pairs": float(len(self.pairs)),
            **{f"thickness_error_{low:g}_{high:g}": error for low, high, error in bins},
        }

    def against_thickness(self, prediction: Field, truth: Field) -> ThicknessErrors:
        """Squared sums by local thickness, to be combined over meshes; see `error_against_thickness`."""
        return error_against_thickness(
            self.mesh, prediction, truth, self.edges, unit=self.unit, thickness=self.thickness
        )


def evaluate_fields(
    mesh: Mesh | MeshErrors, predictions: Mapping[str, Tensor], truths: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Every error of every field that was predicted, flat: `"<field>.<error>"` → number.

    Args:
        mesh: the mesh, N nodes, or `MeshErrors.prepare(mesh)` where several models are compared on it.
        predictions: field name → `[N]` or `[N, c]`, as `FlareConnect.predict` returns.
        truths: the same fields, and perhaps others; None takes the mesh's own.

    Returns:
        The errors of `MeshErrors.of`.

    Raises:
        InputError: a field has no truth or does not fit the mesh.
    """
    known = mesh.mesh if isinstance(mesh, MeshErrors) else mesh
    right = known.point_data if truths is None else truths
    if not predictions:
        raise InputError("there is no prediction to evaluate: give at least one field")
    missing = [name for name in predictions if name not in right]
    if missing:
        given = ", ".join(repr(name) for name in right) or "none"
        raise InputError(f"field {missing[0]!r} has no truth to compare it with; there are {given}")
    for name, values in predictions.items():
        checked_pair(values, right[name], known.num_nodes)  # before seconds are spent on the mesh
    errors = mesh if isinstance(mesh, MeshErrors) else MeshErrors.prepare(mesh)
    return {
        f"{name}.{metric}": value
        for name, values in predictions.items()
        for metric, value in errors.of(values, right[name]).items()
    }
