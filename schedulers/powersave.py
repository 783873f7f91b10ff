"""Saving power: background work waits, and then runs together; the less power there is, the longer."""

from math import inf

from coro_rt.schedulers.dynamic import MARGIN_S, TARGETS_S
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS

STRETCH = 1.05  # times as long as at the highest frequency

_PATIENCE_S = TARGETS_S[QoS.UTILITY]


class PowerSave(Policy):
    """key = (that of `dynamic`, 0); for background (window_end + 10 s, submitted_at).

    A window begins at each multiple of saving * window_s (30 s), where

        saving = max(1 - battery / 2 unless charging, 1 - thermal)

    is 0 on external power while cool, a half on a full battery, 1 on an empty or an unknown one, and 1 as
    long as nobody has said what the machine runs on. With 0 all is as under `dynamic`.

    A background job that has not begun is deferred to the end of the window in which it became ready, if
    nobody waits for it and its deadline allows (deadline - predicted_seconds_left - margin): the device
    sleeps in between, and what was put off runs in one go, one job after the other. The window_end of its key
    is that of the next window, in which it may begin; if it has begun, that of the one in which it became
    ready. With another state all this is decided anew.

    Where the frequency can be chosen, background and UTILITY run at that which takes the fewest joules, and
    the others at the lowest that makes them no slower than STRETCH.

    Effect: everything else is as soon as under `dynamic`; a background job's first turn may be a window
    late, or `max_wait_s` if that is less. While it saves, background has no guaranteed share: that would keep
    the device awake.

    Bound, as that of `dynamic`, and whatever the state does meanwhile:

        wait <= target[qos] + 2 * (N + 1) * turn_s, with max(30 s, 2 * window_s + 10 s) for background
    """

    name = "powersave"
    bounded = True
    guarantees_background = False

    def __init__(self, *, window_s: float = 30.0) -> None:
        if not 0 < window_s < inf:
            raise SchedulerError(f"window_s is a positive number of seconds, not {window_s!r}")
        self.window_s = window_s
        self.saving = 1.0

    def on_power(self, state: PowerState, now: float) -> None:
        drained = 0.0 if state.charging else 1.0 - (state.battery or 0.0) / 2
        self.saving = max(drained, 1.0 - state.thermal)
        self.guarantees_background = not self.saving

    def key(self, job: Entry, now: float) -> tuple[float, float]:
        if job.qos is not QoS.BACKGROUND or not self.saving:
            return min(job.ready_since + TARGETS_S[job.qos], _latest_start(job)), 0.0
        # Later than any newcomer's, however long it has run; and the same all through a window, so that who
        # has begun goes on.
        end = self._window_end(job) + (0.0 if job.started else self.saving * self.window_s)
        return min(end + _PATIENCE_S, _latest_start(job)), job.submitted_at

    def defer_until(self, job: Entry, now: float) -> float:
        if not self.saving or job.started or job.effective_qos is not QoS.BACKGROUND:
            return now
        return min(self._window_end(job), _latest_start(job))

    def stretch(self, job: Entry, now: float) -> float:
        if not self.saving:
            return 0.0
        return inf if job.effective_qos <= QoS.UTILITY else STRETCH

    def bound_s(self, job: Entry, others: int, turn_s: float) -> float:
        target = TARGETS_S[job.qos]
        if job.qos is QoS.BACKGROUND:
            target = max(target, 2 * self.window_s + _PATIENCE_S)
        return target + 2 * (others + 1) * turn_s

    def _window_end(self, job: Entry) -> float:
        """Of when it became ready, not of now, so that changes of state do not put it off for ever."""
        window_s = self.saving * self.window_s
        return (job.ready_since // window_s + 1) * window_s


def _latest_start(job: Entry) -> float:
    """Where a prediction is not a number, nor is this: the first of `min`'s arguments is what then counts."""
    return job.deadline - job.predicted_seconds_left - MARGIN_S
