"""Ways in which a file goes wrong, each repeatable from its seed."""

import re

import numpy as np

HUGE = (b"99999999999", b"2147483647", b"-1", b"18446744073709551615", b"0", b"4294967295")


def _truncate(data, rng):
    return data[: int(len(data) * rng.uniform(0.02, 0.98))]


def _flip(data, rng):
    out = bytearray(data)
    for place in rng.integers(0, len(out), int(rng.integers(1, 20))):
        out[place] ^= int(rng.integers(1, 256))
    return bytes(out)


def _flip_head(data, rng):
    out = bytearray(data)
    for place in rng.integers(0, min(len(out), 1200), int(rng.integers(1, 6))):
        out[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def _number(data, rng, within=None):
    """Another number where one is written out: counts, lengths, node ids."""
    found = list(re.finditer(rb"(?<![\w.+-])\d+(?![\w.])", data[:within]))
    if not found:
        return _flip(data, rng)
    at = found[int(rng.integers(len(found)))]
    return data[: at.start()] + HUGE[int(rng.integers(len(HUGE)))] + data[at.end() :]


def _number_head(data, rng):
    return _number(data, rng, 1500)


def _word(data, rng):
    """Four or eight bytes all ones, or nearly: a count or an offset in a binary file."""
    size = int(rng.choice([4, 8]))
    place = int(rng.integers(0, max(1, min(len(data), 4000) - size)))
    word = [b"\xff" * size, (b"\xff" * (size - 1) + b"\x7f"), (b"\x7f" + b"\xff" * (size - 1)), b"\0" * size]
    return data[:place] + word[int(rng.integers(4))] + data[place + size :]


def _nan(data, rng):
    found = list(re.finditer(rb"(?<![\w.])\d+\.\d*(e[+-]?\d+)?(?![\w.])", data))
    if not found:
        place = int(rng.integers(0, len(data) // 8)) * 8
        return data[:place] + np.float64(np.nan).tobytes() + data[place + 8 :]
    at = found[int(rng.integers(len(found)))]
    return data[: at.start()] + [b"nan", b"inf", b"1e999", b"x"][int(rng.integers(4))] + data[at.end() :]


def _cut_out(data, rng):
    start = int(rng.integers(0, len(data)))
    return data[:start] + data[start + int(rng.integers(1, 200)) :]


def _repeat(data, rng):
    start = int(rng.integers(0, len(data)))
    return data[:start] + data[start : start + int(rng.integers(1, 200))] + data[start:]


def _garbage(data, rng):
    return bytes(rng.integers(0, 256, int(rng.integers(0, 500)), dtype=np.uint8))


WAYS = (_truncate, _flip, _flip_head, _number, _number_head, _word, _nan, _cut_out, _repeat, _garbage)


def damaged(data, seed):
    """The bytes of a file, damaged in the way that `seed` picks."""
    return WAYS[seed % len(WAYS)](data, np.random.default_rng(seed))
