"""Why an entry waits or runs, who goes before it, and who ran instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.upcoming import upcoming

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

AHEAD = 64  # at most so many entries are named that go before one
RAN = 16  # and so many that ran instead of it
_SHOWN = 3  # of either, in the sentence

Granted = tuple[float, Entry | None]
"""When a device was granted, and to whom; None: to nobody, it was idle from then on."""


@dataclass(frozen=True, slots=True)
class Ran:
    """Who had a device while somebody else was ready, and for how long in all."""

    id: int
    name: str
    seconds: float
    last_s: float  # so many seconds ago it was granted the device for the last time

    def __str__(self) -> str:
        return f"{self.name} for {self.seconds:.3f} s"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the scheduler knows about one entry at one moment; `str()` of it is a sentence for people.

    Names come with ids, "summarise #12", as names repeat.
    """

    id: int
    name: str
    state: State
    device: str
    tenant: str
    policy: str
    qos: QoS
    effective_qos: QoS  # with what it inherits
    key: float | tuple[float, ...]
    since_s: float  # in this state for so long; 0 where that is not known
    reason: str
    running: str | None  # who has the device
    running_for_s: float  # since when, as far as the grants that were kept say; 0 if nobody has it
    ready: int  # how many entries are ready on the device
    ahead: tuple[
        str, ...
    ]  # ready entries that would go before it if nothing changed, soonest first, AHEAD at most
    ran: tuple[Ran, ...]  # who had the device since it is ready, latest first, RAN at most
    ran_s: float  # so far back goes what `ran` knows: `since_s`, or less if older grants are forgotten
    waits_on: str | None
    waits_for: str  # what it waits for, in words; "" if unknown
    waiters: tuple[str, ...]
    holder: Explanation | None  # of the last in the chain of those it waits on: what holds all of them up
    fenced: str | None  # why its device runs no kernels now
    placed: str  # why it is on its device, in a sentence; "" if that was not chosen

    def __str__(self) -> str:
        text = self._state()
        if self.placed:
            text += f" {self.placed}."
        if self.fenced is not None:
            text += f" The device {self.device} is fenced: {self.fenced}."
        return text

    def _state(self) -> str:
        level = self.qos.name
        if self.effective_qos is not self.qos:
            level += f", raised to {self.effective_qos.name} by {_listed(self.waiters)}"
        text = f"{self.name} ({level}) is {self.state.value}"
        if self.state is State.RUNNING:
            others = f"; {self.ready} ready behind it" if self.ready else ""
            return f"{text} on {self.device} under {self.policy}: {self.reason}{others}."
        if self.state is State.WAITING:
            if self.waits_for and self.waits_on:
                text += f" for {self.waits_for} from {self.waits_on}"
            else:
                text += f" for {self.waits_on or self.waits_for or 'something outside the scheduler'}"
            if self.since_s:
                text += f" since {self.since_s:.3f} s"
            return f"{text}. {self.holder._state()}" if self.holder is not None else f"{text}."
        if self.state is not State.READY:
            return f"{text}."
        text += f" for {self.device} since {self.since_s:.3f} s under {self.policy}: {self.reason}"
        if self.running is not None:
            text += f"; {self.running} runs"
            if self.running_for_s:
                text += f", since {self.running_for_s:.3f} s"
        if self.ahead:
            text += f"; before it: {_listed(self.ahead)}"
        if self.ran:
            text += f"; in the last {self.ran_s:.3f} s ran {_listed([str(ran) for ran in self.ran])}"
        return text + "."

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON, with the sentence as `text`. A key that is not finite is a text."""
        return {
            **asdict(self),
            "state": self.state.value,
            "qos": self.qos.name,
            "effective_qos": self.effective_qos.name,
            "key": plain_key(self.key),
            "holder": None if self.holder is None else self.holder.as_json(),
            "text": str(self),
        }


def plain_key(key: Any) -> Any:
    """A policy's key as JSON can hold it."""
    if isinstance(key, tuple):
        return [plain_key(part) for part in key]
    if isinstance(key, int):  # of any length, so perhaps too large for a float
        return int(key)
    return float(key) if isfinite(key) else str(key)


