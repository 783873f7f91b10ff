"""The backlog of a device as a newcomer finds it: what is served there before it ends.

Found from keys alone, so it holds for any policy whose keys are times or places: each of the others is
compared as if it became ready now, like the newcomer. Whose key would be smaller is served before it, all of
it; with whom it is equal it takes turns, slice by slice; and of the others those go before it, for a slice at
a time, whose key is smaller because they have waited. Under policies that look at the service received,
everybody takes turns with everybody. Of another tenant's entries, all together take turns with it.

Those who write with one model share its launches (batch.py), so together they take as long as one of them
does, in launches that are longer by their company. They do not hand over the device in the middle of one: of
equals' turns theirs are whole launches, each for `_SLICES` of the newcomer's. Who asks for itself and writes
along with them only has longer launches.

Found in bounded time, too: who stands first in a queue is looked at, and the others are thought to be alike.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.entry import Entry

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

LOOKED_AT = 4  # entries of a heap that are looked at one by one

_LEAST_S = 0.0005  # that somebody is thought to take who has said nothing, or said less than it was
_SLICES = 2  # for somebody who shares launches to run, and to bring the next one


class Aged(NamedTuple):
    """Somebody less urgent with `left_s` to run, whose turn comes by waiting: a slice when the newcomer has
    been there for `first_s`, and then one every `every_s`."""

    left_s: float
    first_s: float
    every_s: float


class Shared(NamedTuple):
    """Several who share launches of `launch_s` with each other: together they have `left_s` to run."""

    left_s: float
    launch_s: float


class Backlog(NamedTuple):
    """What a newcomer would wait for on one device.

    `before_s` is served before it whatever its own length. `turns_s` are the seconds left of those with whom
    it takes turns of `slice_s`; `more` others are like the average of these. If who runs is one of them, it
    is the first, and of its slice `rest_s` are left. So it does with those that are `shared`. For those in
    its own launches what it runs takes longer by the part `company`. Background is owed `owed_s` (negative:
    it has had more than its share), and gets the part `share` of what is served from now on. `busy`: somebody
    runs there now, whom it may preempt or not.
    """

    device: str
    before_s: float = 0.0
    turns_s: tuple[float, ...] = ()
    more: int = 0
    aged: tuple[Aged, ...] = ()
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
        return not (self.busy or self.before_s or self.turns_s or self.aged or self.shared or self.company)

    def wait_s(self, run_s: float) -> float:
        """For how long somebody who runs for `run_s` is ready there without running."""
        wait_s = self.before_s + run_s * self.company
        if self.turns_s:
            turn_s = ceil(run_s / self.slice_s - 1e-9) * self.slice_s
            turns_s = sum([left_s if left_s < turn_s else turn_s for left_s in self.turns_s])
            wait_s += turns_s + turns_s / len(self.turns_s) * self.more
            if self.rest_s is not None:
                first_s = self.turns_s[0]
                wait_s += min(first_s, turn_s - self.slice_s + self.rest_s) - min(first_s, turn_s)
        for left_s, launch_s in self.shared:
            wait_s += min(left_s, ceil(run_s / (_SLICES * self.slice_s) - 1e-9) * launch_s)
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
    key: Callable[[Entry, float], Any],
    slice_s: float,
    without: Entry | None,
    *,
    by_service: bool,
) -> Backlog:
    """What `newcomer`, an entry that is nobody's, with its lane and key, would find. `key` is the policy's,
    who counts service if `by_service`. `without` is left out: it asks for itself."""
    before_s, turns_s, more, aged, shared = 0.0, list[float](), 0, list[Aged](), list[Shared]()
    counted: set[Batch] = set()  # whose writers were
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
            unseen = 0 if len(heap) <= LOOKED_AT else _unseen(queue, seen, len(heap) - LOOKED_AT)
            if lane is own_lane:
                crowds.append((seen, unseen))
            elif heap is lane.foreground or not foreground:
                lane_s = sum([left(entry) for entry in seen])
                tenants_s.append(lane_s * len(heap) / LOOKED_AT if unseen else lane_s)
    for seen, unseen in crowds:
        earlier_s = before_s
        for entry in seen:
            if entry is without:
                continue
            left_s = entry.predicted_seconds_left - entry.served_s + entry.predicted_at_s  # see `left`
            if entry is running:
                left_s -= unbooked_s
            if not left_s > _LEAST_S:
                left_s = _LEAST_S
            launch_s = 0.0
            if entry.batch is not None and entry.brought == 1 and entry.batch.members > 1:
                if entry.batch in counted:
                    continue
                counted.add(entry.batch)
                together = _together(queue, entry.batch, without)
                if without is not None and without is queue.running and without.batch is entry.batch:
                    company = together.stretch - 1.0
                    continue
                if together.writers > 1:
                    left_s, launch_s = together.left_s, together.launch_s
            if by_service:
                turns_s.append(left_s)
                continue
            since, entry.ready_since = entry.ready_since, now
            try:
                renewed = key(entry, now)
            finally:
                entry.ready_since = since
            if renewed == own and launch_s:
                shared.append(Shared(left_s, launch_s))
            elif renewed == own:
                if entry is running:
                    rest_s = max(0.0, slice_s - queue.used_s - unbooked_s)
                turns_s.append(left_s)
            elif renewed < own:
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
    owed_s = share = 0.0
    if foreground and queue.background_count:
        owed_s, share = queue.background_owed_s, queue.guaranteed_share
    busy = running is not None
    return Backlog(
        queue.name, before_s, (*turns_s, *tenants_s), more, tuple(aged), tuple(shared), company, slice_s,
        owed_s, share, busy, rest_s,
    )  # fmt: skip


class _Together(NamedTuple):
    """Those who write with one model on a device: how many, what they have left to run together, what a
    launch for each takes, and how many times as long that is as a launch of one's own."""

    writers: int
    left_s: float
    launch_s: float
    stretch: float


