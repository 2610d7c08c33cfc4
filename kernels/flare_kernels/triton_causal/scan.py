"""States along sequences, one program for a few latents of a head of a sequence: each part joins what came before.

A sequence of T parts has T + 1 states, the first of which is given; those of sequence b are the rows `ptr[b] + b` to
`ptr[b + 1] + b`. Everything is in fp32 and in the order of the parts.
"""

import triton
import triton.language as tl

from .tiles import power, scores_in


@triton.jit(do_not_specialize=["M"])
def scan_kernel(
    lse, z, first_lse, first_z, ptr, lse_states, z_states,
    M,
    H: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Writes all states: `lse' = log(exp lse + exp lse_t)`, z' the mean of both by these weights."""
    sequence, head, latents, start, length = scan_program(ptr, M, H, BLOCK_M)
    at = (sequence * H + head) * M + latents
    total = load_latents(first_lse, at, latents, M)
    mean = load_values(first_z, at, latents, M, DV, BLOCK_DV)
    # What comes next is loaded ahead: a program waits for its memory once, not in every step.
    for t in tl.range(0, length, num_stages=STAGES):
        row = ((start + sequence + t) * H + head) * M + latents
        tl.store(lse_states + row, total, mask=latents < M)
        store_values(z_states, row, latents, M, mean, DV, BLOCK_DV)
        at = ((start + t) * H + head) * M + latents
        part = load_latents(lse, at, latents, M)
        old, new, total = joined(total, part)
        mean = old[:, None] * mean + new[:, None] * load_values(z, at, latents, M, DV, BLOCK_DV)
    row = ((start + sequence + length) * H + head) * M + latents
    tl.store(lse_states + row, total, mask=latents < M)
    store_values(z_states, row, latents, M, mean, DV, BLOCK_DV)


@triton.jit(do_not_specialize=["M"])
def scan_grad_kernel(
    lse, z, ptr, lse_states, z_states, dlse_states, dz_states, dlse, dz, first_dlse, first_dz,
    M,
    H: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of the parts and of the first states, from those of all states, backwards along each sequence."""
    sequence, head, latents, start, length = scan_program(ptr, M, H, BLOCK_M)
    row = ((start + sequence + length) * H + head) * M + latents
    gl = load_grad(dlse_states, row, latents, M)
    gz = load_values(dz_states, row, latents, M, DV, BLOCK_DV)
    for i in tl.range(0, length, num_stages=STAGES):
        t = length - 1 - i
        at = ((start + t) * H + head) * M + latents
        row = ((start + sequence + t) * H + head) * M + latents
        old, new, _ = joined(load_latents(lse_states, row, latents, M), load_latents(lse, at, latents, M))
        before = load_values(z_states, row, latents, M, DV, BLOCK_DV)
        part = load_values(z, at, latents, M, DV, BLOCK_DV)
        moved = old * new * tl.sum(gz * (part - before), 1)
        tl.store(dlse + at, new * gl + moved, mask=latents < M)
        store_values(dz, at, latents, M, new[:, None] * gz, DV, BLOCK_DV)
        gl = old * gl - moved + load_grad(dlse_states, row, latents, M)
        gz = old[:, None] * gz + load_values(dz_states, row, latents, M, DV, BLOCK_DV)
    at = (sequence * H + head) * M + latents
    tl.store(first_dlse + at, gl, mask=latents < M)
    store_values(first_dz, at, latents, M, gz, DV, BLOCK_DV)


@triton.jit(do_not_specialize=["M"])
def carry_kernel(
    lse_states, z_states, last, last_totals, dlse_last, dz_last, ptr, dlse, dz, first_dlse, first_dz,
    M,
    H: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, STAGES: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """Gradients of the states after groups, in place of what each group alone gives to that before it.

    That of the log-sum-exp comes out as `dtotal = dlse − z·dz`: with `exp(lse) z`, and not z, held. `last` and
    `last_totals` are what `span_kernel` writes.
    """
    sequence, head, latents, start, length = scan_program(ptr, M, H, BLOCK_M)
    at = (sequence * H + head) * M + latents
    row = ((start + sequence + length) * H + head) * M + latents
    gl = load_grad(dlse_last, at, latents, M)
    gz = load_values(dz_last, at, latents, M, DV, BLOCK_DV)
    after = load_values(z_states, row, latents, M, DV, BLOCK_DV)
    for i in tl.range(0, length, num_stages=STAGES):
        t = length - 1 - i
        part = ((start + t) * H + head) * M + latents
        row = ((start + sequence + t) * H + head) * M + latents
        mine, mine_z = load_grad(dlse, part, latents, M), load_values(dz, part, latents, M, DV, BLOCK_DV)
        before = load_values(z_states, row, latents, M, DV, BLOCK_DV)
        pivot = load_latents(last, part, latents, M)
        total = tl.load(last_totals + part, mask=latents < M, other=1.0)
        first = scores_in(load_latents(lse_states, row, latents, M), EXACT)
        old = power(first - tl.where(pivot == -float("inf"), 0.0, pivot), EXACT)
        old = tl.div_rn(old, tl.where(total == 0.0, 1.0, total))
        tl.store(dlse + part, gl - tl.sum(gz * after, 1), mask=latents < M)
        store_values(dz, part, latents, M, gz, DV, BLOCK_DV)
        gl = old * (gl + tl.sum(gz * (before - after), 1)) + mine
        gz = old[:, None] * gz + mine_z
        after = before
    tl.store(first_dlse + at, gl, mask=latents < M)
    store_values(first_dz, at, latents, M, gz, DV, BLOCK_DV)


@triton.jit
def scan_program(ptr, M, H: tl.constexpr, BLOCK_M: tl.constexpr):
    """Sequence, head and latents of a program, and where the parts of the sequence start and how many there are."""
    num_blocks = tl.cdiv(M, BLOCK_M)
    latents = (tl.program_id(0) % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    head = (tl.program_id(0) // num_blocks) % H
    sequence = (tl.program_id(0) // (num_blocks * H)).to(tl.int64)
    start = tl.load(ptr + sequence)
    return sequence, head, latents, start, (tl.load(ptr + sequence + 1) - start).to(tl.int32)


@triton.jit
def joined(before, part):
    """Shares of the past and of a part in what follows, and its log-sum-exp; all of it nothing where both are.

    Quotients are rounded to the nearest: those of `/` are off by a little, and thousands of shares are multiplied.
    """
    peak = tl.maximum(before, part)
    pivot = tl.where(peak == -float("inf"), 0.0, peak)
    old, new = tl.exp(before - pivot), tl.exp(part - pivot)
    total = old + new
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    return tl.div_rn(old, safe), tl.div_rn(new, safe), tl.where(empty, -float("inf"), pivot + tl.log(safe))


@triton.jit
def load_latents(lse, at, latents, M):
    """A number each; −∞ past the last."""
    return tl.load(lse + at, mask=latents < M, other=-float("inf"))


@triton.jit
def load_grad(dlse, at, latents, M):
    """A number each; 0 past the last."""
    return tl.load(dlse + at, mask=latents < M, other=0.0)


@triton.jit
def load_values(z, at, latents, M, DV: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Values [BLOCK_M, BLOCK_DV]; 0 past the last latent and past the dims."""
    dims = tl.arange(0, BLOCK_DV)
    mask = (latents < M)[:, None] & (dims < DV)[None, :]
    return tl.load(z + at[:, None] * DV + dims[None, :], mask=mask, other=0.0)


@triton.jit
def store_values(z, at, latents, M, tile, DV: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Write values where `load_values` reads them."""
    dims = tl.arange(0, BLOCK_DV)
    mask = (latents < M)[:, None] & (dims < DV)[None, :]
    tl.store(z + at[:, None] * DV + dims[None, :], tile, mask=mask)
