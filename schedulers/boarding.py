"""Boarding: who gets on and off a launch that runs as one. Which of them may, and how many, batch.py says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coro_rt.schedulers.batch import fill, patience_s, seats, waits_for
from coro_rt.schedulers.entry import Entry, State, Turn
from coro_rt.schedulers.inheritance import link, unlink

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

# Looking up a member of an Enum takes as long as a call, so these are named once.
_READY, _WAITING = State.READY, State.WAITING


def companion(queue: ReadyQueue, leader: Entry, now: float) -> Entry | None:
    """Who is granted the device before a READY entry that is to begin a launch, so as to ride in it."""
    assert leader.batch is not None
    crowd = queue.crowds.get(leader.batch)
    if crowd is None:  # it is overdue, and was put off
        return None
    if crowd.between:
        first = min(crowd.between, key=lambda entry: (patience_s(entry, now), entry.key))
        if len(crowd.pending) <= seats(leader, first, now):
            return first
    return next((other for other in crowd.suspended if waits_for(leader, other, now)), None)


def board(queue: ReadyQueue, leader: Entry, now: float) -> None:
    """A RUNNING entry begins its launch, with those others that may ride in it."""
    assert leader.batch is not None
    crowd = queue.crowds.get(leader.batch)
    others: list[Entry] = []
    if crowd is not None:
        others += crowd.pending
        for other in crowd.suspended:
            # a single row of a suspended launch loses little by starting again
            others += (
                member
                for member in (*other.riders, other)
                if member.aboard == 1 and patience_s(leader, now) < patience_s(member, now)
            )
    members = fill(leader, others, now) if others else {leader: min(leader.rows, leader.batch.rows)}
    riders = [rider for rider in members if rider is not leader]
    for rider in riders:
        if rider.state is _READY:
            queue.take(rider)
            rider.waited_s += now - rider.ready_since
            rider.state = _WAITING
            hand_over(rider, now)
        else:
            get_off(rider)
            unlink(rider)
        rider.turn = Turn.RIDER
        link(rider, leader)
    for entry, rows in members.items():
        entry.aboard = rows
    leader.riders = tuple(riders)
    leader.spent_s = 0.0
    leader.expected_s = leader.batch.seconds(sum(members.values()))


def hand_over(entry: Entry, now: float) -> Entry | None:
    """An entry that is in no queue gives up its launch. Returns who leads it now, if it had riders."""
    riders, entry.riders = entry.riders, ()
    entry.aboard = 0
    if not riders:
        return None
    heir = min(riders, key=lambda rider: rider.key)
    for rider in riders:
        unlink(rider)
    heir.riders = tuple(rider for rider in riders if rider is not heir)
    heir.expected_s, heir.spent_s = entry.expected_s, entry.spent_s
    heir.state = _READY
    heir.ready_since = now
    assert heir.lane is not None
    heir.lane.queue.push(heir)  # with the key that it had, as if it had not ridden
    for rider in heir.riders:
        link(rider, heir)
    return heir


def get_off(rider: Entry) -> None:
    """A rider leaves the launch that it rides in, to be unlinked from its leader."""
    leader = rider.waits_on
    assert leader is not None
    leader.riders = tuple(other for other in leader.riders if other is not rider)
    rider.aboard = 0
