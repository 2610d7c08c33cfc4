"""Mesh files: reading, writing, and the way to and from PyVista and meshio. One format or one concern to a file."""
