"""Abaqus input decks: reading and writing."""
