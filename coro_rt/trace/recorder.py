"""The recorder: stands in a scheduler's place, hands every call on, and notes it with its answer.

A stand-in, not a subclass: what the scheduler calls on itself is no input. A runtime that does not record has
the scheduler itself, and pays nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from coro_rt._version import __version__
from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.ejection import Ejection
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.trace.calls import (
    BATCH,
    CALLS,
    ENTRY_FIELDS,
    FORMAT,
    LAUNCHING,
    OPTIONAL,
    VERSION,
    WORKER,
    aboard,
    describe,
    policy_path,
    written,
)
from coro_rt.trace.writer import TraceWriter
from coro_rt.trap import local

if TYPE_CHECKING:
    from coro_rt.engine import Engine


class Recorder:
    """Called as the scheduler is, under the engine's lock. Everything that it does not note, it hands on.

    `make(on_ejected=..., timer=...)` makes the scheduler; `settings` are what it was made with, for the
    header.
    """

    def __init__(
        self,
        make: Callable[..., Scheduler],
        settings: dict[str, Any],
        path: str | os.PathLike[str],
        *,
        engine: Engine,
        on_ejected: Callable[[Ejection], None],
        timer: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._writer = TraceWriter(path, as_line)
        self._note = self._writer.note
        self._on_ejected = on_ejected
        self._timer = timer
        self._readings = 0  # of the timer, two for each call of a policy's method, since the call began
        self._slow: int | None = None  # the number of the policy's call that took too long
        self._batches: dict[Batch, int] = {}  # the numbers of those that were named
        self._asked: WeakKeyDictionary[Any, Entry] = WeakKeyDictionary()  # of a task: what it asked for last
        self._scheduler = make(on_ejected=self._ejected, timer=self._read_timer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def __len__(self) -> int:
        return len(self._scheduler)

    def open(self, now: float) -> None:
        """Begin the trace. Raises OSError."""
        settings = dict(self._settings, max_wait_s=written(self._settings["max_wait_s"]))
        placement = self._scheduler.placement.as_data()
        if any(placement.values()):
            settings["placement"] = placement
        self._writer.open(
            {
                "format": FORMAT,
                "version": VERSION,
                "coro_rt": __version__,
                "policy": policy_path(self._scheduler.policy),
                **settings,
                "now": now,
            }
        )

    def close(self) -> None:
        """End the trace. No calls come any more."""
        self._writer.close()

    def _caller(self) -> int | str | None:
        """The entry whose own code makes this call, or WORKER for a worker that decides; None: the host."""
        worker = local.worker
        if worker is None or worker.engine is not self._engine:
            return None
        return WORKER if worker.deciding or worker.job is None else worker.job.entry.id

    def _asked_before(self, entry: Entry) -> int | None:
        """The number of what the task that now asks for an entry had asked for before, if that has ended: the
        task had been waiting for it, most likely, and could not have asked sooner."""
        task = self._engine.host.task()
        if task is None:
            return None
        before = self._asked.get(task)
        self._asked[task] = entry
        return before.id if before is not None and before.state is State.DONE else None

    def _number(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Puts a batch's number in its place. Returns what it is, where it is new."""
        batch = arguments[BATCH]
        known = batch in self._batches
        arguments[BATCH] = self._batches.setdefault(batch, len(self._batches) + 1)
        return None if known else describe(batch)

    def _read_timer(self) -> float:
        self._readings += 1
        return self._timer()

    def _ejected(self, ejection: Ejection) -> None:
        # That a method took too long is what a replay cannot find by itself. Where it returned nonsense
        # instead it comes to the same; one that raised was not timed to its end, and `bound_s` never is.
        if ejection.hook != "bound_s" and self._readings and self._readings % 2 == 0:
            self._slow = self._readings // 2
        self._on_ejected(ejection)


def as_line(note: tuple[Any, ...]) -> dict[str, Any]:
    """A note as it stands in a trace. By the writer, not under the lock."""
    name, arguments, answer, by, entry, slow, kind, members, after = note
    line: dict[str, Any] = {"call": name}
    for parameter, value in arguments.items():
        if value is not None or parameter not in OPTIONAL:
            line[parameter] = written(value)
    if entry is not None:
        line |= {field: written(value) for field, value in zip(ENTRY_FIELDS, entry, strict=True)}
    if by is not None and by != line.get("entry") and (by != WORKER or name == "wake"):
        line["by"] = by
    if after is not None:
        line["after"] = after
    if slow is not None:
        line["slow"] = slow
    if kind is not None:
        line["kind"] = kind
    if members is not None:
        line["aboard"] = members
    if answer is not None:
        line["answer"] = written(answer)
    return line


def _noting(name: str, parameters: tuple[str, ...]) -> Callable[..., Any]:
    method = getattr(Scheduler, name)
    new = name == "submit"
    launches = name in LAUNCHING

    def call(self: Recorder, *args: Any, **named: Any) -> Any:
        # What may change later is read now; the writer does the rest.
        arguments = dict(zip(parameters, args, strict=False), **named)
        given = arguments.copy() if launches else arguments
        if new and args[0].batch is not None:
            arguments[BATCH] = args[0].batch
        kind = self._number(arguments) if BATCH in arguments else None
        for parameter, value in arguments.items():
            if isinstance(value, Entry):
                arguments[parameter] = value.id
        entry = tuple([getattr(args[0], field) for field in ENTRY_FIELDS]) if new else None
        by = self._caller()
        after = self._asked_before(args[0]) if new and by is None else None
        self._readings, self._slow = 0, None
        try:
            answer = method(self._scheduler, *args, **named)
        except SchedulerError as error:
            self._note((name, arguments, error, by, entry, self._slow, kind, None, after))
            raise
        members = aboard(given, answer) if launches else None
        self._note((name, arguments, answer, by, entry, self._slow, kind, members, after))
        return answer

    return call


for _name, _parameters in CALLS.items():
    setattr(Recorder, _name, _noting(_name, _parameters))