@dataclass(frozen=True, slots=True)
class Known:
    """What the scheduler's caller knows beside it, for explanations."""

    granted: Callable[[str], Iterable[Granted]] = lambda device: ()  # the device's last grants, oldest first
    # What a WAITING entry waits for, in words, and since when; "" and None: unknown.
    waiting: Callable[[Entry], tuple[str, float | None]] = lambda entry: ("", None)
    placed: Callable[[Entry], str] = lambda entry: ""  # why an entry is on its device, in words
    # Why a device runs no kernels now, in words.
    fenced: Callable[[str], str | None] = lambda device: None


def explain(
    entry: Entry, queue: ReadyQueue, *, policy: str, slice_s: float, now: float, known: Known
) -> Explanation:
    """Explains one entry, and who holds it up, in bounded time. `queue` is its device's."""
    root = entry
    while root.waits_on is not None:
        root = root.waits_on
    holder = None
    if root is not entry and root.lane is not None:
        holder = explain(root, root.lane.queue, policy=policy, slice_s=slice_s, now=now, known=known)
    grants = list(known.granted(queue.name))
    reason, ahead, ran = "it is not ready", list[Entry](), list[Ran]()
    since_s, waits_for = 0.0, ""
    if entry.state is State.RUNNING:
        reason = entry.turn.value
        since_s = now - entry.ready_since
    elif entry.state is State.READY:
        since_s = now - entry.ready_since
        picked = queue.pick(now)
        if picked is None or entry.deferred:
            reason = "the policy puts it off"
        else:
            first = "it" if picked[0] is entry else picked[0].label
            reason = f"{first} is next, because {picked[1].value}"
        ahead = upcoming(queue, now, slice_s=slice_s, limit=AHEAD)
        if entry in ahead:
            ahead = ahead[: ahead.index(entry)]
        ran = _ran_since(entry.ready_since, grants, now)
    elif entry.state is State.WAITING:
        if entry.aboard:
            reason = entry.turn.value
        waits_for, since = known.waiting(entry)
        since_s = 0.0 if since is None else now - since
    running = queue.running
    known_to_run = running is not None and bool(grants) and grants[-1][1] is running
    return Explanation(
        id=entry.id,
        name=entry.label,
        state=entry.state,
        device=entry.device,
        tenant=entry.tenant,
        policy=policy,
        qos=entry.qos,
        effective_qos=entry.effective_qos,
        key=entry.key,
        since_s=since_s,
        reason=reason,
        running=running.label if running is not None and running is not entry else None,
        running_for_s=now - grants[-1][0] if known_to_run else 0.0,
        ready=queue.count,
        ahead=tuple(other.label for other in ahead),
        ran=tuple(ran[:RAN]),
        ran_s=now - max(entry.ready_since, grants[0][0]) if ran else 0.0,
        waits_on=entry.waits_on.label if entry.waits_on is not None else None,
        waits_for=waits_for,
        waiters=tuple(waiter.label for waiter in islice(entry.waiters, AHEAD)),
        holder=holder,
        fenced=known.fenced(queue.name),
        placed=known.placed(entry),
    )


def _ran_since(since: float, grants: Sequence[Granted], now: float) -> list[Ran]:
    """Who had the device since then, as far as the grants go back; latest first."""
    seconds: dict[Entry, float] = {}
    last_s: dict[Entry, float] = {}
    until = now
    for start, entry in reversed(grants):
        if until <= since:
            break
        if entry is not None:
            seconds[entry] = seconds.get(entry, 0.0) + until - max(start, since)
            last_s.setdefault(entry, now - start)
        until = start
    return [Ran(entry.id, entry.label, seconds[entry], last_s[entry]) for entry in seconds]


def _listed(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    text = ", ".join(names[:_SHOWN])
    if len(names) <= _SHOWN:
        return text
    least = "at least " if len(names) >= AHEAD else ""
    return f"{text} and {least}{len(names) - _SHOWN} more"
