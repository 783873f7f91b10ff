"""What became of a workload under a policy: every job's waiting and service, and the sums to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from coro_rt.schedulers.qos import QoS


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """One job: seconds since the workload's beginning; `waited_s` is all its time ready, but not running."""

    number: int
    name: str
    qos: QoS  # as it came
    tenant: str
    device: str
    arrived_s: float
    started_s: float  # inf: it never ran
    ended_s: float  # inf: it had not ended when the record did
    deadline_s: float  # as it came
    waited_s: float
    served_s: float
    tokens: int = 0  # that it read and wrote, on a chip
    joules: float = 0.0  # that its work took there, modelled

    @property
    def missed(self) -> bool:
        """Whether it had a deadline, and ended later."""
        return self.deadline_s < inf and self.ended_s > self.deadline_s


@dataclass(frozen=True, slots=True)
class Span:
    """Job number `job` had a device, from `begin_s` to `end_s`."""

    device: str
    job: int
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long jobs waited, in seconds."""

    jobs: int
    median: float
    mean: float
    p99: float
    max: float

    @classmethod
    def of(cls, waits: Iterable[float]) -> Waiting:
        """Of at least one wait. Percentiles are of the nearest rank: waits that there were."""
        found = sorted(waits)
        assert found, "nobody waited"
        return cls(
            len(found),
            found[ceil(0.5 * len(found)) - 1],
            sum(found) / len(found),
            found[ceil(0.99 * len(found)) - 1],
            found[-1],
        )


@dataclass(frozen=True, slots=True)
class ChipOutcome:
    """What a chip did meanwhile. All of it is modelled.

    `joules` are the whole chip's, of which it would have taken `idle_joules` anyway. By processor: the
    seconds in which it worked, and what its work took, with the bytes that it moved.
    """

    chip: str
    joules: float
    idle_joules: float
    busy_s: Mapping[str, float]
    drawn_joules: Mapping[str, float]
    awake_s: float  # any of them worked
    throttled_s: float  # of that, slower than it could have, for the heat
    hottest_c: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run. `spans` is empty unless they were asked for; `ejected` says why a policy was, or None."""

    policy: str
    jobs: Sequence[JobOutcome]
    switches: int
    preemptions: int
    decisions: int
    events: int
    ended_s: float
    spans: Sequence[Span] = ()
    ejected: str | None = None
    chip: ChipOutcome | None = None

    @property
    def tokens(self) -> int:
        """That were read and written, on a chip."""
        return sum(job.tokens for job in self.jobs)

    @property
    def waiting_s(self) -> dict[QoS, Waiting]:
        """By level, the most urgent first: levels without jobs are left out."""
        waits: dict[QoS, list[float]] = {qos: [] for qos in reversed(QoS)}
        for job in self.jobs:
            waits[job.qos].append(job.waited_s)
        return {qos: Waiting.of(found) for qos, found in waits.items() if found}

    @property
    def deadlines(self) -> int:
        """Jobs that had one."""
        return sum(job.deadline_s < inf for job in self.jobs)

    @property
    def missed_deadlines(self) -> int:
        """Jobs that ended after theirs."""
        return sum(job.missed for job in self.jobs)

    @property
    def service_s(self) -> dict[str, float]:
        """Device seconds by tenant, in the order of their names."""
        service: dict[str, float] = {}
        for job in sorted(self.jobs, key=lambda job: job.tenant):
            service[job.tenant] = service.get(job.tenant, 0.0) + job.served_s
        return service
