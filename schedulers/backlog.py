"""The backlog of a device as a newcomer finds it: what is served there before it ends.

Found from keys alone, so it holds for any policy whose keys are times or places: each of the others is
compared as if it became ready now, like the newcomer. Whose key would be smaller is served before it: until
the newcomer has waited for so long that a slice later its own is smaller, or all of it if keys do not move
with time. With whom it is equal it takes turns, slice by slice; and of the others those go before it, for a
slice at a time, whose key is smaller because they have waited. Under policies that look at the service
received, everybody takes turns with everybody. Of another tenant's entries, all together take turns with it.

Those who write with one model count once (company.py). They do not hand over the device in the middle of a
launch: of equals' turns theirs are whole launches, each for `_SLICES` of the newcomer's. Who asks for itself
and writes along with them only has longer launches.

Found in bounded time, too: who stands first in a queue is looked at, and the others are thought to be alike.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.company import LEAST_S, LOOKED_AT, left, together, unseen_others, writes
from coro_rt.schedulers.entry import Entry

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

_SLICES = 2  # for somebody who shares launches to run, and to bring the next one


class Aged(NamedTuple):
    """Somebody less urgent with `left_s` to run, whose turn comes by waiting: a slice when the newcomer has
    been there for `first_s`, and then one every `every_s`."""

    left_s: float
    first_s: float
    every_s: float


class Ahead(NamedTuple):
    """Somebody more urgent with `left_s` to run, who goes before the newcomer as long as that has waited for
    less than `lead_s` for each of its slices."""

    left_s: float
    lead_s: float


class Shared(NamedTuple):
    """Several who share launches of `launch_s` with each other: together they have `left_s` to run."""

    left_s: float
    launch_s: float


class Backlog(NamedTuple):
    """What a newcomer would wait for on one device.

    `before_s` is served before it whatever its own length; then come those `ahead`, the longest lead first.
    `turns_s` are the seconds left of those with whom it takes turns of `slice_s`; `more` others are like the
    average of these. If who runs is one of them, it is the first, and of its slice `rest_s` are left. It
    takes turns with those that are `shared`, too. For those in its own launches what it runs takes longer by
    the part `company`. Background is owed `owed_s` (negative: it has had more than its share), and gets the
    part `share` of what is served from now on. `busy`: somebody runs there now, whom it may preempt or not.
    """

    device: str
    before_s: float = 0.0
    turns_s: tuple[float, ...] = ()
    more: int = 0
    aged: tuple[Aged, ...] = ()
    ahead: tuple[Ahead, ...] = ()
    shared: tuple[Shared, ...] = ()
    company: float = 0.0
    slice_s: float = 0.002
    owed_s: float = 0.0
    share: float = 0.0
    busy: bool = False
    rest_s: float | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody is there."""
        others = self.before_s or self.ahead or self.turns_s or self.aged or self.shared or self.company
        return not (self.busy or others)

    def wait_s(self, run_s: float) -> float:
        """For how long somebody who runs for `run_s` is ready there without running."""
        wait_s = self.before_s + run_s * self.company
        slices = ceil(run_s / self.slice_s - 1e-9)
        for other in self.ahead:
            wait_s += max(0.0, min(other.left_s, slices * other.lead_s - wait_s))
        if self.turns_s:
            turn_s = slices * self.slice_s
            turns_s = sum([left_s if left_s < turn_s else turn_s for left_s in self.turns_s])
            wait_s += turns_s + turns_s / len(self.turns_s) * self.more
            if self.rest_s is not None:
                first_s = self.turns_s[0]
                wait_s += min(first_s, turn_s - self.slice_s + self.rest_s) - min(first_s, turn_s)
        for left_s, launch_s in self.shared:
            wait_s += min(left_s, ceil(slices / _SLICES) * launch_s)
        for late in self.aged:
            stay_s = wait_s + run_s - late.first_s
            if stay_s > 0.0:
                theirs = 1 + (stay_s // late.every_s if late.every_s > 0.0 else 0.0)
                wait_s += min(late.left_s, theirs * self.slice_s)
        if self.share:
            wait_s += max(0.0, (self.owed_s + (wait_s + run_s) * self.share) / (1.0 - self.share))
        return wait_s


def backlog(
    queue: ReadyQueue,
    newcomer: Entry,
    now: float,
    key: Callable[[Entry, float], Any],
    slice_s: float,
    without: Entry | None,
    *,
    by_service: bool,
) -> Backlog:
    """What `newcomer`, an entry that is nobody's, with its lane and key, would find. `key` is the policy's,
    who counts service if `by_service`. `without` is left out: it asks for itself."""
    before_s, ahead, turns_s, more, aged = 0.0, list[Ahead](), list[float](), 0, list[Aged]()
    shared: tuple[Shared, ...] = ()
    counted: tuple[Batch, ...] = ()  # whose writers were
    company = 0.0
    running = None if queue.running is without else queue.running
    unbooked_s, rest_s = 0.0, None
    own, own_lane, foreground = newcomer.key, newcomer.lane, not newcomer.background
    tenants_s: list[float] = []  # of others, each as a whole
    crowds: list[tuple[list[Entry], int]] = []  # who is looked at, and how many are like them
    if running is not None:
        if running.lane is own_lane:
            crowds.append(([running], 0))
        elif not running.background or not foreground:
            tenants_s.append(left(running))
        # of its slice, what it has had and was not booked yet
        unbooked_s = max(0.0, now - running.ready_since - queue.used_s)
    for lane in queue.lanes.values():
        for heap in (lane.foreground, lane.background):
            if not heap:
                continue
            seen = [entry for _, ticket, entry in heap[:LOOKED_AT] if ticket == entry.ticket]
            unseen = 0 if len(heap) <= LOOKED_AT else unseen_others(queue, seen, len(heap) - LOOKED_AT)
            if lane is own_lane:
                crowds.append((seen, unseen))
            elif heap is lane.foreground or not foreground:
                lane_s = sum([left(entry) for entry in seen])
                tenants_s.append(lane_s * len(heap) / LOOKED_AT if unseen else lane_s)
    for seen, unseen in crowds:
        earlier_s, earlier = before_s, len(ahead)
        for entry in seen:
            if entry is without:
                continue
            left_s = entry.predicted_seconds_left - entry.served_s + entry.predicted_at_s  # see `left`
            if entry is running:
                left_s -= unbooked_s
            if not left_s > LEAST_S:
                left_s = LEAST_S
            launch_s = 0.0
            if entry.batch is not None and writes(entry):
                if entry.batch in counted:
                    continue
                counted += (entry.batch,)
                found = together(queue, entry.batch, without)
                if without is not None and without is queue.running and without.batch is entry.batch:
                    company = found.stretch - 1.0
                    continue
                if found.writers > 1:
                    left_s, launch_s = found.left_s, found.launch_s
            if by_service:
                turns_s.append(left_s)
                continue
            since, lead_s = entry.ready_since, inf
            try:
                entry.ready_since = now
                renewed = key(entry, now)
                if renewed < own and type(renewed) is float:
                    entry.ready_since = now + 1.0
                    each_s: float = key(entry, now + 1.0) - renewed
                    if each_s > 0.0:  # until its renewed key has grown to the newcomer's
                        lead_s = (own - renewed) / each_s
            finally:
                entry.ready_since = since
            if renewed == own and launch_s:
                shared += (Shared(left_s, launch_s),)
            elif renewed == own:
                if entry is running:
                    rest_s = max(0.0, slice_s - queue.used_s - unbooked_s)
                turns_s.append(left_s)
            elif renewed < own:
                if lead_s < inf:
                    ahead.append(Ahead(left_s, lead_s))
                else:
                    before_s += left_s
            else:
                unseen = 0  # those behind it are even later
                if entry is not running and type(renewed) is float:
                    first_s = entry.key - own
                    aged.append(Aged(left_s, first_s if first_s > 0.0 else 0.0, renewed - own))
        if unseen and turns_s:
            more += unseen
        elif unseen:
            before_s += (before_s - earlier_s) * unseen / LOOKED_AT
            alike = ahead[earlier:]
            if alike:
                left_s = sum([other.left_s for other in alike]) * unseen / LOOKED_AT
                ahead.append(Ahead(left_s, alike[-1].lead_s))
    owed_s = share = 0.0
    if foreground and queue.background_count:
        owed_s, share = queue.background_owed_s, queue.guaranteed_share
    if len(ahead) > 1:
        ahead.sort(key=attrgetter("lead_s"), reverse=True)
    turns = (*turns_s, *tenants_s)
    busy = running is not None
    return Backlog(
        queue.name, before_s, turns, more, tuple(aged), tuple(ahead), shared, company, slice_s, owed_s,
        share, busy, rest_s,
    )  # fmt: skip
