"""Why an entry waits or runs, and who goes before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.qos import QoS

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the scheduler knows about one entry at one moment; `str()` of it is a sentence for people."""

    name: str
    state: State
    device: str
    tenant: str
    policy: str
    qos: QoS
    effective_qos: QoS  # with what it inherits
    key: float | tuple[float, ...]
    since_s: float  # ready, or in the slice, for so long; 0 in other states
    reason: str
    running: str | None  # who has the device
    ahead: tuple[str, ...]  # ready entries that would go before it if nothing changed, soonest first
    waits_on: str | None
    waiters: tuple[str, ...]

    def __str__(self) -> str:
        level = self.qos.name
        if self.effective_qos is not self.qos:
            level += f", raised to {self.effective_qos.name} by {', '.join(self.waiters)}"
        text = f"{self.name} ({level}) is {self.state.value}"
        if self.state is State.RUNNING:
            return f"{text} on {self.device} under {self.policy}: {self.reason}."
        if self.state is State.WAITING:
            return (
                f"{text} for {self.waits_on}."
                if self.waits_on
                else f"{text} for something outside the scheduler."
            )
        if self.state is not State.READY:
            return f"{text}."
        text += f" for {self.device} since {self.since_s:.3f} s under {self.policy}: {self.reason}"
        if self.running is not None:
            text += f"; {self.running} runs"
        if self.ahead:
            shown = ", ".join(self.ahead[:3]) + (
                f" and {len(self.ahead) - 3} more" if len(self.ahead) > 3 else ""
            )
            text += f"; before it: {shown}"
        return text + "."


def explain(entry: Entry, queue: ReadyQueue, policy: str, now: float) -> Explanation:
    """Explains one entry of one device; takes time in proportion to the ready entries."""
    reason = "it is not ready"
    ahead: list[Entry] = []
    if entry.state is State.RUNNING:
        reason = entry.turn.value
    elif entry.state is State.READY:
        picked = queue.pick(now)
        assert picked is not None
        ahead = _ahead(entry, picked[0], queue)
        if picked[0] is entry:
            reason = f"it is next, because {picked[1].value}"
        else:
            reason = f"{picked[0].name} is next, because {picked[1].value}"
    ready_or_running = entry.state is State.READY or entry.state is State.RUNNING
    return Explanation(
        name=entry.name,
        state=entry.state,
        device=entry.device,
        tenant=entry.tenant,
        policy=policy,
        qos=entry.qos,
        effective_qos=entry.effective_qos,
        key=entry.key,
        since_s=now - entry.ready_since if ready_or_running else 0.0,
        reason=reason,
        running=queue.running.name if queue.running is not None and queue.running is not entry else None,
        ahead=tuple(other.name for other in ahead),
        waits_on=entry.waits_on.name if entry.waits_on is not None else None,
        waiters=tuple(waiter.name for waiter in entry.waiters),
    )


def _ahead(entry: Entry, first: Entry, queue: ReadyQueue) -> list[Entry]:
    """The next one, whoever is expedited, and those of the same tenant with smaller keys, soonest first."""
    if first is entry:
        return []
    before = [
        other
        for other in queue
        if other is not first
        and other is not entry
        and (
            other.expedited
            or (other.lane is entry.lane and (other.key, other.ticket) < (entry.key, entry.ticket))
        )
    ]
    before.sort(key=lambda other: (not other.expedited, other.key, other.ticket))
    return [first, *before]
