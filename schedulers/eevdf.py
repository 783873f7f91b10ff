"""Earliest eligible virtual deadline first: equal shares, and the level decides only how soon."""

from coro_rt.schedulers.entry import Entry, Turn
from coro_rt.schedulers.fair import catch_up
from coro_rt.schedulers.policy import Policy

REQUESTS_S = (0.064, 0.032, 0.016, 0.008, 0.004)  # by QoS, BACKGROUND first
_IN_TURN = Turn.POLICY


class Eevdf(Policy):
    """key = vtime + request[qos], where vtime = served_s, at least the clock when it comes.

    Requests: 64, 32, 16, 8, 4 ms from BACKGROUND to USER_INTERACTIVE. vtime is when a job becomes eligible,
    the key its virtual deadline, the clock the latest eligible time that was granted in turn. (Stoica and
    Abdel-Wahab, "Earliest eligible virtual deadline first", 1995; Linux orders threads so since 6.6.) Keys
    stay put while a job waits, so nobody asks whether it is eligible again: a job may be ahead of its share
    by the longest request instead of by one slice.

    Effect: all jobs get the same share whatever their level; an urgent one gets it in small pieces and soon,
    and preempts; a background one in large pieces, later.

    Bound, for a tenant alone, with turns of at most turn_s (a slice and a quantum) and N others ready at a
    time, nobody expedited or waited for:

        wait <= turn_s + N * (2 * turn_s + request + longest - 2 * shortest)
    """

    bounded = True

    def key(self, job: Entry, now: float) -> float:
        return job.vtime + REQUESTS_S[job.qos]

    def on_ready(self, job: Entry, now: float) -> None:
        catch_up(job)

    def on_ran(self, job: Entry, seconds: float, now: float) -> None:
        if job.turn is not _IN_TURN:
            return  # overdue, or background's share: not at the expense of its own turn
        job.vtime += seconds
        assert job.lane is not None
        eligible = job.key - REQUESTS_S[job.qos]
        if eligible > job.lane.clock:
            job.lane.clock = eligible

    def bound_s(self, job: Entry, others: int, turn_s: float) -> float:
        spread = REQUESTS_S[job.qos] + REQUESTS_S[0] - 2 * REQUESTS_S[-1]
        return turn_s + others * (2 * turn_s + spread)
