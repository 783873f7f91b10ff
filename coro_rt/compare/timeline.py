"""An instrument that keeps who had which device when, for a picture of the schedule (`trace.gantt`)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from coro_rt.instruments import Instrument
from coro_rt.schedulers.outcome import JobOutcome, Outcome, Span

if TYPE_CHECKING:
    from coro_rt.job import Job
    from coro_rt.runtime import Runtime


class Timeline(Instrument):
    """`outcome` is for after the runtime. A job that rides in another's launch is shown as running, too."""

    def __init__(self) -> None:
        self._start = self._end = 0.0
        self._numbers: dict[int, int] = {}  # by the entries' ids
        self._jobs: list[dict[str, Any]] = []
        self._since: dict[int, float] = {}  # of those that run
        self._spans: list[Span] = []
        self._switches = 0

    def runtime_opened(self, runtime: Runtime) -> None:
        self._start = self._end = runtime.clock()

    def job_submitted(self, job: Job[Any], now: float) -> None:
        entry = job.entry
        self._numbers[entry.id] = len(self._jobs)
        self._jobs.append(
            {
                "name": entry.name, "qos": entry.qos, "tenant": entry.tenant, "device": entry.device,
                "arrived_s": now - self._start, "started_s": inf, "ended_s": inf, "deadline_s": inf,
                "waited_s": 0.0, "served_s": 0.0,
            }
        )  # fmt: skip

    def job_runs(self, job: Job[Any], now: float) -> None:
        self._switches += 1
        self._begin(job, now)

    def job_rides(self, job: Job[Any], leader: Job[Any], now: float) -> None:
        self._begin(job, now)

    def job_gives_way(self, job: Job[Any], now: float) -> None:
        self._over(job, now)

    def job_waits(self, job: Job[Any], now: float) -> None:
        self._over(job, now)

    def job_wakes(self, job: Job[Any], now: float) -> None:
        self._over(job, now)  # a ride

    def job_ended(self, job: Job[Any], now: float) -> None:
        self._over(job, now)
        found = self._jobs[self._numbers[job.entry.id]]
        found["ended_s"] = now - self._start
        found["waited_s"] = job.entry.waited_s

    def _begin(self, job: Job[Any], now: float) -> None:
        number = self._numbers[job.entry.id]
        self._since[number] = now
        self._jobs[number]["started_s"] = min(self._jobs[number]["started_s"], now - self._start)

    def _over(self, job: Job[Any], now: float) -> None:
        number = self._numbers[job.entry.id]
        since = self._since.pop(number, None)
        self._end = now
        if since is not None:
            self._jobs[number]["served_s"] += now - since
            self._spans.append(Span(job.entry.device, number, since - self._start, now - self._start))

    def outcome(self, policy: str) -> Outcome:
        """What there was to see."""
        return Outcome(
            policy=policy,
            jobs=[JobOutcome(number=number, **job) for number, job in enumerate(self._jobs)],
            switches=self._switches,
            preemptions=0,
            decisions=0,
            events=len(self._spans),
            ended_s=self._end - self._start,
            spans=self._spans,
        )
