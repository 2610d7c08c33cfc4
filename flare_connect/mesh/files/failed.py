"""The exception of a reader that has no mesh to give."""

NO_CELLS = "no cells found"


class FailedError(Exception):
    """A file gave no mesh; the message is a reason and becomes part of a `MeshReadError`."""
