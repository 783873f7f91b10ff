"""Launches that several jobs of a trace shared: who was in them, what they took, and what batches cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coro_rt.schedulers.pace import Pace
from coro_rt.schedulers.workload import BatchTiming, SeenLaunch
from coro_rt.trace.calls import make_batch

if TYPE_CHECKING:
    from coro_rt.trace.recorded_job import RecordedJob


class RecordedLaunch:
    """A launch: its members, who may become fewer, with their rows, and the device time that it took."""

    def __init__(self, leader: RecordedJob, members: dict[RecordedJob, int], began_s: float) -> None:
        self.began_s = began_s
        self.leader = leader
        self.members = members
        self.rows = sum(members.values())
        self.seconds = 0.0
        self.left_at: float | None = (
            None  # its leader is gone: one of the others leads, and is ready, since then
        )

    def book(self, seconds: float) -> None:
        """Device time is shared out by rows."""
        self.seconds += seconds
        total = sum(self.members.values())
        for job, rows in self.members.items():
            job.served_s += seconds * rows / total

    def lose(self, job: RecordedJob, now: float) -> None:
        """A member is in it no longer."""
        self.members.pop(job, None)
        job.launch = None
        if job is self.leader:
            self.left_at = now


class RecordedBatch:
    """A batch: what its launches took, and what was learned from them as it went."""

    def __init__(self, kind: Mapping[str, Any]) -> None:
        self._batch = make_batch(kind)
        self._seen: list[SeenLaunch] = []
        self._learned: list[SeenLaunch] = []
        self._step_s = 0.0  # of the launch that is being booked

    def learn(self, rows: int, seconds: float, at_s: float) -> None:
        """What the scheduler was told about the launch that has just ended."""
        self._batch.learn(rows, seconds)
        self._step_s = seconds
        if seconds > 0 and isinstance(self._batch, Pace):
            self._learned.append(SeenLaunch(at_s, rows, seconds))

    def ended(self, launch: RecordedLaunch) -> int:
        """Such a launch is over. Returns how many steps it was: more than one if it was a burst of tokens."""
        steps, step_s = 1, self._step_s
        self._step_s = 0.0
        if step_s > 0 and all(job.offered is not None and job.offered[1] == 1 for job in launch.members):
            steps = max(1, round(launch.seconds / step_s))
        each_s = launch.seconds / steps
        if each_s > 0:
            self._seen += (
                SeenLaunch(launch.began_s + nth * each_s, launch.rows, each_s) for nth in range(steps)
            )
        return steps

    def timing(self) -> BatchTiming:
        """For a workload."""
        batch = self._batch
        costs = tuple(batch.seconds(rows) for rows in range(1, batch.rows + 1))
        return BatchTiming(costs, batch.members, tuple(self._seen), tuple(self._learned))
