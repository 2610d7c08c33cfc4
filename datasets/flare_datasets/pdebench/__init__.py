"""PDEBench files: read lazily, written in the published layouts, given to torch as tensors or as graphs.

```python
from flare_datasets.pdebench import PDEBenchDataset, open_pdebench

file = open_pdebench("2D_rdb_NA_NA.h5")
train, test = PDEBenchDataset(file, "train"), PDEBenchDataset(file, "test")
```
"""

from flare_connect.lazy import lazy_names

_HOME = {
    "opening": ("open_pdebench",),
    "file": ("PDEBenchFile",),
    "families": ("FAMILIES", "Family", "Stored"),
    "tensors": ("PDEBenchDataset", "PDEBenchSample"),
    "graphs": ("PDEBenchGraphs", "GridMesh", "grid_mesh"),
    "preparing": ("prepare_pdebench",),
    "writer": ("PDEBenchWriter", "write_pdebench"),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
