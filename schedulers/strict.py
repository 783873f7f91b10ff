"""Strict priority: the level decides, always."""

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.policy import Policy


class Strict(Policy):
    """key = (-qos, submitted_at): the highest level first, and in a level who came first.

    Effect: an urgent job preempts every lower level at once; lower levels starve under load, down to the
    slice that every `max_wait_s` gives. Background has no guaranteed share, since that would not be strict.
    """

    guarantees_background = False

    def key(self, job: Entry, now: float) -> tuple[float, float]:
        return -job.qos, job.submitted_at
