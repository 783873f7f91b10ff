"""The ready queue of one device: who would be next, and why.

Two levels. Tenants share the device by virtual time (start-time fair queueing, Goyal 1996: a tenant's virtual
time is not less than the queue's when it comes; service divided by its weight moves it on; the smallest goes
first). Inside a tenant the policy's keys decide; a *lane* holds them in two heaps, foreground and background,
because background's guaranteed share is taken from the second. Three things go before both levels: expedited
entries, overdue ones, and background's share. Who has waited longest is the first of a list that is threaded
through the entries: joining and leaving it takes the same time wherever they stand.

Heap items are `(key, ticket, entry)`; an item is valid if its ticket is its entry's. Whoever leaves or is
re-keyed only changes its ticket; invalid items are dropped when they reach the top, or all at once when they
outnumber the valid ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Any

from coro_rt.schedulers.batch import Batch, Crowd
from coro_rt.schedulers.entry import Entry, Turn

_Item = tuple[Any, int, Entry]
# Looking up a member of an Enum takes as long as a call, so these are named once.
_POLICY, _EXPEDITED, _OVERDUE, _SHARE = Turn.POLICY, Turn.EXPEDITED, Turn.OVERDUE, Turn.SHARE


class Lane:
    """One tenant's ready entries on one device."""

    __slots__ = ("background", "clock", "entries", "foreground", "pace", "queue", "tenant", "vtime")

    def __init__(self, tenant: str, queue: ReadyQueue, weight: float) -> None:
        self.tenant = tenant
        self.queue = queue
        self.pace = 1.0 / weight  # virtual seconds per second of service
        self.vtime = queue.vtime
        self.clock = 0.0  # the policy's own
        self.entries = 0  # submitted and not done
        self.foreground: list[_Item] = []
        self.background: list[_Item] = []


