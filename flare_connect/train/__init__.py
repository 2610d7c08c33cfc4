"""Training and evaluation: configuration, data, losses, runs that resume, errors on a split."""

from typing import TYPE_CHECKING

from flare_connect.lazy import lazy_names

if TYPE_CHECKING:
    from .config import DataConfig as DataConfig
    from .config import OptimiserConfig as OptimiserConfig
    from .config import TrainConfig as TrainConfig
    from .evaluation import FieldError as FieldError
    from .evaluation import compare as compare
    from .evaluation import evaluate as evaluate
    from .losses import relative_l2 as relative_l2
    from .losses import relative_l2_loss as relative_l2_loss
    from .rollout_config import RolloutTrainConfig as RolloutTrainConfig
    from .rollout_config import SeriesConfig as SeriesConfig
    from .rollout_config import UnrollConfig as UnrollConfig
    from .rollout_evaluation import evaluate_on_grid as evaluate_on_grid
    from .rollout_evaluation import predict_on_grid as predict_on_grid
    from .run import TrainResult as TrainResult
    from .run import fit as fit
    from .series_evaluation import SeriesError as SeriesError
    from .series_evaluation import evaluate_rollouts as evaluate_rollouts

_HOME = {
    "config": ("DataConfig", "OptimiserConfig", "TrainConfig"),
    "evaluation": ("FieldError", "compare", "evaluate"),
    "losses": ("relative_l2", "relative_l2_loss"),
    "rollout_config": ("RolloutTrainConfig", "SeriesConfig", "UnrollConfig"),
    "rollout_evaluation": ("evaluate_on_grid", "predict_on_grid"),
    "run": ("TrainResult", "fit"),
    "series_evaluation": ("SeriesError", "evaluate_rollouts"),
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)
