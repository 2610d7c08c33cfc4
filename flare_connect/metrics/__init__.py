"""Errors that say where a model is wrong: near boundaries, at peaks, across voids, in thin places; and their spread.

A global relative error looks fine while a model smooths away every jump across a slit. These do not. Beside them stand
the six errors of PDEBench, for rollouts on regular grids.
"""

from flare_connect.metrics.boundary import boundary_error, near_boundary
from flare_connect.metrics.fields import relative_l2
from flare_connect.metrics.invariants import von_mises
from flare_connect.metrics.jumps import JumpPairs, jump_error, jump_pairs
from flare_connect.metrics.mesh_errors import MeshErrors, evaluate_fields
from flare_connect.metrics.pdebench import PDEBenchErrors, PDEBenchMetrics, pdebench_errors
from flare_connect.metrics.peak import PeakError, peak_error
from flare_connect.metrics.spectra import Spectra, SpectraMetrics
from flare_connect.metrics.summary import Ratio, Summary, compare_models, paired_ratio, summarise, summarise_splits
from flare_connect.metrics.thickness import ThicknessErrors, combine, element_size, error_against_thickness

__all__ = [
    "relative_l2",
    "von_mises",
    "near_boundary",
    "boundary_error",
    "PeakError",
    "peak_error",
    "JumpPairs",
    "jump_pairs",
    "jump_error",
    "ThicknessErrors",
    "error_against_thickness",
    "combine",
    "element_size",
    "MeshErrors",
    "evaluate_fields",
    "PDEBenchMetrics",
    "PDEBenchErrors",
    "pdebench_errors",
    "SpectraMetrics",
    "Spectra",
    "Summary",
    "summarise",
    "summarise_splits",
    "Ratio",
    "paired_ratio",
    "compare_models",
]
