"""The width at which a model has a wanted number of parameters."""

from collections.abc import Callable

from flare_connect.errors import ConfigError


def nearest_count(name: str, count: Callable[[int], int], parameters: int, tolerance: float, *, step: int) -> int:
    """The multiple of `step` at which `count` is nearest to `parameters`.

    Args:
        name: of the model, for messages.
        count: parameters at a width; grows with it.
        parameters: wanted.
        tolerance: largest relative deviation that is accepted.
        step: widths are multiples of it.

    Raises:
        ConfigError: if no width comes within the tolerance.
    """
    low, high = 1, 2
    while count(high * step) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * step) < parameters else (low, middle)
    counts = {multiple: count(multiple * step) for multiple in (low, high)}
    best = min(counts, key=lambda multiple: abs(counts[multiple] - parameters))
    if abs(counts[best] - parameters) > tolerance * parameters:
        raise ConfigError(
            f"{name!r} has {counts[low]:,} parameters with {low * step} channels and {counts[high]:,} with "
            f"{high * step}, neither within {tolerance:.0%} of {parameters:,}: change `num_blocks` or another setting"
        )
    return best * step
