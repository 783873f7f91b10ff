"""What a job's `await` hands to its worker.

One idea: a trap registers the job with what it waits for and knows how to undo that, so that cancelling needs
no knowledge of any queue. Everything here runs in a worker's thread; `arrive` and `leave` under the engine's
lock.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from coro_rt.errors import WrongContext

if TYPE_CHECKING:
    from coro_rt.job import Job
    from coro_rt.schedulers.entry import Entry
    from coro_rt.worker import Worker


class _Local(threading.local):
    worker: Worker | None = None  # whose thread this is


local = _Local()


class Trap:
    """Something that a job awaits. Subclasses say when it is over."""

    __slots__ = ()

    on: Entry | None = None  # the entry that is waited for, which inherits urgency
    soft = False  # it may also be over without `on`: rather than close a circle, it lets go of that

    def what(self) -> str:
        """What is waited for, in a few words for people; "" leaves it open."""
        return ""

    def arrive(self, job: Job[Any]) -> bool:
        """Under the lock. True: nothing to wait for (the answer is in `job.inbox`). False: registered; to be
        woken."""
        raise NotImplementedError

    def leave(self, job: Job[Any]) -> bool:
        """Under the lock: undo `arrive`. False: it takes a moment, and the job will be woken as usual."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Under the lock, for a soft one: `on` is going to wait for this job."""

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield self)
        except (RuntimeError, TypeError) as exc:  # an event loop's answer to what it does not know
            if local.worker is None:
                raise outside_a_job(type(self).__name__.lower().strip("_")) from exc
            raise


def outside_a_job(what: str) -> WrongContext:
    """The error for what only works in a job."""
    return WrongContext(f"{what} works only inside a job: start one with `await runtime.run(fn, *args)`")
