"""How long a model's steps take, learned while it runs: what the scheduler decides with.

Steps of similar size (1 row, 2, 3-4, 5-8, …) share a running mean; between two means the time grows in a
straight line, and beyond them as in `_SHAPE`: a step of one row reads all weights, and so costs as much as
some further rows that only compute.
"""

from __future__ import annotations

from coro_rt.schedulers.batch import Batch

_FIRST = 10  # so many steps of a size count alike; then the newest counts for a tenth
_SHAPE = 8.0  # until more is known: a step costs as much as so many rows, and its rows
_UNKNOWN_S = 0.001  # a row, before any step has been seen


class Pace(Batch):
    """Device seconds of a model's steps; and what marks launches as steps of this model."""

    rows = 160  # a whole chunk of a prompt, and some company

    def __init__(self) -> None:
        self._means: dict[int, tuple[int, float, float]] = {}  # by size: steps seen, mean rows, mean seconds
        self._curve: list[tuple[float, float]] = []  # (rows, seconds), both growing

    def seconds(self, rows: int) -> float:
        """The device seconds of a step of so many rows."""
        curve = self._curve
        if not curve:
            return (_SHAPE + rows) * _UNKNOWN_S
        left, left_s = curve[0]
        if rows <= left:
            return left_s * (_SHAPE + rows) / (_SHAPE + left)
        for right, right_s in curve:
            if rows <= right:
                return left_s + (right_s - left_s) * (rows - left) / (right - left)
            left, left_s = right, right_s
        return left_s * (_SHAPE + rows) / (_SHAPE + left)

    def left_s(self, to_read: int, to_write: int) -> float:
        """The device seconds that reading and then writing so many tokens will take alone; 0 if unknown."""
        if not self._curve:
            return 0.0
        chunks, rest = divmod(to_read, CHUNK)
        return (
            chunks * self.seconds(CHUNK) + (self.seconds(rest) if rest else 0.0) + to_write * self.seconds(1)
        )

    def learn(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        size = (rows - 1).bit_length()
        seen, mean, mean_s = self._means.get(size, (0, 0.0, 0.0))
        seen = min(seen + 1, _FIRST)
        mean += (rows - mean) / seen
        mean_s += (seconds - mean_s) / seen
        self._means[size] = seen, mean, mean_s
        self._curve = []
        least = 0.0
        for size in sorted(self._means):
            _, mean, mean_s = self._means[size]
            least = max(mean_s, least * 1.0001, 1e-9)  # more rows take longer, whatever noise says
            self._curve.append((mean, least))


CHUNK = 128
"""Tokens of a prompt that one sequence brings to a step at most: enough to reuse each weight many times."""
