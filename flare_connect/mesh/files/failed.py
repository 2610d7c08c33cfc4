"""The exceptions of a reader that has no mesh to give."""

NO_CELLS = "no cells found"


class FailedError(Exception):
    """A file gave no mesh; the message is a reason and becomes part of a `MeshReadError`."""


class CutShortError(FailedError):
    """A file ends before what it announces; no other reader is tried, since some give what is left without a word."""
