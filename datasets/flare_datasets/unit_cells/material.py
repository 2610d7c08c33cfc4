"""Isotropic plane strain, by the name that it has always had here."""

from __future__ import annotations

from flare_datasets.plane_strain import plane_strain_stiffness, von_mises

__all__ = ["plane_strain_stiffness", "von_mises"]
