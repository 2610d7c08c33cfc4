"""Anchored attention: FLARE without decay, its equation with it, and nothing across a void."""

import pytest
import torch

from flare_connect.nn import AnchoredFlare, Anchors, FlareAttention
from flare_kernels import Segments

C, H, M = 16, 4, 6
VARIANTS = {
    "plain": {},
    "normalised": {"qk_norm": True},
    "adapted": {"queries": "adapted"},
    "separate": {"separate_decode": True},
}


def layer(seed=0, **options):
    torch.manual_seed(seed)
    return AnchoredFlare(C, num_heads=H, num_latents=M, **options).double()


def costs(n, tokens=0, scales=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.rand(k, M, scales, generator=generator).double() for k in (n, tokens)]
    return Anchors(cost=rows[0], typical=torch.full((scales,), 0.5).double(), token_cost=rows[1] if tokens else None)


def points(n, seed=2):
    return torch.randn(n, C, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_without_decay_it_is_flare(options):
    anchored, plain = layer(**options), FlareAttention(C, num_heads=H, num_latents=M, **options).double()
    weights = anchored.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    with torch.no_grad():
        anchored.decay.zero_()
        anchored.decode_decay.zero_()
    x, segments = points(20), Segments.from_lengths([12, 8])
    torch.testing.assert_close(anchored(x, segments, anchors=costs(20)), plain(x, segments))


def test_the_equation_written_out():
    anchored, x, anchors = layer(), points(9), costs(9)
    with torch.no_grad():
        anchored.decay.copy_(torch.tensor([0.0, 0.3, 0.8, 2.0]))
        anchored.decode_decay.copy_(torch.tensor([0.4, 0.0, 1.5, 1.0]))
    k, v = (projection(x).view(9, H, -1) for projection in (anchored.key, anchored.value))
    mixed = []
    for h in range(H):
        score = k[:, h] @ anchored.latents[h].T
        cost = anchors.cost[:, :, h % 2] * 3 / 0.5
        z = (score - anchored.decay[h] ** 2 * cost).softmax(0).T @ v[:, h]
        mixed.append((score - anchored.decode_decay[h] ** 2 * cost).softmax(1) @ z)
    expected = anchored.output(torch.cat(mixed, 1))
    torch.testing.assert_close(anchored(x, Segments.from_lengths([9]), anchors=anchors), expected)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_ragged_batch_equals_single_meshes(options):
    anchored, lengths, extra = layer(**options), [10, 1, 7], [3, 1, 2]
    x, tokens, anchors = points(18), points(6, seed=3), costs(18, 6)
    y = anchored(
        x, Segments.from_lengths(lengths), anchors=anchors, tokens=tokens, token_segments=Segments.from_lengths(extra)
    )
    parts = (
        t.split(n) for t, n in ((x, lengths), (anchors.cost, lengths), (tokens, extra), (anchors.token_cost, extra))
    )
    singles = [
        anchored(
            p, Segments.from_lengths([len(p)]), tokens=t, token_segments=Segments.from_lengths([len(t)]),
            anchors=Anchors(cost=c, typical=anchors.typical, token_cost=tc),
        )
        for p, c, t, tc in zip(*parts, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(y, torch.cat(singles))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_nothing_crosses_from_one_part_of_a_mesh_to_another(options):
    """Points 0 to 5 with anchors 0 to 2, the others with anchors 3 to 5; tokens 0 and 1 on either side."""
    anchored, anchors = layer(**options), costs(12, 2)
    anchors.cost[:6, 3:] = anchors.cost[6:, :3] = torch.inf
    anchors.token_cost[0, 3:] = anchors.token_cost[1, :3] = torch.inf
    x, tokens = points(12).requires_grad_(), points(2, seed=3).requires_grad_()
    segments, extra = Segments.from_lengths([12]), Segments.from_lengths([2])
    anchored(x, segments, anchors=anchors, tokens=tokens, token_segments=extra)[:6].square().sum().backward()
    assert torch.equal(x.grad[6:], torch.zeros_like(x.grad[6:]))
    assert torch.equal(tokens.grad[1], torch.zeros_like(tokens.grad[1]))
    assert (x.grad[:6].abs().sum(1) > 0).all()
    assert tokens.grad[0].abs().sum() > 0


def test_every_weight_is_trained():
    anchored = layer(queries="adapted")
    anchored(points(20), Segments.from_lengths([12, 8]), anchors=costs(20)).square().sum().backward()
    idle = [name for name, p in anchored.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in idle if "bias" not in name]


def test_rank_uses_the_first_latents_and_their_anchors():
    anchored, x, segments, anchors = layer(), points(10), Segments.from_lengths([10]), costs(10)
    small = AnchoredFlare(C, num_heads=H, num_latents=2).double()
    state = anchored.state_dict()
    small.load_state_dict(state | {"latents": state["latents"][:, :2]})
    few = Anchors(cost=anchors.cost[:, :2], typical=anchors.typical)
    torch.testing.assert_close(anchored(x, segments, anchors=anchors, rank=2), small(x, segments, anchors=few))
    with pytest.raises(ValueError, match=f"between 1 and `num_latents` = {M}, got 7"):
        anchored(x, segments, anchors=anchors, rank=7)


def test_half_precision_costs_change_little():
    anchored, x, segments, anchors = layer(), points(50), Segments.from_lengths([50]), costs(50)
    half = Anchors(cost=anchors.cost.half(), typical=anchors.typical)
    exact, rounded = (anchored(x, segments, anchors=a) for a in (anchors, half))
    # Scores are off by one rounding of the largest decay, 1.5² · 6, and so are weights, twice.
    assert (exact - rounded).norm() < 2 * 1.5**2 * 6 * 2**-11 * exact.norm()


def test_what_cannot_work():
    with pytest.raises(ValueError, match="needs `anchors`"):
        layer()(points(5), Segments.from_lengths([5]))
    with pytest.raises(Exception, match="`num_scales` must be between 1 and `num_heads` = 4"):
        layer(num_scales=5)
