"""Training and evaluation: configuration, data, losses, runs that resume, errors on a split."""

from .config import DataConfig, OptimiserConfig, TrainConfig
from .evaluation import FieldError, compare, evaluate
from .losses import relative_l2, relative_l2_loss
from .run import TrainResult, fit

__all__ = [
    "DataConfig",
    "FieldError",
    "OptimiserConfig",
    "TrainConfig",
    "TrainResult",
    "compare",
    "evaluate",
    "relative_l2",
    "relative_l2_loss",
    "fit",
]
