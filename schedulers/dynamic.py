"""Dynamic priority, the default: everybody has a virtual deadline, and the earliest goes first."""

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.policy import Policy

TARGETS_S = (30.0, 10.0, 2.0, 0.5, 0.05)  # by QoS, BACKGROUND first
MARGIN_S = 0.01


class Dynamic(Policy):
    """key = min(ready_since + target[qos], deadline - predicted_seconds_left - margin).

    Targets: 30 s, 10 s, 2 s, 0.5 s, 0.05 s from BACKGROUND to USER_INTERACTIVE; margin: 0.01 s.

    Effect: an urgent job preempts at once; who waits keeps its key while newcomers get later ones, so that
    everybody's turn comes (ageing); a job whose deadline is near overtakes its level; equals take turns,
    slice by slice.

    Bound, for a tenant alone and N others ready at a time, without deadlines of their own, nobody expedited
    or waited for:

        wait <= target[qos] + 2 * (N + 1) * turn_s, where a turn is a slice and a quantum
    """

    bounded = True

    def key(self, job: Entry, now: float) -> float:
        target = job.ready_since + TARGETS_S[job.qos]
        latest_start = job.deadline - job.predicted_seconds_left - MARGIN_S
        return latest_start if latest_start < target else target  # a NaN prediction leaves the target

    def bound_s(self, job: Entry, others: int, turn_s: float) -> float:
        return TARGETS_S[job.qos] + 2 * (others + 1) * turn_s
