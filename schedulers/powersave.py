"""Saving power: background work waits, and then runs together."""

from math import inf

from coro_rt.schedulers.dynamic import MARGIN_S, Dynamic
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.qos import QoS


class PowerSave(Dynamic):
    """key = that of `dynamic`; for background submitted_at + window, so that it runs one job after the other.

    A background job that has not begun is deferred to the next multiple of `window_s` (30 s), if nobody waits
    for it and its deadline allows (deadline - predicted_seconds_left - margin): the device sleeps in between,
    and what was put off runs in one go. `saving` switches this on and off while it runs, for
    what becomes ready from then on: the place for whoever watches the battery or the temperature.

    Effect: everything else is as soon as under `dynamic`; a background job's first turn may be a window
    late, or `max_wait_s` if that is less. Background has no guaranteed share: it would keep the device awake.

    Bound: none for background but the window and `max_wait_s`.
    """

    name = "powersave"
    bounded = False
    guarantees_background = False

    def __init__(self, *, window_s: float = 30.0, saving: bool = True) -> None:
        if not 0 < window_s < inf:
            raise SchedulerError(f"window_s is a positive number of seconds, not {window_s!r}")
        self.window_s = window_s
        self.saving = saving

    def key(self, job: Entry, now: float) -> float:
        if job.qos is not QoS.BACKGROUND or not self.saving:
            return super().key(job, now)
        return min(job.submitted_at + self.window_s, job.deadline - job.predicted_seconds_left - MARGIN_S)

    def defer_until(self, job: Entry, now: float) -> float:
        if not self.saving or job.started or job.effective_qos is not QoS.BACKGROUND:
            return now
        window_ends = (now // self.window_s + 1) * self.window_s
        return min(window_ends, job.deadline - job.predicted_seconds_left - MARGIN_S)