def _together(queue: ReadyQueue, batch: Batch, without: Entry | None) -> _Together:
    """As far as some of them show. `without` is not among them, but in the launches, if it runs."""
    crowd, running = queue.crowds.get(batch), queue.running
    looked: list[Entry] = []
    count = 0
    if crowd is not None:
        for some in (crowd.between, crowd.pending, crowd.suspended):
            looked += islice(some, LOOKED_AT)
        count = len(crowd)
    if running is not None and running.batch is batch:
        looked.append(running)
        count += 1
    for leader in tuple(looked):
        looked += leader.riders
        count += len(leader.riders)
    writers = [entry for entry in looked if entry.brought == 1]
    count -= len(looked) - len(writers)
    most = min(batch.members, batch.rows)
    launches = ceil(count / most)
    launch_s = launches * batch.seconds(max(1, min(count, most)))
    stretch = launch_s / batch.seconds(1)
    longest_s = max([left(entry) for entry in writers if entry is not without], default=0.0)
    others = count - (without in writers)
    return _Together(others, longest_s * stretch, launch_s, stretch)


def _unseen(queue: ReadyQueue, seen: list[Entry], unseen: int) -> int:
    """How many of the unseen share no launches with somebody who was seen."""
    for batch in {entry.batch for entry in seen if entry.batch is not None and entry.brought == 1}:
        if batch.members == 1:
            continue
        crowd = queue.crowds.get(batch, ())
        unseen -= len(crowd) - sum(entry.batch is batch for entry in seen)
    return max(0, unseen)


def left(entry: Entry) -> float:
    """The device seconds that an entry will still take, as far as anybody said."""
    left_s = entry.predicted_seconds_left - entry.served_s + entry.predicted_at_s
    return left_s if left_s > _LEAST_S else _LEAST_S  # a NaN prediction is none
