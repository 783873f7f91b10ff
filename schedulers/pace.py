"""How long a model's steps take, learned while it runs: what the scheduler decides with.

Steps of similar size (1 row, 2, 3-4, 5-8, …) share a mean; between two means the time grows in a straight
line, and beyond them as in `_SHAPE`: a step of one row reads all weights, so it costs as much as some further
rows that only compute. The means are those of an undisturbed machine: slow steps, which are most often
somebody else's doing, move them little. And the mean of a size that is not in use, perhaps because it was too
slow when it was tried, drifts to what the next smaller one suggests, until it is tried again.
"""

from __future__ import annotations

from bisect import bisect_left

from coro_rt.schedulers.batch import Batch

CHUNK = 128
"""Tokens of a prompt that one sequence brings to a step at most: enough to reuse each weight many times."""

_FASTER, _SLOWER = 0.2, 0.03  # weight of a step that took less, or more, than the mean
_DRIFT = 0.01  # at each step of the next smaller size
_SHAPE = 8.0  # until more is known, a step costs as much as so many rows, and its own
_UNKNOWN_S = 0.001  # a row, before any step has been seen


class Pace(Batch):
    """Device seconds of a model's steps; and what marks launches as steps of this model."""

    rows = 160  # a whole chunk of a prompt, and some company

    def __init__(self) -> None:
        self._sizes: list[int] = []  # that were seen, the smallest first
        self._means: list[tuple[float, float]] = []  # of each: rows, seconds

    def seconds(self, rows: int) -> float:
        """The device seconds of a step of so many rows."""
        means = self._means
        if not means:
            return (_SHAPE + rows) * _UNKNOWN_S
        left, left_s = means[0]
        if rows > left:
            for right, right_s in means[1:]:
                right_s = max(right_s, left_s)  # more rows take no less, whatever was measured
                if rows <= right:
                    return left_s + (right_s - left_s) * (rows - left) / (right - left)
                left, left_s = right, right_s
        return _scaled(left, left_s, rows)

    def left_s(self, to_read: int, to_write: int) -> float:
        """The device seconds that reading and then writing so many tokens will take alone; 0 if unknown."""
        if not self._means:
            return 0.0
        seconds = to_write * self.seconds(1)
        if to_read:
            chunks, rest = divmod(to_read, CHUNK)
            seconds += chunks * self.seconds(CHUNK) + (self.seconds(rest) if rest else 0.0)
        return seconds

    def learn(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        size = size_of(rows)
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes) or self._sizes[at] != size:
            self._sizes.insert(at, size)
            self._means.insert(at, (float(rows), seconds))
        mean, mean_s = self._means[at]
        weight = _FASTER if seconds < mean_s else _SLOWER
        mean += (rows - mean) * weight
        mean_s += (seconds - mean_s) * weight
        self._means[at] = mean, mean_s
        if at + 1 < len(self._means):
            larger, larger_s = self._means[at + 1]
            larger_s += (_scaled(mean, mean_s, larger) - larger_s) * _DRIFT
            self._means[at + 1] = larger, larger_s


def size_of(rows: int) -> int:
    """Which of the sizes a step of so many rows has: 1, 2, 3-4, 5-8, …"""
    return (rows - 1).bit_length()


def _scaled(rows: float, seconds: float, to: float) -> float:
    return seconds * (_SHAPE + to) / (_SHAPE + rows)
