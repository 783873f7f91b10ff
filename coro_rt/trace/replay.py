"""Replay: a trace's inputs go into a fresh scheduler, and every decision is compared with the recorded one.

The scheduler is pure, so under the recorded policy it must decide the same, to the last bit. If it does not,
the code has changed, or the policy is not deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.registry import PolicyLike
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.trace.calls import BATCH, ENTRIES, LAUNCHING, Call, Members, aboard, make_batch, written
from coro_rt.trace.reader import Trace

SHOWN = 20  # differences that are kept; all are counted
REPORT_EVERY = 4096


@dataclass(frozen=True, slots=True)
class Difference:
    """One decision that came out otherwise."""

    line: int
    call: str
    now: float
    recorded: Any
    decided: Any

    def __str__(self) -> str:
        return (
            f"line {self.line}, {self.call} at {self.now:.6f}: recorded {self.recorded}, now {self.decided}"
        )


@dataclass(slots=True)
class Differences:
    """What a replay found. True where there is a difference; `broke_off` says why it could not go on."""

    calls: int = 0
    decisions: int = 0  # calls of next and turn among them
    count: int = 0
    first: list[Difference] = field(default_factory=list)  # the first of them
    broke_off: str | None = None
    complete: bool = False  # the trace was closed in order

    def __bool__(self) -> bool:
        return self.count > 0 or self.broke_off is not None


def replay(
    trace: Trace, policy: PolicyLike | None = None, *, progress: Callable[[int], object] | None = None
) -> Differences:
    """Decide a trace again. `policy`: how to make the recorded one, where its path alone does not.

    After a difference the recorded inputs may not fit what was decided: then the replay ends there.
    `progress` is called now and then with the number of calls. Raises TraceFileError, SchedulerError for a
    policy that cannot be made, OSError.
    """
    header = trace.header
    timer = _Timer()
    scheduler = Scheduler(
        header.policy if policy is None else policy,
        devices=header.devices,
        shares=header.shares,
        background_share=header.background_share,
        max_wait_s=header.max_wait_s,
        timer=timer,
        placement=None if header.placement is None else Placement.from_data(header.placement),
    )
    entries: dict[int, Entry] = {}
    batches: dict[int, Batch] = {}
    found = Differences()
    for call in trace.calls():
        timer.readings, timer.slow = 0, call.slow
        try:
            decided, members = _decide(scheduler, call, entries, batches)
        except AssertionError as error:
            found.broke_off = f"line {call.line}: {call.name} does not fit what was decided before: {error}"
            break
        found.calls += 1
        if (decided, members) != (call.answer, call.aboard):
            found.count += 1
            if len(found.first) < SHOWN:
                now = call.arguments.get("now", header.now)
                found.first.append(Difference(call.line, call.name, now, *_told(call, decided, members)))
        if progress is not None and found.calls % REPORT_EVERY == 0:
            progress(found.calls)
    found.decisions = scheduler.decisions
    found.complete = trace.complete
    return found


class _Timer:
    """In place of the clock that policies are timed with: no call of a policy takes any time, but the one
    that the trace says took too long."""

    def __init__(self) -> None:
        self.readings = 0
        self.slow: int | None = None
        self._now = 0.0

    def __call__(self) -> float:
        self.readings += 1
        if self.slow is not None and self.readings == 2 * self.slow:
            self._now += 3600.0
        return self._now


def _told(call: Call, decided: Any, members: Members | None) -> tuple[Any, Any]:
    """What was recorded and what is decided now, as far as it differs."""
    if decided != call.answer:
        return call.answer, decided
    return {"aboard": call.aboard}, {"aboard": members}


def _decide(
    scheduler: Scheduler, call: Call, entries: dict[int, Entry], batches: dict[int, Batch]
) -> tuple[Any, Members | None]:
    """Make a call; its answer as it would be written, and who is in the launch that comes next."""
    arguments = dict(call.arguments)
    if call.kind is not None:
        batches[len(batches) + 1] = make_batch(call.kind)
    if call.entry:
        number, about = arguments["entry"], dict(call.entry)
        batch = about.pop(BATCH, None)
        entries[number] = Entry(number, **about)
        entries[number].batch = None if batch is None else batches[batch]
    for parameter in ENTRIES & arguments.keys():
        if (number := arguments[parameter]) is not None:
            arguments[parameter] = entries[number]
    if BATCH in arguments:
        arguments[BATCH] = batches[arguments[BATCH]]
    try:
        answer = getattr(scheduler, call.name)(**arguments)
    except SchedulerError as error:
        return written(error), None
    return written(answer), aboard(arguments, answer) if call.name in LAUNCHING else None
