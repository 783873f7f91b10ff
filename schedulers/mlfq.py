"""Multi-level feedback queues with skip-join: short answers first, and a long prompt starts lower."""

from math import ceil, log2

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.policy import Policy

QUANTUM_S = 0.016  # of the highest level
LEVELS = 12


class Mlfq(Policy):
    """key = (level, submitted_at), where level = log2(1 + vtime / quantum), rounded down.

    Level n is left, for the next one, after quantum * 2**n seconds of service in it; the quantum is 16 ms.
    vtime is the service that leads to where a job stands: it begins with what the skipped levels would have
    given, so that a job joins at the first level whose quantum holds its prediction, which for a generation
    grows with the prompt. (FastServe: Wu and others, "Fast distributed inference serving for large language
    models", 2023.)

    Effect: short jobs overtake long ones without anybody's knowing their length, so the mean answer is early;
    a long job is never done with its level before its first result; the jobs' own QoS plays no part but for
    background's share. Who sinks may starve until overdue (`max_wait_s`).
    """

    def key(self, job: Entry, now: float) -> tuple[float, float]:
        return min(LEVELS, int(log2(1.0 + job.vtime / QUANTUM_S))), job.submitted_at

    def on_ready(self, job: Entry, now: float) -> None:
        if not job.started and job.vtime == 0.0 and job.predicted_seconds_left > QUANTUM_S:
            quanta = min(job.predicted_seconds_left / QUANTUM_S, 2.0**LEVELS)
            job.vtime = QUANTUM_S * (2 ** ceil(log2(quanta)) - 1)

    def on_ran(self, job: Entry, seconds: float, now: float) -> None:
        job.vtime += seconds
