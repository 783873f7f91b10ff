"""How many steps follow each other in a burst, because leaving compiled code costs something.

Python between two steps takes a tenth of a millisecond and more, so a few tokens are made at a time: fewer
than a screen could show one by one. And when the host's thread is busy with Python of its own, the worker has
to wait for the interpreter's lock, up to `sys.getswitchinterval()`: then a burst takes PART times as long as
that wait. Nobody can look at the tokens meanwhile.
"""

import time

USUAL_S = 0.01
LONGEST_S = 0.15
PART = 30
_WEIGHT = 0.4


class Turnaround:
    """Of one model's steps. Touched by the worker that runs them."""

    __slots__ = ("waited_s",)

    def __init__(self) -> None:
        self.waited_s = 0.0  # for the lock, after a step: running mean

    def returned(self, done_ns: int) -> None:
        """The worker is back in Python; the step was done at `done_ns` of the monotonic clock."""
        self.waited_s += ((time.monotonic_ns() - done_ns) * 1e-9 - self.waited_s) * _WEIGHT

    def steps(self, step_s: float, slice_s: float) -> int:
        """How many steps that take `step_s` each should follow each other in a slice; one at least."""
        return max(1, int(min(max(USUAL_S, PART * self.waited_s), LONGEST_S, slice_s) / step_s))
