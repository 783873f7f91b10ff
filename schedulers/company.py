"""The company of those who write with one model on a device: they share its launches (batch.py), so together
they take as long as one of them does, in launches that are longer by their company.
"""

from __future__ import annotations

from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.entry import Entry

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

LOOKED_AT = 4  # entries of a queue that are looked at one by one

LEAST_S = 0.0005  # that somebody is thought to take who has said nothing, or said less than it was


def writes(entry: Entry) -> bool:
    """Whether an entry's launches are single rows, that others may ride with."""
    return entry.brought == 1 and entry.batch is not None and entry.batch.members > 1


class Together(NamedTuple):
    """Those who write with one model on a device: how many, what they have left to run together, what a
    launch for each takes, and how many times as long that is as a launch of one's own."""

    writers: int
    left_s: float
    launch_s: float
    stretch: float


def together(queue: ReadyQueue, batch: Batch, without: Entry | None) -> Together:
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
    writers = [entry for entry in looked if writes(entry)]
    count -= len(looked) - len(writers)
    most = min(batch.members, batch.rows)
    launches = ceil(count / most)
    launch_s = launches * batch.seconds(max(1, min(count, most)))
    stretch = launch_s / batch.seconds(1)
    longest_s = max([left(entry) for entry in writers if entry is not without], default=0.0)
    others = count - (without in writers)
    return Together(others, longest_s * stretch, launch_s, stretch)


def unseen_others(queue: ReadyQueue, seen: list[Entry], unseen: int) -> int:
    """How many of the unseen share no launches with somebody who was seen."""
    for batch in {entry.batch for entry in seen if writes(entry)}:
        assert batch is not None
        crowd = queue.crowds.get(batch, ())
        unseen -= len(crowd) - sum(entry.batch is batch for entry in seen)
    return max(0, unseen)


def left(entry: Entry) -> float:
    """The device seconds that an entry will still take, as far as anybody said."""
    left_s = entry.predicted_seconds_left - entry.served_s + entry.predicted_at_s
    return left_s if left_s > LEAST_S else LEAST_S  # a NaN prediction is none
