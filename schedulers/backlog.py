"""The backlog of a device as a newcomer finds it: what is served there before it ends.

Found from keys alone, so it holds for any policy whose keys are times or places: each of the others is
compared as if it became ready now, like the newcomer. Whose key would be smaller is served before it, all of
it; with whom it is equal it takes turns, slice by slice; and of the others those go before it, for a slice at
a time, whose key is smaller because they have waited. Under policies that look at the service received,
everybody takes turns with everybody. Of another tenant's entries, all together take turns with it.

Found in bounded time, too: who stands first in a queue is looked at, and the others are thought to be alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from coro_rt.schedulers.entry import Entry

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

LOOKED_AT = 8  # entries of a heap that are looked at one by one

_LEAST_S = 0.0005  # that somebody is thought to take who has said nothing, or said less than it was


@dataclass(frozen=True, slots=True)
class Aged:
    """Somebody less urgent with `left_s` to run, whose turn comes by waiting: a slice when the newcomer has
    been there for `first_s`, and then one every `every_s`."""

    left_s: float
    first_s: float
    every_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a newcomer would wait for on one device.

    `before_s` is served before it whatever its own length. `turns_s` are the seconds left of those with whom
    it takes turns of `slice_s`; `more` others are like the average of these. Background is owed `owed_s`
    (negative: it has had more than its share), and gets the part `share` of what is served from now on.
    `busy`: somebody runs there now, whom it may preempt or not.
    """

    device: str
    before_s: float = 0.0
    turns_s: tuple[float, ...] = ()
    more: int = 0
    aged: tuple[Aged, ...] = ()
    slice_s: float = 0.002
    owed_s: float = 0.0
    share: float = 0.0
    busy: bool = False

    @property
    def idle(self) -> bool:
        """Whether nobody is there."""
        return not (self.busy or self.before_s or self.turns_s or self.aged)

    def wait_s(self, run_s: float) -> float:
        """For how long somebody who runs for `run_s` is ready there without running."""
        wait_s = self.before_s
        if self.turns_s:
            turn_s = ceil(run_s / self.slice_s - 1e-9) * self.slice_s
            turns_s = sum([left_s if left_s < turn_s else turn_s for left_s in self.turns_s])
            wait_s += turns_s + turns_s / len(self.turns_s) * self.more
        for other in self.aged:
            stay_s = wait_s + run_s - other.first_s
            if stay_s > 0.0:
                slices = 1 + (stay_s // other.every_s if other.every_s > 0.0 else 0.0)
                wait_s += min(other.left_s, slices * self.slice_s)
        if self.share:
            wait_s += max(0.0, (self.owed_s + (wait_s + run_s) * self.share) / (1.0 - self.share))
        return wait_s


def backlog(
    queue: ReadyQueue,
    newcomer: Entry,
    now: float,
    *,
    key: Callable[[Entry, float], Any],
    by_service: bool,
    slice_s: float,
    without: Entry | None,
) -> Backlog:
    """What `newcomer`, an entry that is nobody's, with its lane and key, would find. `key` is the policy's,
    who counts service if `by_service`. `without` is left out: it asks for itself."""
    before_s, turns_s, more, aged = 0.0, list[float](), 0, list[Aged]()
    running = queue.running
    own = newcomer.key

    def look(entry: Entry) -> bool:
        """Whether it goes before the newcomer, or takes turns with it, from now on."""
        nonlocal before_s
        left_s = left(entry)
        if by_service:
            turns_s.append(left_s)
            return True
        since, entry.ready_since = entry.ready_since, now
        try:
            renewed = key(entry, now)
            if renewed < own:
                before_s += left_s
            elif renewed == own:
                turns_s.append(left_s)
            else:
                if entry is not running and isinstance(renewed, float):
                    aged.append(Aged(left_s, max(0.0, entry.key - own), renewed - own))
                return False
        except Exception:  # of a policy of somebody's own; it is noticed when it decides
            turns_s.append(left_s)
        finally:
            entry.ready_since = since
        return True

    if running is not None and running is not without and _meet(running, newcomer):
        look(running)
    for lane in queue.lanes.values():
        for heap in (lane.foreground, lane.background):
            if not heap or not _meet(heap[0][2], newcomer):
                continue
            seen = [entry for _, ticket, entry in heap[:LOOKED_AT] if ticket == entry.ticket]
            unseen = max(0, len(heap) - LOOKED_AT)
            if lane is not newcomer.lane:
                lane_s = sum([left(entry) for entry in seen])
                turns_s.append(lane_s * len(heap) / LOOKED_AT if unseen else lane_s)
                continue
            earlier_s = before_s
            going = [look(entry) for entry in seen if entry is not without]
            if unseen and all(going):
                if turns_s:
                    more += unseen
                else:
                    before_s += (before_s - earlier_s) * unseen / LOOKED_AT
    background = queue.background_count > 0 and not newcomer.background
    return Backlog(
        queue.name,
        before_s,
        tuple(turns_s),
        more,
        tuple(aged),
        slice_s,
        queue.background_owed_s if background else 0.0,
        queue.guaranteed_share if background else 0.0,
        running is not None and running is not without,
    )


def left(entry: Entry) -> float:
    """The device seconds that an entry will still take, as far as anybody said."""
    left_s = entry.predicted_seconds_left - (entry.served_s - entry.predicted_at_s)
    return left_s if left_s > _LEAST_S else _LEAST_S  # a NaN prediction is none


def _meet(entry: Entry, newcomer: Entry) -> bool:
    """Whether an entry has a say in when the newcomer runs: another tenant's background work has none if the
    newcomer is not background, too."""
    return entry.lane is newcomer.lane or newcomer.background or not entry.background
