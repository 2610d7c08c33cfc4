"""Layer normalisation whose scale and shift belong to a mesh, in one pass over its points."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .choice import choose_for_rows
from .rows import spread
from .segments import Segments


def adaptive_norm(
    x: Float[Tensor, "N C"],
    modulation: Float[Tensor, "B C2"],
    segments: Segments,
    *,
    eps: float = 1e-5,
    impl: str = "auto",
) -> Float[Tensor, "N C"]:
    """`y_n = (x_n − mean x_n) / √(var x_n + ε) · (1 + a) + b`, with a and b of the mesh that n belongs to.

    Plain torch reads and writes the points a dozen times for it in a training step, and adds up the gradients of a and
    b with thousands of points waiting for one row. Triton takes one pass forward and one backward, computes in fp32,
    and adds up in a fixed order.

    Args:
        x: points, packed.
        modulation: a and b of each mesh side by side, C2 = 2C.
        segments: where each mesh starts.
        eps: ε.
        impl: "auto", "triton" or "reference"; "auto" is Triton on a GPU in float32, bfloat16 or float16 for up to 4096
            channels.

    Returns:
        Y in the dtype of `x`; under autocast Triton gives it in autocast's, because layers that follow want it so.

    Raises:
        ValueError: if shapes do not fit, or Triton is asked for what it cannot do.

    Source: adaptive layer normalisation, arXiv 2212.09748.
    """
    if x.dim() != 2 or x.shape[0] != segments.num_rows:
        raise ValueError(f"`x` must be [N, C] with N = {segments.num_rows} as in `segments`, got {list(x.shape)}")
    if tuple(modulation.shape) != (segments.num_segments, 2 * x.shape[1]):
        raise ValueError(
            f"`modulation` must be [B, 2C] = [{segments.num_segments}, {2 * x.shape[1]}], got {list(modulation.shape)}"
        )
    kind = x.device.type
    if choose_for_rows(impl, x) == "triton":
        from .fused import plan_of
        from .triton_norm import autograd

        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return autograd.adaptive_norm(x, modulation, plan_of(segments, x), eps, dtype)
    # Autocast would write float32, twice the memory; sums are in float32 anyway.
    with torch.autocast(kind, enabled=False):
        normalised = F.layer_norm(x, x.shape[1:], eps=eps)
    scale, shift = spread(modulation, segments).chunk(2, dim=-1)
    return normalised * (1 + scale) + shift
