"""What models on meshes share: statistics of what they read, where they are, how they are kept on disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from flare_connect.errors import CheckpointError
from flare_connect.mesh import Mesh, MeshCache
from flare_connect.nn import Anchors
from flare_kernels import Segments

from .config import FlareConnectConfig
from .features import build_graph, num_condition_features, num_node_features, num_standardised_features
from .pretrained import load_pretrained, save_pretrained
from .statistics import Standardiser, typical_cost

_Model = TypeVar("_Model", bound="MeshModel")


class MeshModel(nn.Module):
    """A model that reads graphs of meshes. Statistics of the training data are buffers: they travel with the weights.

    Args:
        config: of the model, to be saved with it.
        reads: which features its graphs have, and its architecture.

    Attributes:
        kind: name in saved files.
    """

    kind: ClassVar[str]
    typical_cost: Tensor

    def __init__(self, config: Any, reads: FlareConnectConfig) -> None:
        super().__init__()
        self.config, self.reads = config, reads
        self.num_standardised = num_standardised_features(reads)
        self.input_statistics = Standardiser(self.num_standardised)
        self.condition_statistics = Standardiser(num_condition_features(reads))
        if reads.architecture.num_scales:
            self.register_buffer("typical_cost", torch.ones(reads.architecture.num_scales))

    def build_graph(self, mesh: Mesh, *, with_targets: bool = False, cache: MeshCache | None = None) -> Data:
        """What the model reads of a mesh; see `features.build_graph`."""
        return build_graph(mesh, self.reads, with_targets=with_targets, cache=cache)

    def fit_inputs(
        self, graphs: Sequence[Data], scaled_inputs: Iterable[int] = (), scaled_conditions: Iterable[int] = ()
    ) -> None:
        """Set the standardisation of what is read.

        Args:
            graphs: of the training split, and of no other.
            scaled_inputs: columns of node features that are only divided.
            scaled_conditions: columns of conditions that are.
        """
        self.condition_statistics.fit((graph.condition for graph in graphs), scaled=list(scaled_conditions))
        if self.num_standardised:
            first = num_node_features(self.reads) - self.num_standardised
            scaled = [column - first for column in scaled_inputs]
            self.input_statistics.fit((graph.x[:, first:] for graph in graphs), scaled=scaled)
        if self.reads.architecture.num_scales:
            self.typical_cost.copy_(typical_cost(graphs))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.condition_statistics.mean.device

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())

    def save_pretrained(self, folder: str | Path, *, provenance: dict[str, Any] | None = None) -> Path:
        """Write `model.safetensors` and `config.json`.

        Args:
            folder: made if absent.
            provenance: JSON data about the training (data set, error, command), kept beside the configuration.
        """
        return save_pretrained(self, self.config.to_dict(), folder, kind=self.kind, provenance=provenance)

    @classmethod
    def from_pretrained(cls: type[_Model], folder: str | Path, *, device: torch.device | str = "cpu") -> _Model:
        """Read what `save_pretrained` wrote, or a model that comes with the package; nothing read can run code.

        ```python
        FlareConnect.from_pretrained("runs/brackets")  # a folder
        FlareConnect.from_pretrained("unit-cells")     # one of `shipped_models()`
        ```

        Args:
            folder: where the model lies; or, if nothing is at that path, the name of a shipped model.
            device: where to put the weights.

        Raises:
            CheckpointError: if the folder is missing, incomplete, damaged, of another model or of a newer version.
        """
        config, weights = load_pretrained(folder, kind=cls.kind)
        model = cls._of(config)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights in {folder} are not those of its configuration as this version reads it; train it again, "
                f"or read it with the version that wrote it: {error}"
            ) from error
        return model.to(device).eval()

    @classmethod
    def _of(cls: type[_Model], config: dict[str, Any]) -> _Model:
        """A model with the configuration that `to_dict` of another gave."""
        raise NotImplementedError

    def _standardised_inputs(self, x: Tensor) -> Tensor:
        if not self.num_standardised:
            return x
        return torch.cat([x[:, : -self.num_standardised], self.input_statistics(x[:, -self.num_standardised :])], dim=1)

    def _anchors(self, cost: Tensor, tokens: Tensor | None) -> Anchors:
        """Where latents sit, from the costs of points in a graph, and the points that are tokens too."""
        of_tokens = None if tokens is None else cost[tokens].transpose(1, 2)
        return Anchors(cost=cost.transpose(1, 2), typical=self.typical_cost, token_cost=of_tokens)


def token_segments(graph: Data, segments: Segments) -> Segments:
    """Where each mesh's boundary nodes start."""
    if "boundary_lengths" in graph:
        return Segments.from_lengths(graph.boundary_lengths, graph.x.device)
    if segments.num_segments == 1:
        return Segments.from_lengths([len(graph.boundary_index)], graph.x.device)
    # The boundary nodes of a batch are sorted by mesh, so each mesh's count is a search away.
    return Segments.from_ptr(torch.searchsorted(graph.boundary_index, segments.ptr))
