"""Nastran bulk data: reading and writing."""