class ReadyQueue:
    """One device: its lanes, who runs there, and what background is owed."""

    __slots__ = (
        "background_count",
        "background_owed_s",
        "calm",
        "count",
        "crowds",
        "deferred",
        "due_at",
        "expedited",
        "guaranteed_share",
        "lanes",
        "last",
        "line",
        "longest_turn_s",
        "max_wait_s",
        "name",
        "only_lane",
        "peak",
        "prune_at",
        "running",
        "stale",
        "tickets",
        "turn",
        "used_s",
        "vtime",
        "weights",
    )

    def __init__(
        self, name: str, *, weights: Mapping[str, float], max_wait_s: float, tickets: Iterator[int]
    ) -> None:
        self.name = name
        self.weights = weights
        self.max_wait_s = max_wait_s
        self.tickets = tickets  # shared by all devices: a ticket is never given twice
        self.count = 0  # ready entries
        self.line = Entry(0)  # both ends of the list of the ready: its `newer` has waited longest
        self.line.older = self.line.newer = self.line
        self.expedited: deque[Entry] = deque()
        self.crowds: dict[Batch, Crowd] = {}  # of those ready entries whose launches may run as one
        self.deferred: list[tuple[float, int, Entry]] = []  # a heap: those that are put off, until when
        self.lanes: dict[str, Lane] = {}
        self.only_lane: Lane | None = None  # the common case, one tenant, needs no search
        self.prune_at = 16
        self.vtime = 0.0  # virtual time of the tenant last granted in turn
        self.stale = 0  # invalid items in the heaps
        self.due_at = -inf  # nobody is overdue before this

        self.running: Entry | None = None
        self.last: Entry | None = None  # who was granted last
        self.turn = _POLICY  # of the last grant
        self.calm = False  # the last grant came right after an overdue one: it keeps its slice
        self.used_s = 0.0  # seconds run in the current slice
        self.longest_turn_s = 0.0  # and the most entries: what a bounded policy is held to
        self.peak = 0

        self.guaranteed_share = 0.0
        self.background_count = 0  # ready background entries
        # What background has earned (its share of all service while it is ready) less what it got. At most
        # what it earns in max_wait_s is held against it: a quiet hour does not cost it its share afterwards.
        self.background_owed_s = 0.0

    def lane(self, tenant: str) -> Lane:
        """The lane of a tenant, made if need be."""
        lane = self.lanes.get(tenant)
        if lane is None:
            if len(self.lanes) >= self.prune_at:
                self._prune()
            lane = self.lanes[tenant] = Lane(tenant, self, self.weights.get(tenant, 1.0))
            self.only_lane = lane if len(self.lanes) == 1 else None
        return lane

    def __iter__(self) -> Iterator[Entry]:
        """The ready entries; who has waited longest comes first."""
        entry = self.line.newer
        while entry is not self.line:
            yield entry
            entry = entry.newer

    def push(self, entry: Entry) -> None:
        """Puts an entry, with its key and lane, among the ready."""
        lane = entry.lane
        assert lane is not None
        if lane.vtime < self.vtime:
            lane.vtime = self.vtime  # time without work is no credit
        self.count += 1
        entry.newer = line = self.line
        entry.older = newest = line.older
        line.older = newest.newer = entry
        self._put(entry)

    def _put(self, entry: Entry) -> None:
        lane = entry.lane
        assert lane is not None
        entry.ticket = ticket = next(self.tickets)
        if entry.background:
            self.background_count += 1
            heappush(lane.background, (entry.key, ticket, entry))
        else:
            heappush(lane.foreground, (entry.key, ticket, entry))
        if entry.batch is not None:
            self._join_crowd(entry, entry.batch)

    def defer(self, entry: Entry, until: float) -> None:
        """Puts off a ready entry: it is not granted in turn before a time."""
        self._withdraw(entry)
        entry.deferred = True
        entry.ticket = ticket = next(self.tickets)
        heappush(self.deferred, (until, ticket, entry))

    def undefer(self, now: float) -> None:
        """Ends what was put off until now."""
        deferred = self.deferred
        while deferred and (deferred[0][0] <= now or deferred[0][1] != deferred[0][2].ticket):
            _, ticket, entry = heappop(deferred)
            if ticket == entry.ticket:
                entry.deferred = False
                self._put(entry)
            else:
                self.stale -= 1

    def resumes_at(self) -> float:
        """When somebody can be granted who cannot now; `inf`: nobody is put off."""
        self.undefer(-inf)
        if not self.deferred:
            return inf
        oldest: Entry = self.line.newer
        return min(self.deferred[0][0], oldest.ready_since + self.max_wait_s)

    def grant(self, entry: Entry, turn: Turn) -> None:
        """Takes out the entry that runs from now on."""
        self.take(entry)
        self.running = entry
        self.calm = self.turn is _OVERDUE
        self.begin_slice(entry, turn)

    def hand_over(self, entry: Entry, to: Entry, turn: Turn) -> None:
        """The running entry joins the ready, and another goes: `push` and `grant`, with one operation on
        their heap where `to` is its first. Neither has a batch."""
        lane = to.lane
        assert lane is not None
        heap = lane.background if to.background else lane.foreground
        if (
            lane is not entry.lane
            or entry.background is not to.background
            or to.deferred
            or heap[0][2] is not to
        ):
            self.push(entry)
            self.grant(to, turn)
            return
        # Nothing is counted: one comes, one goes. The first of a heap is always valid once it was looked at.
        entry.ticket = ticket = next(self.tickets)
        heapreplace(heap, (entry.key, ticket, entry))
        line = self.line
        to.older.newer = newer = to.newer
        newer.older = to.older
        to.older = to.newer = None
        entry.newer = line
        entry.older = newest = line.older
        line.older = newest.newer = entry
        to.ticket = 0
        to.expedited = False
        self.running = to
        self.calm = self.turn is _OVERDUE
        to.turn = self.turn = turn
        self.used_s = 0.0
        if turn is _POLICY and lane.vtime > self.vtime:
            self.vtime = lane.vtime

    def rekey(self, entry: Entry, key: Any, *, background: bool) -> None:
        """Gives a ready entry another key or level; it has still waited as long as it has."""
        self._withdraw(entry)
        entry.background = background
        entry.key = key
        self._put(entry)

    def _withdraw(self, entry: Entry) -> None:
        """Makes the item of a ready entry invalid."""
        entry.ticket = 0
        if entry.deferred:
            entry.deferred = False
        else:
            if entry.background:
                self.background_count -= 1
            if entry.batch is not None:
                self._leave_crowd(entry, entry.batch)
        self.stale += 1
        if self.stale > self.count + 64:
            self._compact()

    def take(self, entry: Entry) -> None:
        """Takes a ready entry out, wherever it stands; its item stays behind."""
        self.count -= 1
        entry.older.newer = newer = entry.newer
        newer.older = entry.older
        entry.older = entry.newer = None
        entry.expedited = False
        self._withdraw(entry)

    def begin_slice(self, entry: Entry, turn: Turn) -> None:
        """The running entry begins a slice."""
        entry.turn = self.turn = turn
        self.used_s = 0.0
        lane = entry.lane
        if turn is _POLICY and lane is not None and lane.vtime > self.vtime:
            self.vtime = lane.vtime

    def rebuild(self, put_off: Mapping[Entry, float]) -> None:
        """Fills the heaps again from the ready entries and their keys. `put_off`: until when some are."""
        heaps = [self.deferred]
        for lane in self.lanes.values():
            heaps += lane.foreground, lane.background
        for heap in heaps:
            heap.clear()
        self.crowds.clear()
        self.stale = 0
        self.background_count = 0
        for entry in self:
            entry.ticket = ticket = next(self.tickets)
            until = put_off.get(entry)
            entry.deferred = until is not None
            if until is not None:
                self.deferred.append((until, ticket, entry))
                continue
            own = entry.lane
            assert own is not None
            self.background_count += entry.background
            (own.background if entry.background else own.foreground).append((entry.key, ticket, entry))
            if entry.batch is not None:
                self._join_crowd(entry, entry.batch)
        for heap in heaps:
            heapify(heap)

    def pick(self, now: float) -> tuple[Entry, Turn] | None:
        """Who would be granted the device now, and why; nobody is taken out."""
        if self.expedited:
            expedited = self.first_expedited()
            if expedited is not None:
                return expedited, _EXPEDITED
        if now >= self.due_at and self.turn is not _OVERDUE:
            overdue = self.overdue(now)
            if overdue is not None:
                return overdue, _OVERDUE
        if self.deferred:
            self.undefer(now)
        head = self.head()
        if head is None:  # all there are may be put off, but not for ever, even right after an overdue one
            overdue = self.overdue(now)
            return None if overdue is None else (overdue, _OVERDUE)
        if self.background_owed_s > 0.0 and not head.background and self.owes_background():
            return self._background_head(), _SHARE
        return head, _POLICY

    def head(self) -> Entry | None:
        """The first by tenant and key alone."""
        lane = self.only_lane or self._next_lane()
        if lane is None:
            return None
        foreground, background = lane.foreground, lane.background
        while foreground:
            first = foreground[0]
            if first[1] == first[2].ticket:
                break
            heappop(foreground)
            self.stale -= 1
        while background:
            first = background[0]
            if first[1] == first[2].ticket:
                if not foreground or first < foreground[0]:
                    return first[2]
                break
            heappop(background)
            self.stale -= 1
        return foreground[0][2] if foreground else None

    def first_expedited(self) -> Entry | None:
        """Who was expedited first and still is."""
        while self.expedited and not self.expedited[0].expedited:
            self.expedited.popleft()
        return self.expedited[0] if self.expedited else None

    def overdue(self, now: float) -> Entry | None:
        """The entry that has waited longest, if that is longer than max_wait_s."""
        if now < self.due_at:
            return None
        if not self.count:
            self.due_at = now + self.max_wait_s
            return None
        oldest: Entry = self.line.newer
        self.due_at = oldest.ready_since + self.max_wait_s
        return oldest if now >= self.due_at else None

    def owes_background(self) -> bool:
        """Whether background waits and has received less than its share."""
        return self.background_owed_s > 0.0 and self.background_count > 0 and self.guaranteed_share > 0.0

    def compare_tenants(self, candidate: Entry, running: Entry) -> int:
        """1: the candidate's tenant goes before the running one's; -1: it does not; 0: ask the policy."""
        if (
            running.background
            and not candidate.background
            and self.background_owed_s > 0.0
            and self.guaranteed_share
        ):
            return -1  # background catches up
        mine, theirs = candidate.lane, running.lane
        if mine is theirs:
            return 0
        assert mine is not None
        assert theirs is not None
        mine_foreground = not candidate.background or self._live(mine.foreground)
        theirs_foreground = not running.background or self._live(theirs.foreground)
        if mine_foreground is not theirs_foreground:
            return 1 if mine_foreground else -1
        return (mine.vtime < theirs.vtime) - (mine.vtime > theirs.vtime)

    def charge(self, entry: Entry, seconds: float) -> None:
        """Books service: to the running entry, its slice, its tenant, and what background is owed."""
        self.used_s += seconds
        self.charge_rider(entry, seconds)

    def charge_rider(self, entry: Entry, seconds: float) -> None:
        """The same for one that runs along with it, in its slice."""
        entry.served_s += seconds
        lane = entry.lane
        assert lane is not None
        lane.vtime += seconds * lane.pace
        share = self.guaranteed_share
        owed = self.background_owed_s + share * seconds
        if entry.background:
            owed -= seconds
            if owed < -share * self.max_wait_s:
                owed = -share * self.max_wait_s
        elif owed > 0.0 and not self.background_count:
            owed = 0.0
        self.background_owed_s = owed

    def idle(self) -> None:
        """Nobody is ready or runs: the tenants start afresh, whatever they had before."""
        for lane in self.lanes.values():
            if lane.vtime > self.vtime:
                self.vtime = lane.vtime

    def _join_crowd(self, entry: Entry, batch: Batch) -> None:
        crowd = self.crowds.get(batch)
        if crowd is None:
            crowd = self.crowds[batch] = Crowd()
        crowd.where(entry)[entry] = None

    def _leave_crowd(self, entry: Entry, batch: Batch) -> None:
        crowd = self.crowds[batch]
        del crowd.where(entry)[entry]
        if not len(crowd):
            del self.crowds[batch]

    def _next_lane(self) -> Lane | None:
        """The tenant whose turn it is: with foreground work before those without, then by virtual time."""
        best: Lane | None = None
        best_is_foreground = False
        for lane in self.lanes.values():
            is_foreground = self._live(lane.foreground)
            if not is_foreground and not self._live(lane.background):
                continue
            if (
                best is None
                or is_foreground > best_is_foreground
                or (is_foreground is best_is_foreground and lane.vtime < best.vtime)
            ):
                best, best_is_foreground = lane, is_foreground
        return best

    def _background_head(self) -> Entry:
        lanes = [lane for lane in self.lanes.values() if self._live(lane.background)]
        return min(lanes, key=lambda lane: lane.vtime).background[0][2]

    def _live(self, heap: list[_Item]) -> bool:
        """Whether a heap holds a valid item; if so, it is on top."""
        while heap and heap[0][1] != heap[0][2].ticket:
            heappop(heap)
            self.stale -= 1
        return bool(heap)

    def _compact(self) -> None:
        """Throws out the invalid items, which outnumber the valid ones."""
        heaps = [heap for lane in self.lanes.values() for heap in (lane.foreground, lane.background)]
        for heap in (*heaps, self.deferred):
            heap[:] = [item for item in heap if item[1] == item[2].ticket]
            heapify(heap)
        self.stale = 0

    def _prune(self) -> None:
        """Forgets tenants that have no entries here and no service to their debit."""
        self.lanes = {
            lane.tenant: lane for lane in self.lanes.values() if lane.entries or lane.vtime > self.vtime
        }
        self.prune_at = max(16, 2 * len(self.lanes))
