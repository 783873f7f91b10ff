"""Least laxity first, with hysteresis: who has the least time to spare."""

from math import floor, inf, isfinite

from coro_rt.schedulers.dynamic import TARGETS_S
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.policy import Policy

STEP_S = 0.02


class Laxity(Policy):
    """key = (step, submitted_at), where step = floor((deadline - predicted_seconds_left) / 20 ms).

    Deadline minus predicted seconds is the latest start: the laxity plus now, which is the same for all. A
    job without a deadline has submitted_at + target[qos] (the targets of `dynamic`). (Mok and Dertouzos,
    1978.)

    Effect: of two jobs due together the longer starts first, so that both are in time if that is possible at
    all. The pure rule switches at every look between jobs of the same laxity, since whoever runs gains some;
    here they count as equal within a step, and the one that came first goes on until it is a step ahead.
    Nobody is late for another's sake alone, but who is late stays first, so there is no bound but
    `max_wait_s`.
    """

    def key(self, job: Entry, now: float) -> tuple[float, float]:
        deadline = job.deadline
        if deadline == inf:
            deadline = job.submitted_at + TARGETS_S[job.qos]
        latest_start = deadline - job.predicted_seconds_left
        if not isfinite(latest_start):  # a prediction of NaN, say: nothing to go by
            latest_start = job.submitted_at
        return floor(latest_start / STEP_S), job.submitted_at
