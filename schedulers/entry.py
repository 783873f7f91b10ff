"""An entry: the scheduler's view of a job. Urgency, service, whom it waits for; no code, no arrays.

Policies read entries (`job` in their methods); the scheduler alone changes them, and asserts each step:

    NEW -> READY -> RUNNING -> READY | WAITING | DONE,  WAITING -> READY,  NEW | READY (not started) -> DONE
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

from coro_rt.schedulers.qos import QoS

if TYPE_CHECKING:
    from coro_rt.schedulers.batch import Batch
    from coro_rt.schedulers.ready import Lane


class State(Enum):
    """Where an entry is."""

    NEW = "new"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"


class Turn(Enum):
    """Why an entry was granted the device."""

    POLICY = "the policy put it first"
    EXPEDITED = "it was expedited"
    OVERDUE = "it had waited longer than max_wait_s"
    SHARE = "background work had received less than its share"
    COMPANION = "whoever is next can take it along then"
    RIDER = "it rides in another one's launch"


# Looking up a member of an Enum takes as long as a call, so these are named once.
_NEW, _POLICY, _BACKGROUND = State.NEW, Turn.POLICY, QoS.BACKGROUND


class Entry:
    """One job as the scheduler sees it; equal only to itself.

    `deadline` is absolute, on the clock that `now` is read from. `ready_since` is when it last became ready
    or, while it runs, when its slice began. Seconds: `served_s` on the device, `waited_s` ready but not
    running. `switches` counts the grants that took the device over from another entry. `started_at` is when
    it was first granted its device: infinity before. `vtime` belongs to the policy.
    """

    __slots__ = (
        "aboard",
        "background",
        "batch",
        "brought",
        "deadline",
        "deferred",
        "device",
        "effective_qos",
        "expected_s",
        "expedited",
        "grant",
        "id",
        "key",
        "lane",
        "name",
        "newer",
        "older",
        "own_key",
        "predicted_at_s",
        "predicted_seconds_left",
        "qos",
        "ready_since",
        "riders",
        "rows",
        "served_s",
        "spent_s",
        "started",
        "started_at",
        "state",
        "submitted_at",
        "switches",
        "tenant",
        "ticket",
        "turn",
        "vtime",
        "waited_s",
        "waiters",
        "waits_on",
    )

    def __init__(
        self,
        id: int,
        name: str = "",
        qos: QoS = QoS.DEFAULT,
        deadline: float = inf,
        tenant: str = "default",
        device: str = "cpu",
        predicted_seconds_left: float = 0.0,
    ) -> None:
        self.id = id
        self.name = name or f"job-{id}"
        self.qos = qos
        self.deadline = deadline
        self.tenant = tenant
        self.device = device
        self.predicted_seconds_left = predicted_seconds_left
        self.predicted_at_s = 0.0  # what it had been served when that was said

        self.state = _NEW
        self.started = False  # has been granted the device at least once
        self.submitted_at = 0.0
        self.started_at = inf
        self.ready_since = 0.0
        self.served_s = 0.0
        self.waited_s = 0.0
        self.switches = 0
        self.vtime = 0.0
        self.turn = _POLICY  # why it was last granted the device

        self.waits_on: Entry | None = None
        # () or a dict: a set that keeps its order, so that decisions are reproducible. Made with the first.
        self.waiters: dict[Entry, None] | tuple[()] = ()
        # Any: a number or a tuple of numbers, but one shape per policy, so that any two keys compare.
        self.own_key: Any = 0.0  # what the policy said
        self.key: Any = 0.0  # the smallest of that and of the waiters' keys
        self.effective_qos = qos  # the highest of its own and of its waiters' levels
        self.background = qos is _BACKGROUND  # by the effective level

        # Launches that may run as one: see batch.py. `rows` without `aboard`: a launch that has not begun.
        self.batch: Batch | None = None  # of its last launch; the next is likely to be of the same
        self.rows = 0  # that its launch wants
        self.brought = 0  # the same of its last launch, or of this one: who writes brings one
        self.aboard = 0  # that it has in the launch under way, its own or one that it rides in
        self.riders: tuple[Entry, ...] = ()  # who rides in its launch
        self.expected_s = 0.0  # of its launch under way, and what was spent on it
        self.spent_s = 0.0

        # The queue's own: see ready.py.
        self.lane: Lane | None = None
        self.ticket = 0  # of its valid item in a heap; 0: none
        self.older: Any = None  # its neighbours among the ready, by how long they wait; None: not ready
        self.newer: Any = None
        self.deferred = False  # ready, but not to be granted in turn yet
        self.expedited = False
        self.grant: Grant | None = None  # made once, given again at every turn

    @property
    def label(self) -> str:
        """For people, as names repeat: "summarise #12"."""
        return self.name if self.name == f"job-{self.id}" else f"{self.name} #{self.id}"

    def __repr__(self) -> str:
        return f"<Entry {self.id} {self.name!r} {self.qos.name} {self.state.value}>"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a worker may run: `entry`, for `slice_s` seconds before it asks again.

    If the entry begins a launch with others, they are its `riders`.
    """

    entry: Entry
    slice_s: float
