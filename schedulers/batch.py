"""Batches: launches that may run as one, and how many rows each brings to it.

A launch of a model's step costs little more with the rows of several sequences than with one's: the weights
are read once. So launches that name the same `Batch` may run as one; one entry leads, the others ride. How
far that goes is said by whoever has the least patience:

- Among the most urgent of those who are there, a launch may take as long as they have patience for; where a
  single row takes longer than that, twice as long as one, as nothing else would be sooner.
- The less urgent may ride as long as they cost the urgent no more than STRETCH of the time of a single row,
  and not with a prompt of theirs, because its end, the first token, is what they wait for.
- Who brings a single row (a token to be written) goes before who brings many (a prompt to be read), and what
  room is left is filled with a part of the many. (Agrawal et al., "Taming throughput-latency tradeoff in LLM
  inference with Sarathi-Serve", 2024.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.qos import QoS

PATIENCE_S = (inf, 0.2, 0.05, 0.03, 0.02)
"""By QoS, BACKGROUND first: the longest launch to share with equals, and to wait for to ride in the next."""

URGENT_S = 0.0005  # the same for USER_INTERACTIVE behind the less urgent: what a suspension costs at most
STRETCH = 0.3  # of the time of a single row: what less urgent company may cost a launch
NEAR_S = 1.0  # whoever has less than this to spare before its deadline is as urgent as anybody


class Batch:
    """What launches that may run as one have in common; one object for each model. Subclass it for the cost.

    `rows` and `members` are the most that one launch holds. The cost is fixed, unless `learn` changes it.
    """

    rows = 128
    members = 32

    def seconds(self, rows: int) -> float:
        """What a launch of so many rows takes, as far as is known; more than 0, and no less for more rows."""
        raise NotImplementedError

    def learn(self, rows: int, seconds: float) -> None:
        """A launch of so many rows took so long. By `Scheduler.learn` alone, as decisions depend on it."""

    def rows_within(self, seconds: float) -> int:
        """The most rows whose launch takes no longer; 0 if one row does."""
        low, high = 0, self.rows
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


class KnownCosts(Batch):
    """A batch whose launches take as long as a table says, for 1 row, 2, and so on up to the most."""

    def __init__(self, costs: Sequence[float], members: int = Batch.members) -> None:
        self.rows = len(costs)
        self.members = members
        self._costs = tuple(costs)

    def seconds(self, rows: int) -> float:
        return self._costs[min(rows, self.rows) - 1]


class Crowd:
    """The ready entries of one batch on one device, by what they wait for."""

    __slots__ = ("between", "pending", "suspended")

    def __init__(self) -> None:
        self.between: dict[Entry, None] = {}  # a step of their code is likely to bring the next launch
        self.pending: dict[Entry, None] = {}  # with a launch that has not begun
        self.suspended: dict[Entry, None] = {}  # with one that has, as its leader

    def __len__(self) -> int:
        return len(self.between) + len(self.pending) + len(self.suspended)

    def where(self, entry: Entry) -> dict[Entry, None]:
        """Which of the three holds an entry."""
        if entry.aboard:
            return self.suspended
        return self.pending if entry.rows else self.between


def patience_s(entry: Entry, now: float) -> float:
    """How long a launch may take that an entry is to be part of."""
    if entry.deadline - entry.predicted_seconds_left - now < NEAR_S:
        return PATIENCE_S[QoS.USER_INTERACTIVE]
    return PATIENCE_S[entry.effective_qos]


def lets_go_on_s(candidate: Entry, running: Entry, now: float) -> float:
    """For how long an entry had better let a launch under way go on, to ride in the next one; 0: not at all.

    It does if the rest is shorter than it has patience for. Once a launch has taken longer than was expected
    by as much, nobody knows how long it will take.
    """
    batch = candidate.batch
    if batch is None or not running.aboard or running.batch is not batch or candidate.aboard:
        return 0.0
    patience = patience_s(candidate, now)
    if patience <= PATIENCE_S[QoS.USER_INTERACTIVE] < patience_s(running, now):
        patience = URGENT_S
    return patience if -patience <= running.expected_s - running.spent_s <= patience else 0.0


def waits_for(candidate: Entry, running: Entry, now: float) -> bool:
    """Whether an entry lets a launch under way go on."""
    return lets_go_on_s(candidate, running, now) > 0.0


def seats(leader: Entry, rider: Entry, now: float) -> int:
    """How many single rows like the rider's could ride in a launch, at most."""
    batch = leader.batch
    assert batch is not None
    patience = patience_s(leader, now)
    if patience_s(rider, now) <= patience:
        room = _rows_for(batch, patience) - 1
    elif leader.rows == 1:
        room = batch.rows_within(_stretched_s(batch, 1)) - 1
    else:
        room = 0
    return min(room, batch.members - 1)


def _rows_for(batch: Batch, patience: float) -> int:
    """The rows of a launch that somebody has so much patience for."""
    single_s = batch.seconds(1)
    return batch.rows_within(patience if patience >= single_s else 2 * single_s)


def _stretched_s(batch: Batch, rows: int) -> float:
    """What a launch of so many urgent rows may take for the sake of less urgent company."""
    return batch.seconds(rows) + STRETCH * batch.seconds(1)


def fill(leader: Entry, others: Iterable[Entry], now: float) -> dict[Entry, int]:
    """The members of a launch, with the rows of each; the leader has one at least.

    `others` have launches of the same batch that have not begun.
    """
    batch = leader.batch
    assert batch is not None
    patience = {entry: patience_s(entry, now) for entry in (leader, *others)}
    tightest = min(patience.values())

    def order(entry: Entry) -> tuple[object, ...]:
        assert entry.lane is not None
        less_urgent = patience[entry] > tightest
        place = entry.background, entry.lane.vtime, entry.key, entry.ticket
        return less_urgent, entry.rows > 1, entry is not leader, *place

    members: dict[Entry, int] = {}
    total = 0
    room = batch.rows
    urgent = sum(1 for seconds in patience.values() if seconds == tightest)
    if urgent > 1:  # alone it takes what it wants
        room = min(room, _rows_for(batch, tightest))
    reads = False  # whether the urgent bring a prompt
    for place, entry in enumerate(sorted(patience, key=order)):
        if place == urgent:
            room = total if reads else min(batch.rows, batch.rows_within(_stretched_s(batch, total)))
        reads = reads or entry.rows > 1
        led = leader in members
        rows = min(entry.rows, room - total - (not led and entry is not leader))
        if entry is leader:
            rows = max(rows, 1)
        elif len(members) + (not led) >= batch.members:
            continue
        if rows > 0:
            members[entry] = rows
            total += rows
    return members
