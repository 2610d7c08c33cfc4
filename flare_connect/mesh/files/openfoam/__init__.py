"""OpenFOAM cases: reading."""
