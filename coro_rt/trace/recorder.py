"""The recorder: stands in a scheduler's place, hands every call on, and notes it with its answer.

A stand-in, not a subclass: what the scheduler calls on itself is no input. A runtime that does not record has
the scheduler itself, and pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from coro_rt._version import __version__
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.trace.calls import CALLS, ENTRY_FIELDS, FORMAT, OPTIONAL, VERSION, policy_path, written
from coro_rt.traps import local

if TYPE_CHECKING:
    from coro_rt.engine import Engine
    from coro_rt.trace.writer import TraceWriter


class Recorder:
    """Called as the scheduler is, under the engine's lock. Everything that it does not note, it hands on."""

    def __init__(self, scheduler: Scheduler, writer: TraceWriter, engine: Engine) -> None:
        self._scheduler = scheduler
        self._note = writer.note
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def __len__(self) -> int:
        return len(self._scheduler)

    def _stepping(self) -> int | None:
        """The entry whose own code makes this call: None for the host, and for a worker that decides."""
        worker = local.worker
        if worker is None or worker.deciding or worker.job is None or worker.engine is not self._engine:
            return None
        return worker.job.entry.id


def recorded(scheduler: Scheduler, writer: TraceWriter, engine: Engine) -> Scheduler:
    """A scheduler whose calls are noted."""
    return cast(Scheduler, Recorder(scheduler, writer, engine))


def header(scheduler: Scheduler, settings: dict[str, Any], now: float) -> dict[str, Any]:
    """A trace's first line. `settings`: what the scheduler was made with, besides the policy."""
    fixed = {name: written(value) if name == "max_wait_s" else value for name, value in settings.items()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "coro_rt": __version__,
        "policy": policy_path(scheduler.policy),
        **fixed,
        "now": now,
    }


def as_line(note: tuple[Any, ...]) -> dict[str, Any]:
    """A note as it stands in a trace. By the writer, not under the lock."""
    name, arguments, answer, by, entry = note
    line: dict[str, Any] = {"call": name}
    for parameter, value in arguments.items():
        if value is not None or parameter not in OPTIONAL:
            line[parameter] = written(value)
    if entry is not None:
        line |= {field: written(value) for field, value in zip(ENTRY_FIELDS, entry, strict=True)}
    if by is not None and by != line.get("entry"):
        line["by"] = by
    if answer is not None:
        line["answer"] = written(answer)
    return line


def _noting(name: str, parameters: tuple[str, ...]) -> Callable[..., Any]:
    method = getattr(Scheduler, name)
    new = name == "submit"

    def call(self: Recorder, *args: Any, **named: Any) -> Any:
        # What may change later is read now; the writer does the rest.
        arguments = dict(zip(parameters, args, strict=False), **named)
        for parameter, value in arguments.items():
            if isinstance(value, Entry):
                arguments[parameter] = value.id
        entry = tuple([getattr(args[0], field) for field in ENTRY_FIELDS]) if new else None
        by = self._stepping()
        try:
            answer = method(self._scheduler, *args, **named)
        except SchedulerError as error:
            self._note((name, arguments, error, by, entry))
            raise
        self._note((name, arguments, answer, by, entry))
        return answer

    return call


for _name, _parameters in CALLS.items():
    setattr(Recorder, _name, _noting(_name, _parameters))
