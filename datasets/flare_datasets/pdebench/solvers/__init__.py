"""Solvers that fill files in PDEBench's layouts."""
