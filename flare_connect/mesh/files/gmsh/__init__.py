"""Gmsh's msh files: reading and writing."""
