"""The exceptions that flare_connect raises; each message names the value and the mend."""


class FlareConnectError(Exception):
    """Base of every error that flare_connect raises on purpose."""


class MeshError(FlareConnectError, ValueError):
    """A mesh is not usable as given: no cells, NaN in a field, indices out of range."""


class MeshReadError(MeshError):
    """A mesh file cannot be read; the message names the file, what was tried and why each failed."""


class StoreError(FlareConnectError, ValueError):
    """A prepared data set (HDF5) is missing, truncated, of another kind or made with other parameters."""


class ConfigError(FlareConnectError, ValueError):
    """A setting is wrong or would do nothing."""


class CheckpointError(FlareConnectError, ValueError):
    """A checkpoint is missing, incomplete, damaged or of a newer version."""


class InputError(FlareConnectError, ValueError):
    """A model was given a mesh or a field that does not fit it."""
