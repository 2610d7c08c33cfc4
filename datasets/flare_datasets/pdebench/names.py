"""What the name of a published file tells: parameters and boundary; the contents are asked first."""

from __future__ import annotations

import re
from pathlib import Path

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PARAMETERS = {name.lower(): name for name in ("beta", "Nu", "rho", "M", "eta", "zeta")}
_BOUNDARIES = ("periodic", "trans")

_PATTERNS = {
    "advection": r"1D_Advection_Sols_.*",
    "burgers": r"1D_Burgers_Sols_.*",
    "reaction_diffusion": r"ReacDiff_.*",
}


def parameters_in_name(path: str | Path) -> dict[str, float]:
    """Parameters in a file's name, under the names that attributes have.

    `1D_Burgers_Sols_Nu.001.hdf5` gives `{"Nu": 0.001}`, `2D_CFD_Rand_M0.1_Eta1.e-8_…` gives M and eta.
    """
    found = {}
    for part in _parts(path):
        match = re.fullmatch(rf"([A-Za-z]+)({_NUMBER})", part)
        if match and match[1].lower() in _PARAMETERS:
            found[_PARAMETERS[match[1].lower()]] = float(match[2])
    return found


def boundary_in_name(path: str | Path) -> str | None:
    """Whether a file's name says "periodic" or "trans" (outflow); None where it says neither."""
    return next((part for part in _parts(path) if part in _BOUNDARIES), None)


def family_in_name(path: str | Path) -> str | None:
    """The family of one-dimensional `tensor` files that a name claims; None where it claims none."""
    name = Path(path).name
    return next((family for family, pattern in _PATTERNS.items() if re.fullmatch(pattern, name)), None)


def canonical(name: str) -> str:
    """A parameter's name as this library spells it, whatever case the file has it in."""
    return _PARAMETERS.get(name.lower(), name)


def _parts(path: str | Path) -> list[str]:
    return re.sub(r"\.(hdf5|h5)$", "", Path(path).name).split("_")
