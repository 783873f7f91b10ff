"""Live jobs: how far the jobs of a workload have come in a simulation, and what they do next."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.outcome import JobOutcome
from coro_rt.schedulers.soc.language_model import Load
from coro_rt.schedulers.workload import Rows, Run, Wait, WorkloadJob

Happen = Callable[[float], None]
"""What happens at a time."""

Follower = tuple[tuple[float, float], int, Happen]
"""A milestone, the order in which it was asked for, and what happens then."""


class Launch:
    """A launch under way, shared by all who are in it; on a chip, what it asks of it."""

    __slots__ = ("left_s", "load")

    def __init__(self, seconds: float, load: Load | None = None) -> None:
        self.left_s = seconds
        self.load = load


class Live:
    """A job of the workload on its way through the simulation."""

    __slots__ = (
        "cancelled",
        "carried",
        "device",
        "ended_s",
        "entry",
        "followers",
        "job",
        "joules",
        "later_s",
        "launch",
        "most",
        "number",
        "passed",
        "rows",
        "rows_left",
        "served_s",
        "started_s",
        "step",
        "target_s",
        "tokens",
        "wait",
        "waits",
    )

    def __init__(self, number: int, job: WorkloadJob) -> None:
        self.number = number
        self.job = job
        self.entry = Entry(
            number,
            name=job.name,
            qos=job.qos,
            deadline=job.deadline_s,
            tenant=job.tenant,
            device=job.device,
            predicted_seconds_left=job.predicted_s,
        )
        self.started_s = self.ended_s = inf
        self.later_s = 0.0  # than `arrives_s` says: its task was later
        self.served_s = 0.0  # up to the piece under way
        self.target_s = 0.0  # served so much, its present step is over
        self.step = 0  # the next one
        self.waits = 0  # of its steps, those that were taken
        self.passed = -1  # of those, the ones behind it: it has had the device since
        self.wait = 0  # counts waits that began or were broken off: an end of an earlier one is out of date
        self.followers: list[Follower] = []  # what happens when it has come to a milestone; a heap
        self.cancelled = False
        self.rows: Rows | None = None  # its present step, if that is one
        self.rows_left = 0  # of it
        self.most = 0  # of them in a launch
        self.carried = 0  # to its next one
        self.launch: Launch | None = None  # that it is in
        self.device = job.device
        self.tokens = 0  # behind it: rows that are done
        self.joules = 0.0

    def take_up(self) -> None:
        """Goes on to its next piece of device time, if there is one before it waits or ends."""
        self.passed = self.waits
        steps = self.job.steps
        while self.step < len(steps):
            step = steps[self.step]
            if isinstance(step, Wait):
                return
            self.step += 1
            if isinstance(step, Run):
                self.target_s += step.seconds
                return
            if isinstance(step, Rows):
                self.rows, self.rows_left = step, step.rows + self.carried
                self.most = max(step.most, self.most) if self.carried else step.most
                self.carried = 0
                if not self.cancelled:
                    return
                self.rows_over()  # it launches nothing any more
                continue
            self.entry.predicted_seconds_left = step.seconds_left

    def to_come(self) -> list[Rows]:
        """Its rows that are to come, the present step's first, up to its next wait."""
        coming = [] if self.rows is None else [self.rows]
        for step in self.job.steps[self.step :]:
            if isinstance(step, Wait):
                break
            if isinstance(step, Rows):
                coming.append(step)
        return coming

    def carry(self) -> None:
        """Not all of its rows were granted. Where more such rows follow, it brings the rest with these."""
        assert self.rows is not None
        at, steps = self.step, self.job.steps
        while at < len(steps) and not isinstance(steps[at], Rows | Wait):  # its own code
            at += 1
        following = steps[at] if at < len(steps) else None
        if isinstance(following, Rows) and following.batch == self.rows.batch and following.most > 1:
            self.carried = self.rows_left
            self.rows_over()

    def rows_over(self) -> None:
        """Its rows are done, or given up."""
        assert self.rows is not None
        self.target_s += self.rows.seconds
        self.served_s = self.target_s
        self.rows, self.rows_left, self.launch = None, 0, None

    def next_wait(self) -> Wait | None:
        """The wait that comes next, taken; None if it goes on, or ends, without one."""
        step = self.job.steps[self.step] if self.step < len(self.job.steps) else None
        if not isinstance(step, Wait):
            return None
        self.step += 1
        self.waits += 1
        return step

    def outcome(self) -> JobOutcome:
        entry, job = self.entry, self.job
        return JobOutcome(
            number=self.number,
            name=job.name,
            qos=job.qos,
            tenant=job.tenant,
            device=self.device,
            arrived_s=entry.submitted_at,
            started_s=self.started_s,
            ended_s=self.ended_s,
            deadline_s=job.deadline_s + self.later_s,
            waited_s=entry.waited_s,
            served_s=entry.served_s,
            tokens=self.tokens,
            joules=self.joules,
        )
