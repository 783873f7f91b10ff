"""Fair shares by level: self-clocked fair queueing, one clock for each tenant on each device."""

from coro_rt.schedulers.entry import Entry, Turn
from coro_rt.schedulers.policy import Policy

WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0)  # by QoS, BACKGROUND first
_IN_TURN = Turn.POLICY


def catch_up(job: Entry) -> None:
    """For a job that becomes ready: its virtual time is the clock's at least, as sleeping earns nothing."""
    assert job.lane is not None
    if job.vtime < job.lane.clock:
        job.vtime = job.lane.clock


class Fair(Policy):
    """key = vtime + slice_s / weight[qos], where vtime = served_s / weight, at least the clock when it comes.

    The clock is the largest key that was granted in turn. Weights double from level to level: 1, 2, 4, 8, 16.
    (Golestani, "A self-clocked fair queueing scheme", 1994; Waldspurger's stride scheduling has the same
    keys.)

    Effect: jobs share the device in proportion to their weights, slice by slice; sleeping earns nothing. An
    urgent job gets a larger share, not the next quantum: nobody is preempted within a slice.

    Bound, for a tenant alone, with turns of at most turn_s (a slice and a quantum no longer than that) and N
    others ready at a time, nobody expedited or waited for:

        wait <= turn_s * (1 + N * (1 + 2 * largest / weight)), where the largest weight is 16
    """

    bounded = True

    def key(self, job: Entry, now: float) -> float:
        return job.vtime + self.slice_s / WEIGHTS[job.qos]

    def on_ready(self, job: Entry, now: float) -> None:
        catch_up(job)

    def on_ran(self, job: Entry, seconds: float, now: float) -> None:
        job.vtime += seconds / WEIGHTS[job.qos]
        # Who runs out of turn (overdue, background's share) may be far ahead; newcomers must not start there.
        assert job.lane is not None
        if job.turn is _IN_TURN and job.key > job.lane.clock:
            job.lane.clock = job.key

    def preempts(self, candidate: Entry, running: Entry, now: float) -> bool:
        return False

    def bound_s(self, job: Entry, others: int, turn_s: float) -> float:
        return turn_s * (1 + others * (1 + 2 * WEIGHTS[-1] / WEIGHTS[job.qos]))
