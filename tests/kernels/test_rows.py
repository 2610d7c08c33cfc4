"""Row moves against plain indexing, values and gradients; packings joined once or in each call."""

import pytest
import torch

import flare_kernels as fk
from flare_kernels.rows import place, spread, take


def gradient(y, x):
    weights = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)
    return torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0]


@pytest.mark.parametrize("lengths", [[7], [4, 0, 3], [2, 2], [0, 0]])
def test_spread_is_indexing_by_mesh(lengths, device):
    segments = fk.Segments.from_lengths(lengths, device)
    x = torch.randn(len(lengths), 2, 3, dtype=torch.float64, device=device, requires_grad=True)
    plain = torch.cat([row.expand(length, 2, 3) for row, length in zip(x, lengths, strict=True)])
    assert torch.equal(spread(x, segments), plain)
    torch.testing.assert_close(gradient(spread(x, segments).cpu(), x), gradient(plain.cpu(), x))


def test_place_and_take_are_inverse_and_fill_with_zeros():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    slots = torch.tensor([5, 0, 2, 3])
    placed = place(x, slots, 7)
    assert torch.equal(placed[slots], x)
    assert not placed[[1, 4, 6]].any()
    assert torch.equal(take(placed, slots), x)
    assert torch.equal(gradient(placed, x), torch.arange(21.0, dtype=torch.float64).reshape(7, 3)[slots])
    assert torch.equal(gradient(take(placed, slots), x), torch.arange(12.0, dtype=torch.float64).reshape(4, 3))


def test_joining_puts_each_mesh_s_tokens_behind_its_points():
    points, tokens = fk.Segments.from_lengths([3, 0, 2]), fk.Segments.from_lengths([1, 2, 0])
    joint = points.interleave(tokens)
    assert joint.segments.lengths == (4, 2, 2)
    assert joint.points.tolist() == [0, 1, 2, 6, 7]
    assert joint.tokens.tolist() == [3, 4, 5]


def test_tokens_joined_beforehand_give_the_same_and_must_fit():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 4), torch.randn(9, 2, 4), torch.randn(9, 2, 4)
    points, ptr = fk.Segments.from_lengths([6, 3]), torch.tensor([0, 1, 4])
    extra = torch.randn(4, 2, 4)
    each_call = fk.mixer(q, k, v, scale=1.0, ptr=points, tokens=fk.Tokens(k=extra, v=extra, ptr=ptr))
    joint = points.interleave(fk.Segments.from_ptr(ptr))
    once = fk.mixer(q, k, v, scale=1.0, ptr=points, tokens=fk.Tokens(k=extra, v=extra, ptr=joint))
    assert torch.equal(each_call, once)
    with pytest.raises(ValueError, match="end at 3 and join 9 points, got 4 and 9"):
        fk.mixer(q, k, v, scale=1.0, ptr=points, tokens=fk.Tokens(k=extra[:3], v=extra[:3], ptr=joint))


def test_the_padded_form_is_aligned_only_where_there_is_padding():
    assert fk.Segments.from_lengths([20, 20]).width == 20
    assert fk.Segments.from_lengths([20, 17]).width == 32
    assert fk.Segments.from_lengths([0, 0]).width == 0
