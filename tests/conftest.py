"""Shared by all tests: run-time checks of shapes and types, devices, real data where it lies beside the checkout."""

import os
from pathlib import Path

# Tests are small: one thread is faster than two that wait for each other, and it is repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

# Every annotated shape of these modules is checked at each call of every test. `flare_kernels.api` is left out: its own
# messages, which users see, are tested instead.
install_import_hook(
    [
        *(f"flare_kernels.{name}" for name in ("reference", "sdpa", "buckets", "segments", "merge")),
        "flare_connect.nn",
        "flare_connect.models",
        "flare_connect.mesh",
        "flare_connect.metrics",
        "flare_connect.distributed",
    ],
    "beartype.beartype",
)

import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """GPU tests are skipped, saying so, where there is no GPU."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Every device of this machine."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real published files; tests that want them are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder with real published files is not beside this checkout")
    return folder
