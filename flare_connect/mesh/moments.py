"""Statistics of fields that are too large to hold at once."""

import numpy as np


class Moments:
    """Mean, std and rms of fields that arrive piece by piece, in float64 (Chan's update: no cancellation)."""

    def __init__(self) -> None:
        self._state: dict[str, tuple[float, np.ndarray, np.ndarray]] = {}

    def add(self, name: str, values: np.ndarray, *, sample: bool = False) -> None:
        """Takes rows `[n, c]` of a field, or the numbers of one sample as a single row."""
        if not np.size(values):
            return
        rows = np.asarray(values, dtype=np.float64).reshape(1 if sample else len(values), -1)
        count, mean = float(len(rows)), rows.mean(0)
        squares = ((rows - mean) ** 2).sum(0)
        if name in self._state:
            n, m, s = self._state[name]
            total, delta = n + count, mean - m
            squares = s + squares + delta**2 * (n * count / total)
            mean = m + delta * (count / total)
            count = total
        self._state[name] = (count, mean, squares)

    def result(self) -> dict[str, dict[str, list[float]]]:
        """Returns field name → mean, std (of the whole, not of a sample) and rms of each column."""
        out = {}
        for name, (count, mean, squares) in self._state.items():
            variance = squares / count
            out[name] = {
                "mean": mean.tolist(),
                "std": np.sqrt(variance).tolist(),
                "rms": np.sqrt(variance + mean**2).tolist(),
            }
        return out
