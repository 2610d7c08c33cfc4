"""Between torch, which users hold, and numpy, which files and sparse algebra want."""

import numpy as np
import torch


def host(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values as a numpy array on the CPU; shares memory where it is there already."""
    return tensor.detach().cpu().numpy()
