"""First in, first out: the baseline without urgency."""

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.policy import Policy


class Fifo(Policy):
    """key = submitted_at: who came first runs to its end.

    Effect: the fewest switches and no regard for urgency; a long job holds up everybody behind it until they
    are overdue (`max_wait_s`). Background needs no guarantee: it is served when it came.
    """

    guarantees_background = False

    def key(self, job: Entry, now: float) -> float:
        return job.submitted_at
