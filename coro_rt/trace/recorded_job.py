"""What a trace says of one job, as far as it has been read: its steps, its waits, its part of launches."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from coro_rt.schedulers.outcome import JobOutcome
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.workload import Change, Milestone, Rows, Run, Step, WorkloadJob
from coro_rt.trace.calls import BATCH, Call
from coro_rt.trace.shared import RecordedLaunch

if TYPE_CHECKING:
    from coro_rt.trace.recorded_device import RecordedDevice


class RecordedJob:
    """One entry of the trace. Its times are the trace's."""

    def __init__(
        self,
        number: int,
        call: Call,
        now: float,
        device: RecordedDevice,
        *,
        after: Milestone | None,
        before: RecordedJob | None,
    ) -> None:
        entry = call.entry
        self.number = number
        self.name: str = entry["name"]
        self.qos: QoS = entry["qos"]
        self.tenant: str = entry["tenant"]
        self.device: str = entry["device"]
        self.at = device  # where it is, if it has moved
        self.deadline: float = entry["deadline"]
        self.predicted_s: float = entry["predicted_seconds_left"]
        self.after = after
        self.before = before  # what its task had asked for before, and had
        self.arrived = now
        self.started = self.ended = inf
        self.steps: list[Step] = []
        self.changes: list[Change] = []
        self.served_s = 0.0
        self.stepped_s = 0.0  # of that, in steps already
        self.booked = 0.0  # when it was granted the device, or last booked
        self.running = False
        self._ready_since: float | None = None
        self.ready_since = now
        self.waited_s = 0.0
        self.waits = 0  # of its steps
        self.waits_since: float | None = None  # None: it does not wait
        self.waits_on: RecordedJob | None = None
        self.batch: int | None = entry.get(BATCH)  # as it came, from 1
        self.offered: tuple[int, int] | None = None  # batch and rows of its launch
        self.launch: RecordedLaunch | None = None  # that it is in
        self.burst = 1  # of its last steps, those that were launched as one
        self.rest_of: int | None = None  # the step whose rows were not all granted: the rest comes

    @property
    def ready_since(self) -> float | None:
        """None: it is not ready."""
        return self._ready_since

    @ready_since.setter
    def ready_since(self, since: float | None) -> None:
        self.at.ready += (since is not None) - (self._ready_since is not None)
        self._ready_since = since

    def progress(self, now: float) -> float:
        """Its service at a time, that not yet booked included."""
        return self.served_s + max(0.0, now - self.booked) if self.running else self.served_s

    def run(self, served_s: float) -> None:
        """A piece of device time ends here. If a burst came before it, a part of it belongs to each token."""
        each_s = max(0.0, served_s - self.stepped_s) / self.burst
        written = self.steps[len(self.steps) - self.burst :] if self.burst > 1 else []
        del self.steps[len(self.steps) - len(written) :]
        for step in written[:-1]:
            self.steps += [step, Run(each_s)]
        self.steps += [*written[-1:], Run(each_s)]
        self.stepped_s, self.burst = max(self.stepped_s, served_s), 1

    def rows(self, granted: int, times: int = 1) -> None:
        """A launch of it is done, or given up; of a burst, `times` as many. If fewer rows were granted,
        the rest belongs to the same step, because elsewhere they may be."""
        assert self.offered is not None
        batch, wanted = self.offered
        seconds = self.served_s - self.stepped_s
        self.stepped_s, self.offered = self.served_s, None
        if self.rest_of is None:
            self.steps += [Rows(batch - 1, granted, wanted, seconds / times)] * times
            self.burst = times
            at = len(self.steps) - 1
        else:
            at = self.rest_of
            step = self.steps[at]
            assert isinstance(step, Rows)
            most = max(step.most, wanted)
            self.steps[at] = Rows(batch - 1, step.rows + granted, most, step.seconds + seconds)
        self.rest_of = at if granted < wanted else None

    def workload_job(self, start: float) -> WorkloadJob:
        """For a workload, whose times are from `start` on."""
        after, pause_s = self.after, None
        if self.before is not None and self.before.ended <= self.arrived:
            after, pause_s = Milestone(self.before.number), self.arrived - self.before.ended
        return WorkloadJob(
            name=self.name,
            arrives_s=max(0.0, self.arrived - start),
            steps=tuple(self.steps),
            qos=self.qos,
            tenant=self.tenant,
            device=self.device,
            deadline_s=self.deadline - start,
            predicted_s=self.predicted_s,
            after=after,
            pause_s=pause_s,
            changes=tuple(self.changes),
            batch=None if self.batch is None else self.batch - 1,
        )

    def outcome(self, start: float) -> JobOutcome:
        """What became of it."""
        return JobOutcome(
            number=self.number,
            name=self.name,
            qos=self.qos,
            tenant=self.tenant,
            device=self.device,
            arrived_s=self.arrived - start,
            started_s=self.started - start,
            ended_s=self.ended - start,
            deadline_s=self.deadline - start,
            waited_s=self.waited_s,
            served_s=self.served_s,
        )
