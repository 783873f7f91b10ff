"""A fence: why a device runs no kernels for now, and when it will be tried again.

The device rests, is tried, and rests longer after each failed try, until the pauses are used up. A device
that is readmitted and fails again soon goes on where it stood in the list of pauses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from coro_rt.errors import DeviceLost

PROVEN_S = 300.0
"""A device that was sound for so long after it came back begins its pauses anew."""


class Fence:
    """Of one device, from its failure until it is readmitted. Changed under the engine's lock.

    `setbacks`: failures in a row, and failed tries, before this one.
    """

    __slots__ = ("_pauses_s", "_setbacks", "lost", "next_try", "since", "tries")

    def __init__(self, lost: DeviceLost, now: float, pauses_s: Sequence[float], *, setbacks: int) -> None:
        self.lost = lost
        self.since = now
        self.tries = 0  # that have failed
        self._pauses_s = pauses_s
        self._setbacks = setbacks
        self.next_try = self._after(now)

    def failed(self, now: float) -> None:
        """A try has failed."""
        self.tries += 1
        self._setbacks += 1
        self.next_try = self._after(now)

    @property
    def setbacks(self) -> int:
        """For the next fence, should the device fail again soon."""
        return self._setbacks + 1

    def error(self) -> DeviceLost:
        """A new one for each job: an exception keeps the frames that it came through."""
        lost = self.lost
        error = DeviceLost(lost.device, lost.reason, lost.detail)
        error.__cause__ = lost.__cause__
        return error

    def describe(self, now: float) -> str:
        """For people."""
        text = f"{self.lost.reason} since {now - self.since:.1f} s"
        if self.next_try == math.inf:
            return f"{text}, for good"
        return f"{text}, tried again in {max(0.0, self.next_try - now):.1f} s"

    def _after(self, now: float) -> float:
        left = self._pauses_s[self._setbacks :]
        return now + left[0] if left else math.inf
