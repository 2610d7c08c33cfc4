"""Adaptive normalisation against plain torch in fp64: on a GPU, and in Triton's interpreter.

`test_everything_in_the_interpreter` of `test_triton.py` runs this file there.
"""

import pytest
import torch
import torch.nn.functional as F
from kernels.triton_cases import DEVICES

import flare_kernels as fk

EPS = 1e-5
SHAPES = {
    "ragged": ((5, 0, 300, 17), 24),
    "uniform": ((40, 40), 64),
    "one mesh": ((70,), 56),
    "one channel": ((6, 3), 1),
    "wide": ((9, 4), 300),
    "empty": ((0, 0), 8),
}


def problem(lengths, channels, device, dtype=torch.float64):
    torch.manual_seed(0)
    x = 3 * torch.randn(sum(lengths), channels, dtype=torch.float64) + 5
    modulation = torch.randn(len(lengths), 2 * channels, dtype=torch.float64)
    dy = torch.randn_like(x)
    return [t.to(device=device, dtype=dtype) for t in (x, modulation, dy)]


def outcome(x, modulation, dy, lengths, impl):
    x, modulation = x.clone().requires_grad_(), modulation.clone().requires_grad_()
    y = fk.adaptive_norm(x, modulation, fk.Segments.from_lengths(lengths, x.device), impl=impl)
    return y.detach(), *torch.autograd.grad(y, (x, modulation), dy.to(y.dtype))


def by_hand(x, modulation, dy, lengths):
    """Each mesh by itself, with torch's own layer norm; its gradients are checked by torch."""
    x, modulation = x.clone().requires_grad_(), modulation.clone().requires_grad_()
    channels = x.shape[1]
    y = torch.cat(
        [
            F.layer_norm(part, (channels,)) * (1 + row[:channels]) + row[channels:]
            for part, row in zip(x.split(lengths), modulation, strict=True)
        ]
    )
    return y.detach(), *torch.autograd.grad(y, (x, modulation), dy)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_is_a_layer_norm_of_each_mesh(shape, device):
    lengths, channels = SHAPES[shape]
    tensors = problem(lengths, channels, device)
    for found, exact in zip(outcome(*tensors, lengths, "reference"), by_hand(*tensors, lengths), strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_triton_errs_no_more_than_plain_torch(shape, dtype, device):
    lengths, channels = SHAPES[shape]
    tensors = problem(lengths, channels, device, dtype)
    exact = by_hand(*(t.double() for t in tensors), lengths)
    plain = outcome(*tensors, lengths, "reference")
    for found, other, truth in zip(outcome(*tensors, lengths, "triton"), plain, exact, strict=True):
        assert found.dtype == dtype
        if truth.numel():
            # Plain torch errs by 0.8 to 2.5 in the last place of the largest number, as sums happen to be ordered.
            # With one channel all of the gradient cancels: what is left of it is that of the terms.
            scale = truth.abs().max() if truth.any() else tensors[2].double().norm() / EPS**0.5
            budget = torch.maximum((other.double() - truth).abs().max(), scale * torch.finfo(dtype).eps)
            assert (found.double() - truth).abs().max() <= 2.5 * budget


@pytest.mark.parametrize("device", DEVICES)
def test_triton_repeats_its_bits(device):
    lengths = (5, 300, 17)
    tensors = problem(lengths, 24, device, torch.float32)
    first, second = (outcome(*tensors, lengths, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
def test_under_autocast_the_result_is_what_layers_read():
    x, modulation, _ = problem((30, 9), 16, "cuda", torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        y = fk.adaptive_norm(x, modulation, fk.Segments.from_lengths((30, 9), "cuda"))
    assert y.dtype == torch.bfloat16


def test_shapes_that_do_not_fit_are_named():
    segments = fk.Segments.from_lengths([3])
    with pytest.raises(ValueError, match=r"`x` must be \[N, C\] with N = 3"):
        fk.adaptive_norm(torch.zeros(4, 2), torch.zeros(1, 4), segments)
    with pytest.raises(ValueError, match=r"`modulation` must be \[B, 2C\] = \[1, 4\], got \[1, 2\]"):
        fk.adaptive_norm(torch.zeros(3, 2), torch.zeros(1, 2), segments)


@pytest.mark.parametrize("device", DEVICES)
def test_double_precision_is_not_for_triton(device):
    x, modulation, _ = problem((3,), 2, device)
    with pytest.raises(ValueError, match=r"takes float32, bfloat16 and float16, got torch\.float64"):
        fk.adaptive_norm(x, modulation, fk.Segments.from_lengths([3], device), impl="triton")
