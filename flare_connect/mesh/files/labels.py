"""Rows of the labels that a file gives its nodes and elements: sparse, in any order, not to be trusted."""

import numpy as np

from flare_connect.mesh.files.failed import FailedError

# Sets may name the same rows over and over, so that a small file means a huge mesh: rows a file may name, at least
_MOST = 10**7


class Labels:
    """Finds the rows of labels; of a label that is given twice, the last.

    Args:
        labels: label of each row `[n]`.
    """

    def __init__(self, labels: np.ndarray):
        labels = labels.astype(np.int64)
        self.left = _MOST + 50 * len(labels)
        ascending = bool((labels[1:] > labels[:-1]).all())
        self.order = np.arange(len(labels)) if ascending else np.argsort(labels, kind="stable")
        self.sorted = labels if ascending else labels[self.order]
        self.table: np.ndarray | None = None
        if len(labels) and int(self.sorted[-1]) - int(self.sorted[0]) < 4 * len(labels) + 1000:
            self.table = np.full(int(self.sorted[-1]) - int(self.sorted[0]) + 1, -1, dtype=np.int64)
            self.table[self.sorted - self.sorted[0]] = self.order  # of equal ones the last is written last

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Row of each label, of any shape; -1 where there is no such label."""
        if not len(self.sorted):
            return np.full(wanted.shape, -1, dtype=np.int64)
        if self.table is not None:
            inside = (wanted >= self.sorted[0]) & (wanted <= self.sorted[-1])
            return np.where(inside, self.table[np.where(inside, wanted - self.sorted[0], 0)], -1)
        place = np.searchsorted(self.sorted, wanted, side="right") - 1
        return np.where((place >= 0) & (self.sorted[place] == wanted), self.order[place], -1)

    def known(self, wanted: np.ndarray) -> np.ndarray:
        """Rows `[k]` of those labels that there are."""
        self.spend(len(wanted))
        rows = self.rows(wanted)
        return rows[rows >= 0]

    def between(self, first: int, last: int, step: int = 1) -> np.ndarray:
        """Rows `[k]` of the labels `first`, `first + step`, … up to `last`, those that there are."""
        if step < 1:
            raise FailedError(f"a set is generated in steps of {step}; give 1 or more")
        top = np.iinfo(np.int64).max
        first, last, step = max(first, -top), min(last, top), min(step, top)
        start, end = np.searchsorted(self.sorted, [first, last + 1] if last < top else [first, last])
        self.spend(max(0, int(end - start)))
        inside = slice(int(start), int(end))
        return self.order[inside][(self.sorted[inside] - first) % step == 0]

    def nodes(self, elements: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Rows `[n, k]` of the nodes `[n, k]` of elements with labels `[n]`.

        Raises:
            FailedError: an element names a node that there is not.
        """
        rows = self.rows(nodes)
        bad = np.argwhere(rows < 0)
        if len(bad):
            element, at = bad[0]
            raise FailedError(
                f"element {elements[element]} names node {nodes[element, at]}, which is not defined"
                f" ({len(np.unique(bad[:, 0]))} such elements)"
            )
        return rows

    def spend(self, count: int) -> None:
        """Counts rows that sets name, or work of that size.

        Raises:
            FailedError: there were more than any honest file needs.
        """
        self.left -= count
        if self.left < 0:
            raise FailedError(f"its sets name more than {_MOST + 50 * len(self.sorted)} rows")
