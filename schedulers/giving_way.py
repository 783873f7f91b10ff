"""Giving way: who takes a device from whom.

A decision is made once a slice, `policy.slice_s`. Within its slice an entry gives way only to what its policy
says `preempts` it, to an expedited or to an overdue one; an entry granted out of turn keeps its slice, except
from an expedited one.
"""

from __future__ import annotations

from coro_rt.schedulers.batch import waits_for
from coro_rt.schedulers.entry import Entry, Turn
from coro_rt.schedulers.guarded import GuardedPolicy
from coro_rt.schedulers.ready import ReadyQueue

# Looking up a member of an Enum takes as long as a call, so these are named once.
_POLICY, _EXPEDITED, _OVERDUE, _SHARE = Turn.POLICY, Turn.EXPEDITED, Turn.OVERDUE, Turn.SHARE


def successor(
    queue: ReadyQueue, policy: GuardedPolicy, entry: Entry, now: float
) -> tuple[Entry, Turn] | None:
    """The slice is over: who goes before what the entry would be if it became ready now, and why."""
    policy.renew(entry, now)
    picked = queue.pick(now)
    if picked is None:
        return None
    other, turn = picked
    if turn is _EXPEDITED or turn is _OVERDUE:
        return picked
    if queue.background_owed_s > 0.0 and not entry.background and queue.owes_background():
        return other, _SHARE  # background it is: else `pick` had said so
    if other.batch is not None and waits_for(other, entry, now):
        return None
    same_lane = other.lane is entry.lane
    if not same_lane or entry.background:
        order = queue.compare_tenants(other, entry)
        if order:
            return picked if order > 0 else None
    return picked if same_lane and other.key < entry.key else None


def intruder(queue: ReadyQueue, policy: GuardedPolicy, entry: Entry, now: float) -> tuple[Entry, Turn] | None:
    """Within its slice: who takes the device from the entry, and why."""
    if queue.expedited:
        expedited = queue.first_expedited()
        if expedited is not None:
            return None if queue.turn is _EXPEDITED else (expedited, _EXPEDITED)
    if queue.turn is not _POLICY or not queue.count:
        return None
    if now >= queue.due_at and not queue.calm:
        overdue = queue.overdue(now)
        if overdue is not None:
            return overdue, _OVERDUE
    if queue.deferred:
        queue.undefer(now)
    head = queue.head()
    if head is None:
        return None
    return (head, _POLICY) if preempts(queue, policy, head, entry, now) else None


def gives_way(queue: ReadyQueue, policy: GuardedPolicy, candidate: Entry, now: float) -> bool:
    """Whether the running entry should give way to a READY one within its slice."""
    running = queue.running
    if running is None:
        return False
    if candidate.expedited:
        return queue.turn is not _EXPEDITED
    return queue.turn is _POLICY and preempts(queue, policy, candidate, running, now)


def preempts(queue: ReadyQueue, policy: GuardedPolicy, candidate: Entry, running: Entry, now: float) -> bool:
    """Whether a candidate takes the device from the running entry within its slice."""
    if candidate.batch is not None and waits_for(candidate, running, now):
        return False
    order = 0
    if candidate.lane is not running.lane or running.background:
        order = queue.compare_tenants(candidate, running)
    if order < 0:
        return False
    if order > 0 and running.background and not candidate.background:
        return True  # another tenant's foreground work
    if policy.on_preempts is not None:
        return policy.preempts(candidate, running, now)
    return bool(candidate.key < running.key)
