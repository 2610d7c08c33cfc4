"""Peers in time: a method of others steps the frames, under our features, normalisation, training and rollout."""

from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, dtype, nn

from flare_connect.nn import Anchors, CausalState

from ..config import Recompute
from ..features import num_condition_features, num_edge_features, num_node_features
from ..rollout import FlareRollout
from ..rollout_config import RolloutConfig
from ..unrolled import Unrolled
from . import build, matching_channels
from .base import Baseline


class PeerStepper(nn.Module):
    """A peer in place of `Stepper`: each frame by itself, the change to the next one out.

    Args:
        peer: reads the features of the nodes, the last frames among them.
    """

    def __init__(self, peer: Baseline) -> None:
        super().__init__()
        self.peer = peer

    def forward(
        self,
        x: Float[Tensor, "TN F"],
        condition: Float[Tensor, "B G"],
        unrolled: Unrolled,
        *,
        anchors: Anchors | None = None,
        state: tuple[CausalState, ...] | None = None,
        rank: int | None = None,
    ) -> tuple[Float[Tensor, "TN V"], tuple[CausalState, ...]]:
        """Changes at the points; nothing is remembered. Arguments as those of `Stepper`."""
        change = self.peer(
            x, condition.index_select(0, unrolled.sequences.batch), segments=unrolled.steps,
            boundary_index=unrolled.tokens, joint=unrolled.joint, edge_index=unrolled.edge_index,
            edge_attr=unrolled.edge_attr, rank=rank,
        )  # fmt: skip
        return change, ()

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the peer, which training may compile."""
        return self.peer.blocks

    @property
    def recompute(self) -> Recompute:
        """What the backward pass computes again."""
        return self.peer.recompute

    @recompute.setter
    def recompute(self, value: Recompute) -> None:
        self.peer.recompute = value

    @property
    def stream(self) -> dtype | None:
        """The dtype of points between blocks, of which peers know none but their own."""
        return self.peer.stream

    @stream.setter
    def stream(self, value: dtype | None) -> None:
        self.peer.stream = value


def rollout_peer(
    name: str, config: RolloutConfig, *, parameters: int | None = None, tolerance: float = 0.1, **options: Any
) -> FlareRollout:
    """A rollout whose trunk is a peer: trains and rolls out as `FlareRollout`, but `from_pretrained` cannot read it.

    Args:
        name: a key of `BASELINES`.
        config: what is read and stepped; what peers do not have (memory, differences, anchors, quadrature) is left out.
        parameters: wanted count, for which the width is chosen; None for `channels` in the options.
        tolerance: largest relative deviation from it.
        options: settings of the peer, as `build` takes them.

    Raises:
        ConfigError: if the name or an option is unknown, or no width comes close enough.

    Good values: for "meshgraphnet" 15 blocks, trained with noise and `own_steps` 0, which is how it was published.
    """
    arch = replace(config.architecture, anchors="none", quadrature=False, message_passing=True)
    model = FlareRollout(replace(config, memory=False, differences=0, attended=False, architecture=arch))
    sizes = {
        "features": num_node_features(model.reads) + config.num_frame_features,
        "edge_features": num_edge_features(model.reads), "conditions": num_condition_features(model.reads),
        "outputs": config.width, "dim": config.dim,
    }  # fmt: skip
    if parameters is not None:
        options["channels"] = matching_channels(name, parameters, tolerance=tolerance, **sizes, **options)
    model.trunk = PeerStepper(build(name, **sizes, **options))  # type: ignore[assignment]
    return model
