"""Small peers with weights that show errors, and ragged batches of random meshes for them."""

import torch

from flare_connect.models.baselines import build
from flare_kernels import Segments

SIZES = {"features": 7, "edge_features": 4, "conditions": 3, "outputs": 2, "dim": 2}
SMALL = {"channels": 16, "num_blocks": 2}
OPTIONS = {
    "transolver": {"num_heads": 4, "num_slices": 5},
    "geotransolver": {"num_heads": 4, "num_slices": 5, "local_channels": 8, "radii": (0.2, 0.6)},
    "geoflare": {"num_heads": 4, "num_slices": 5, "local_channels": 8, "radii": (0.2, 0.6)},
    "meshgraphnet": {},
    "graphnet": {"num_heads": 4},
    "pointwise": {},
}


def peer(name, **options):
    torch.manual_seed(0)
    model = build(name, **SIZES, **SMALL, **OPTIONS[name] | options).double()
    with torch.no_grad():
        for parameter in model.parameters():  # published starts are so small that errors would hide
            parameter.add_(0.2 * torch.randn_like(parameter))
        for key, parameter in model.named_parameters():  # at its lower limit a temperature is not trained
            if key.endswith("temperature"):
                parameter.fill_(0.9)
    return model


def batch(lengths):
    """Features, conditions and the keywords of a call on random meshes; a third of the nodes is boundary."""
    torch.manual_seed(1)
    segments = Segments.from_lengths(lengths)
    starts = segments.ptr[:-1].tolist()
    edges, boundary = [], []
    for start, length in zip(starts, lengths, strict=True):
        edges.append(torch.randint(0, length, (2, 6 * length)) + start)
        boundary.append(torch.randperm(length)[: length // 3].sort().values + start)
    edge_index, boundary_index = torch.cat(edges, 1), torch.cat(boundary)
    joint = segments.interleave(Segments.from_lengths([len(part) for part in boundary]))
    more = {
        "segments": segments,
        "boundary_index": boundary_index,
        "joint": joint,
        "edge_index": edge_index,
        "edge_attr": torch.randn(edge_index.shape[1], 4).double(),
    }
    return torch.randn(sum(lengths), 7).double(), torch.randn(len(lengths), 3).double(), more
