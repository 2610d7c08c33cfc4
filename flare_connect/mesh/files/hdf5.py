"""Arrays out of HDF5 files that nobody vouches for."""

from typing import Any

import numpy as np

from flare_connect.mesh.files.failed import FailedError

_UNPACKED = 1100  # bytes that deflate can make of one, and a little more


def dataset_array(dataset: Any, *, limit: int = 2**20) -> np.ndarray:
    """All of an h5py data set, in the machine's byte order; a claim that the file cannot back is refused.

    Raises:
        FailedError: it is no data set of numbers or bytes, or larger than what is stored could be unpacked to.
    """
    shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
    if shape is None or dtype is None or dtype.kind not in "fiubS":
        raise FailedError(f"{getattr(dataset, 'name', dataset)!r} holds no numbers")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    # what was never written is filled in by HDF5, and costs no room in the file
    if size > limit and size > _UNPACKED * dataset.id.get_storage_size():
        raise FailedError(f"{dataset.name!r} claims {size} bytes and stores {dataset.id.get_storage_size()}")
    values = dataset[...]
    return values.astype(values.dtype.newbyteorder("="), copy=False)
