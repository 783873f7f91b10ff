"""What every loaded model has, whatever it computes: its jobs, its pace, and the memory that steps take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coro_rt.errors import RuntimeClosed
from coro_rt.job import Job
from coro_rt.memory import MemoryBudget
from coro_rt.schedulers.pace import Pace
from coro_rt.traps import current_job

__all__ = ["Loaded", "closed_error"]


class Loaded:
    """Never changes but for `pace`, `closed`, and `jobs`, those that work with it now."""

    def __init__(self, context: int, threads: int, budget: MemoryBudget, name: str) -> None:
        self.context, self.name = context, name
        self.pace = Pace()
        self.jobs: set[Job[Any]] = set()
        self.closed = False
        self._threads, self._budget = threads, budget

    def release(self) -> None:
        """Give back what a device holds. No job works with it any more."""

    @contextmanager
    def counted(self) -> Iterator[None]:
        """For a job: be among `jobs` while it works. Raises RuntimeClosed if the model has been closed."""
        if self.closed:
            raise closed_error(self.name)
        job = current_job()
        self.jobs.add(job)
        try:
            yield
        finally:
            self.jobs.discard(job)
            if not self.jobs:
                self.idle()

    def idle(self) -> None:
        """The last job has ended: what was kept for the next one is given back."""


def closed_error(name: str) -> RuntimeClosed:
    return RuntimeClosed(f"the model {name} has been closed: load it again with runtime.load_model()")
