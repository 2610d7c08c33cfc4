"""A short convolution along sequences, that looks back and never ahead."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError
from flare_kernels import Segments
from flare_kernels.rows import place


class CausalConv(nn.Module):
    """`u_t = x_t + Σ_{j<W} w_j ⊙ x_{t−j}`: each channel of a token meets that of the few tokens before it.

    A running softmax does not know which token came just before; this does. The weights start at zero, so a layer
    begins without. Before a sequence there are zeros.

    Args:
        channels: C, width of the tokens.
        width: W, tokens that are seen, the one itself included.

    Raises:
        ConfigError: if there is no token before.

    Good values: 4.
    Source: the convolution of Mamba, arXiv 2312.00752.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width < 2:
            raise ConfigError(f"`conv_width` must be 0 for no convolution, or at least 2 to look back, got {width}")
        self.width = width
        self.weight = nn.Parameter(torch.zeros(width, channels))

    def forward(
        self, x: Float[Tensor, "N C"], segments: Segments, recent: Float[Tensor, "B W1 C"] | None = None
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "B W1 C"]]:
        """Along whole sequences.

        Args:
            x: tokens, packed.
            segments: where each sequence starts.
            recent: the W − 1 tokens before each sequence; None for zeros. Gradients flow through them.

        Returns:
            u, and the last W − 1 tokens of each sequence.
        """
        back = self.width - 1
        if recent is None:
            recent = x.new_zeros(segments.num_segments, back, x.shape[1])
        joint = Segments.uniform(segments.num_segments, back, x.device).interleave(segments)
        size = joint.segments.num_rows
        line = place(recent.to(x.dtype).flatten(0, 1), joint.points, size).index_copy(0, joint.tokens, x)
        # Slices of one line: nothing but the line is kept for the backward pass, and what comes later has no part in a
        # row, not even in its rounding. Rows that would reach into the sequence before are left out.
        weight = self.weight.to(x.dtype)
        mixed = weight[0] * line[back:]
        for j in range(1, self.width):
            mixed = mixed + weight[j] * line[back - j : max(size - j, 0)]
        rows = joint.segments.ptr[1:, None] + torch.arange(-back, 0, device=x.device)
        last = line.index_select(0, rows.flatten()).unflatten(0, (-1, back))
        return x + mixed.index_select(0, joint.tokens - back), last

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B C"], recent: Float[Tensor, "B W1 C"]) -> Float[Tensor, "B C"]:
        """One token more of each sequence; `recent` is overwritten with the tokens that are then the last."""
        seen = torch.cat([recent.to(x.dtype), x[:, None]], dim=1)
        recent.copy_(seen[:, 1:])
        return x + (self.weight.to(x.dtype).flip(0) * seen).sum(1)
