"""The scheduler: every decision about what runs next, and nothing else.

Pure: no threads, no clock, no input or output. Workers drive it under one lock, simulators and tests without
any; every call takes `now`. The order is the policy's (policy.py); tenants, waiting limits and background's
share are the queue's (ready.py); here are the transitions, inheritance, and what happens when a policy
misbehaves.

A decision is made once a slice, `policy.slice_s`. Within its slice an entry gives way only to what its policy
says `preempts` it, to an expedited or to an overdue one; an entry granted out of turn keeps its slice, except
from an expedited one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from math import inf
from typing import Any

from coro_rt.schedulers.backlog import Backlog, backlog
from coro_rt.schedulers.batch import Batch, fill, lets_go_on_s, patience_s, seats, waits_for
from coro_rt.schedulers.choice import Choice, Work
from coro_rt.schedulers.dynamic import Dynamic
from coro_rt.schedulers.ejection import Ejection, Stopwatch, TooSlow, key_kind
from coro_rt.schedulers.entry import Entry, Grant, State, Turn
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.explanation import Explanation, Known, explain
from coro_rt.schedulers.inheritance import (
    check_circle,
    inherit,
    inherit_keys,
    last_waited_for,
    link,
    release,
    unlink,
)
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.ready import ReadyQueue
from coro_rt.schedulers.registry import POLICIES, PolicyLike, get_policy
from coro_rt.schedulers.upcoming import upcoming

# Looking up a member of an Enum takes as long as a call, so these are named once.
_NEW, _READY, _RUNNING = State.NEW, State.READY, State.RUNNING
_WAITING, _DONE = State.WAITING, State.DONE
_POLICY, _EXPEDITED, _OVERDUE, _SHARE = Turn.POLICY, Turn.EXPEDITED, Turn.OVERDUE, Turn.SHARE
_COMPANION = Turn.COMPANION


class Scheduler:
    """Decides what runs on each device. Not thread-safe; a call takes log n steps for n ready entries.

    `shares` are the tenants' weights (1 where not given); `background_share` is background's part of each
    device while it has work; `on_ejected` is called in the middle of a decision, so it must not raise and not
    call the scheduler.

    With a `timer`, a policy that is not one of ours is ejected when a hundredth of its calls, and more than
    three, took longer than `policy_budget_s`, or one of them a hundred times as long; a single slow call is
    the machine's fault. Without `inheritance` nobody takes over the urgency of those who wait for it, and a
    circle is not noticed: only to see what that does.

    `placement` is what chooses devices, with what it knows from before.
    """

    def __init__(
        self,
        policy: PolicyLike = "dynamic",
        *,
        devices: Iterable[str] = ("cpu",),
        shares: Mapping[str, float] | None = None,
        background_share: float = 0.05,
        max_wait_s: float = 10.0,
        inheritance: bool = True,
        on_ejected: Callable[[Ejection], None] | None = None,
        timer: Callable[[], float] | None = None,
        policy_budget_s: float = 0.002,
        placement: Placement | None = None,
    ) -> None:
        for tenant, weight in (shares or {}).items():
            if not 0 < weight < inf:
                raise SchedulerError(
                    f"the share of tenant {tenant!r} is {weight!r}; it takes a positive number"
                )
        if not 0 <= background_share < 1:
            raise SchedulerError(f"background_share is {background_share!r}; it takes 0 <= share < 1")
        if not policy_budget_s > 0:
            raise SchedulerError(
                f"policy_budget_s is {policy_budget_s!r}; it takes a positive number of seconds"
            )
        if not max_wait_s > 0:
            raise SchedulerError(f"max_wait_s is {max_wait_s!r}; it takes a positive number of seconds")
        self.switches = 0  # grants of a device to another entry than the one before
        self.preemptions = 0  # entries that gave way before their slice was over
        self.decisions = 0  # calls of next and turn
        self.joint_launches = 0  # launches that somebody rode in
        self.rides = 0  # and how many did
        self._shares = dict(shares or {})
        self._background_share = background_share
        self._max_wait_s = max_wait_s
        self._inheritance = inheritance
        self._on_ejected = on_ejected
        self._timer = timer
        self._policy_budget_s = policy_budget_s
        self.placement = Placement() if placement is None else placement
        self._newcomer = Entry(0, name="newcomer")  # never submitted: see `backlog`
        self._tickets = count(1)
        self._queues: dict[str, ReadyQueue] = {}
        self._entries: dict[Entry, None] = {}  # submitted and not done, in the order of submission
        self._power: PowerState | None = None
        self._adopt(get_policy(policy), 0.0)
        for device in devices:
            self.add_device(device)

    def __len__(self) -> int:
        """How many entries are submitted and not done."""
        return len(self._entries)

    @property
    def policy(self) -> Policy:
        """The policy that decides now."""
        return self._policy

    @property
    def power(self) -> PowerState | None:
        """What the machine runs on, as it was last said; None: nobody has."""
        return self._power

    def add_device(self, device: str) -> None:
        """Opens a queue for one more device."""
        if device in self._queues:
            raise SchedulerError(f"there is a device {device!r} already")
        queue = ReadyQueue(device, weights=self._shares, max_wait_s=self._max_wait_s, tickets=self._tickets)
        self._promise_share(queue)
        self._queues[device] = queue

    def ready(self, device: str) -> int:
        """How many entries are ready on a device."""
        return self._queue(device).count

    def resumes_at(self, device: str) -> float:
        """When to ask `next` again after it said None: somebody is put off until then; `inf`: nobody is."""
        return self._queue(device).resumes_at()

    def lets_go_on_s(self, device: str, now: float) -> float:
        """For how long whoever is next lets the launch under way go on, to ride in the one after it, before
        the worker is to ask `turn` again; `inf`: nobody waits for its end."""
        queue = self._queue(device)
        head, running = queue.head(), queue.running
        if head is None or running is None:
            return inf
        return lets_go_on_s(head, running, now) or inf

    # What the host and the workers call.

    def submit(self, entry: Entry, now: float) -> bool:
        """NEW to READY. True: the entry that runs on its device should give way to it."""
        queue = self._queue(entry.device)
        assert entry.state is _NEW, f"{entry!r} is submitted already"
        entry.state = _READY
        entry.submitted_at = now
        self._entries[entry] = None
        entry.lane = queue.lane(entry.tenant)
        entry.lane.entries += 1
        return self._enqueue(entry, now)

    def next(self, device: str, now: float) -> Grant | None:
        """READY to RUNNING: grants a free device to the entry that goes first; None if nobody is ready."""
        queue = self._queue(device)
        assert queue.running is None, f"{queue.running!r} still runs on {device}"
        self.decisions += 1
        picked = queue.pick(now)
        if picked is None:
            queue.idle()
            return None
        entry, turn = picked
        return self._grant(queue, entry, turn, now)

    def turn(self, entry: Entry, seconds: float, now: float) -> Grant | None:
        """Accounts `seconds` to a RUNNING entry that could go on, and decides whether it does: then None.

        Otherwise it is READY again, and the grant names who runs instead. An entry that goes on although its
        slice is over has begun another one.
        """
        lane = entry.lane
        assert lane is not None
        queue = lane.queue
        assert queue.running is entry, f"{entry!r} does not run"
        assert seconds >= 0.0, seconds
        if entry.aboard:
            self._charge_launch(queue, entry, seconds, now)
        else:
            queue.charge(entry, seconds)
            if self._observes:
                self._observe(entry, seconds, now)
        self.decisions += 1
        if queue.used_s >= self._slice_s:
            picked = self._successor(queue, entry, now)
            if picked is None:
                queue.begin_slice(entry, _POLICY)
                queue.calm = False
                return None
        else:
            policy = self._policy
            picked = self._intruder(queue, entry, now)
            if picked is None:
                return None
            self.preemptions += 1
            self._renew(entry, now)
            if self._policy is not policy:  # ejected meanwhile: its successor chooses
                picked = queue.pick(now) or picked
        entry.state = _READY
        successor, turn = picked
        if entry.batch is not None or successor.batch is not None:
            if entry.turn is _COMPANION and not entry.rows:
                entry.batch = None  # it was expected to bring a launch, and does something else
            queue.running = None
            queue.push(entry)
            return self._grant(queue, successor, turn, now)
        queue.hand_over(entry, successor, turn)
        return self._granted(queue, successor, now)

    def ran(self, entry: Entry, seconds: float, now: float) -> None:
        """Accounts device seconds to a RUNNING entry that leaves the device next or whose launch is over; for
        others see `turn`. A launch's are shared out among those that it runs for, by their rows.
        """
        assert entry.state is _RUNNING, f"{entry!r} does not run"
        assert seconds >= 0.0, seconds
        assert entry.lane is not None
        if entry.aboard:
            self._charge_launch(entry.lane.queue, entry, seconds, now)
            return
        entry.lane.queue.charge(entry, seconds)
        if self._observes:
            self._observe(entry, seconds, now)

    def park(self, entry: Entry, now: float, *, on: Entry | None = None) -> Entry | None:
        """RUNNING to WAITING. `on` is the entry that it waits for, which inherits its urgency while it does.

        Returns whom it waits for in the end, if that is READY on another device that should take it up now:
        nobody runs there, or who does should give way. A WAITING entry may be parked again on somebody else:
        a lock was handed on. Raises DeadlockError, and changes nothing, if `on` waits for this entry already.
        """
        if not self._inheritance:
            on = None
        if on is not None:
            check_circle(entry, on)
        if entry.state is _WAITING:
            unlink(entry)
        else:
            self._leave_device(entry)
            entry.state = _WAITING
        if on is None or on.state is _DONE:
            return None
        link(entry, on)
        last = last_waited_for(on)
        if last.state is not _READY:
            return None
        assert last.lane is not None
        assert entry.lane is not None
        queue = last.lane.queue
        if queue is entry.lane.queue:  # whose worker is about to decide
            return None
        return last if queue.running is None or self._gives_way(queue, last, now) else None

    def wake(self, entry: Entry, now: float) -> bool:
        """WAITING to READY, on the device that it names now; the inheriting ends. Returns like `submit`."""
        queue = self._queue(entry.device)
        assert entry.state is _WAITING, f"{entry!r} does not wait"
        entry.state = _READY
        if entry.aboard:
            _get_off(entry)
            entry.rows = 0
        unlink(entry)
        assert entry.lane is not None
        entry.lane.entries -= 1
        entry.lane = queue.lane(entry.tenant)
        entry.lane.entries += 1
        return self._enqueue(entry, now)

    def move(self, entry: Entry, device: str, now: float) -> None:
        """A WAITING entry will wake on another device. SchedulerError if there is none of that name."""
        self._queue(device)
        assert entry.state is _WAITING, f"{entry!r} does not wait"
        entry.device = device

    def offer(self, entry: Entry, batch: Batch, rows: int, now: float) -> bool:
        """A RUNNING entry has a launch of so many rows, and others may ride in it. True: it begins it alone.

        False: it is READY, and others may go first, so that they can ride in it or it in theirs. It rides as
        WAITING for the one that leads, who inherits its urgency; a cancel may `expedite` it out of there.
        """
        assert rows > 0, rows
        assert entry.lane is not None
        queue = entry.lane.queue
        assert queue.running is entry, f"{entry!r} does not run"
        entry.batch, entry.rows, entry.brought = batch, rows, rows
        if batch not in queue.crowds:
            self._board(queue, entry, now)
            return True
        queue.running = None
        entry.state = _READY
        self._enqueue(entry, now)
        return False

    def alight(self, entry: Entry, now: float) -> tuple[Entry, ...]:
        """The launch of a RUNNING entry is over. Returns those who rode in it, now READY."""
        assert entry.state is _RUNNING, f"{entry!r} does not run"
        riders, entry.riders = entry.riders, ()
        for rider in riders:
            rider.rows = rider.aboard = 0
            self.wake(rider, now)
        entry.rows = entry.aboard = 0
        return riders

    def leave(self, entry: Entry, now: float) -> Entry | None:
        """A RUNNING entry gives up its launch, begun or not: it was cancelled. The most urgent of its riders
        leads now, READY, and is returned."""
        assert entry.state is _RUNNING, f"{entry!r} does not run"
        entry.rows = 0
        return self._hand_over(entry, now)

    def learn(self, batch: Batch, rows: int, seconds: float, now: float) -> None:
        """A launch of so many rows took so long: what its batch goes by from now on."""
        batch.learn(rows, seconds)

    def done(self, entry: Entry, now: float) -> None:
        """RUNNING to DONE; an entry that has not started may leave from NEW or READY.

        Whoever waits for it goes on waiting, for nobody: wake them.
        """
        assert entry.state is _RUNNING or not entry.started, (
            f"{entry!r} has started: expedite it, then let it run"
        )
        assert not entry.riders, f"{entry!r} leads a launch: alight, or leave it"
        if entry.state is _RUNNING:
            self._leave_device(entry)
        elif entry.state is _READY:
            assert entry.lane is not None
            entry.lane.queue.take(entry)
        known = entry.state is not _NEW
        entry.state = _DONE
        release(entry)
        entry.grant = entry.batch = None
        if known:
            del self._entries[entry]
            assert entry.lane is not None
            entry.lane.entries -= 1
            if self._on_done is not None:
                try:
                    self._on_done(entry, now)
                except Exception as error:
                    self._eject("on_done", entry, _raised(error), now)

    def expedite(self, entry: Entry, now: float) -> bool:
        """Serves a READY or WAITING entry next, once; a waiting one wakes. Returns like `submit`.

        An entry that runs already needs nothing: False.
        """
        if entry.state is _RUNNING:
            return False
        if entry.state is _WAITING:
            self.wake(entry, now)
        assert entry.state is _READY, f"{entry!r} cannot be expedited"
        assert entry.lane is not None
        queue = entry.lane.queue
        if not entry.expedited:
            entry.expedited = True
            queue.expedited.append(entry)
        return self._gives_way(queue, entry, now)

    def set_qos(
        self, entry: Entry, now: float, *, qos: QoS | None = None, deadline: float | None = None
    ) -> bool:
        """Changes how urgent an entry is, and whoever inherits from it. Returns like `submit`.

        For a RUNNING entry: whether it should itself give way now. For a WAITING one: the same of whom it
        waits for in the end.
        """
        if qos is not None:
            entry.qos = qos
        if deadline is not None:
            entry.deadline = deadline
        if entry.lane is None or entry.state is _DONE:
            return False
        entry.own_key = self._key_of(entry, now)
        inherit(entry)
        if entry.deferred:
            entry.lane.queue.rekey(entry, entry.key, background=entry.background)
        last = last_waited_for(entry)
        if last.lane is None:
            return False
        queue = last.lane.queue
        if last.state is _READY:
            return self._gives_way(queue, last, now)
        if last.state is _RUNNING and queue.turn is _POLICY:
            head = queue.head()
            return head is not None and self._preempts(queue, head, last, now)
        return False

    def predict(self, entry: Entry, seconds_left: float, now: float) -> None:
        """How many device seconds an entry will still take. Counts from its next key."""
        entry.predicted_seconds_left = seconds_left
        entry.predicted_at_s = entry.served_s

    def set_policy(self, policy: PolicyLike, now: float) -> None:
        """Changes the policy; every entry gets a new key. SchedulerError, and no change, for no policy."""
        self._adopt(get_policy(policy), now)

    def set_power(self, state: PowerState, now: float) -> None:
        """What the machine runs on and how warm it is. A policy that listens is asked anew for all keys and
        whom it puts off, which takes some microseconds for each entry that is ready or waits for another."""
        if state == self._power:
            return
        self._power = state
        self.placement.set_power(state)
        policy = self._policy
        guaranteed = policy.guarantees_background
        if self._on_power is None or not self._call_on_power(now):
            return
        if policy.guarantees_background is not guaranteed:
            for queue in self._queues.values():
                self._promise_share(queue)
        self._order_anew(policy, now, sleepers=False)

    # Where something runs.

    def place(
        self,
        work: Work,
        among: Iterable[str],
        now: float,
        *,
        qos: QoS = QoS.DEFAULT,
        deadline: float = inf,
        tenant: str = "default",
        without: Entry | None = None,
        at: str | None = None,
        moved_at: float = -inf,
    ) -> Choice:
        """Which of the devices `among` some work should run on, as things stand; moves nobody.

        `without`: who asks, if it has been submitted: it is in nobody's way. `at`: the device
        where the work is under way, and `moved_at` since when, if it was moved there. Raises SchedulerError
        if no device is left.
        """
        placement = self.placement
        backlogs = []
        for device in among:
            if device in placement.fenced:
                continue
            expected_s = work.expected_s
            if deadline < inf:
                expected_s = placement.predict(work, device) or expected_s
            found = self.backlog(
                device, now, qos=qos, deadline=deadline, tenant=tenant, expected_s=expected_s, without=without
            )
            backlogs.append(found)
        return placement.choose(work, backlogs, now, qos=qos, deadline=deadline, at=at, moved_at=moved_at)

    def measured(
        self, work: Work, device: str, seconds: float, now: float, *, joules: float | None = None
    ) -> None:
        """Some work took so many seconds on a device: what `place` goes by from now on. Raises
        SchedulerError for what cannot be."""
        beside = sum([queue.running is not None for name, queue in self._queues.items() if name != device])
        self.placement.ran(work, device, seconds, now, joules, beside=beside)

    def fence(self, device: str, reason: str, now: float) -> None:
        """`place` does not choose a device any more."""
        self.placement.fence(self._queue(device).name, reason)

    def readmit(self, device: str, now: float) -> None:
        """`place` chooses a device again."""
        self.placement.readmit(self._queue(device).name)

    def backlog(
        self,
        device: str,
        now: float,
        *,
        qos: QoS = QoS.DEFAULT,
        deadline: float = inf,
        tenant: str = "default",
        expected_s: float = 0.0,
        without: Entry | None = None,
    ) -> Backlog:
        """What somebody of such urgency would wait for who came to a device now. Changes nothing."""
        queue = self._queue(device)
        if queue.running is None and not queue.count:
            return Backlog(device, slice_s=self._slice_s)
        newcomer = self._newcomer
        newcomer.qos = newcomer.effective_qos = qos
        newcomer.background = qos is QoS.BACKGROUND
        newcomer.deadline = deadline
        newcomer.tenant = tenant
        newcomer.predicted_seconds_left = expected_s
        newcomer.ready_since = newcomer.submitted_at = now
        newcomer.lane = queue.lane(tenant)
        key = self._policy.key
        by_service = self._on_ran is not None
        try:
            newcomer.key = key(newcomer, now)
            return backlog(queue, newcomer, now, key, self._slice_s, without, by_service=by_service)
        except Exception:  # of a policy of somebody's own; it is noticed when it decides
            return backlog(queue, newcomer, now, key, self._slice_s, without, by_service=True)

    def explain(self, entry: Entry, now: float, known: Known = Known()) -> Explanation:  # noqa: B008 (frozen)
        """Why an entry waits or runs, who goes before it, and, as far as it is known, who ran instead."""
        queue = self._queue(entry.device)
        return explain(entry, queue, policy=self._policy.name, slice_s=self._slice_s, now=now, known=known)

    def running(self, device: str) -> Entry | None:
        """Who has a device."""
        return self._queue(device).running

    def upcoming(self, device: str, now: float, limit: int) -> list[Entry]:
        """At most `limit` ready entries of a device in the order in which they would be granted, in bounded
        time: see upcoming.py."""
        return upcoming(self._queue(device), now, slice_s=self._slice_s, limit=limit)

    # Transitions.

    def _queue(self, device: str) -> ReadyQueue:
        queue = self._queues.get(device)
        if queue is None:
            raise SchedulerError(f"no device {device!r}; there are {sorted(self._queues)}")
        return queue

    def _enqueue(self, entry: Entry, now: float) -> bool:
        """Puts an entry that has become READY into its queue. Returns like `submit`."""
        if self._on_ready is not None:
            self._call_on_ready(entry, now)
        self._renew(entry, now)
        lane = entry.lane
        assert lane is not None
        lane.queue.push(entry)
        if self._defer_until is not None and not entry.waiters:
            until = self._put_off_until(entry, now)
            if until is not None:
                lane.queue.defer(entry, until)
                return False
        return self._gives_way(lane.queue, entry, now)

    def _put_off_until(self, entry: Entry, now: float) -> float | None:
        """Until when the policy puts off a READY entry; None: it does not."""
        assert self._defer_until is not None
        try:
            until = self._defer_until(entry, now)
            later = bool(until > now)
        except Exception as error:
            self._eject("defer_until", entry, _raised(error), now)
            return None
        return until if later else None

    def _renew(self, entry: Entry, now: float) -> None:
        """Gives an entry the key of one that becomes ready now."""
        entry.ready_since = now
        entry.own_key = entry.key = self._key_of(entry, now)
        if entry.waiters or entry.effective_qos is not entry.qos:
            inherit(entry)

    def _grant(self, queue: ReadyQueue, entry: Entry, turn: Turn, now: float) -> Grant:
        """READY to RUNNING, for the entry that was picked, or for one that it takes along then."""
        begins = entry.rows > 0 and not entry.aboard and turn is not _EXPEDITED
        if begins:
            companion = self._companion(queue, entry, now)
            if companion is not None:
                entry, turn, begins = companion, _COMPANION, False
        queue.grant(entry, turn)
        if begins:
            self._board(queue, entry, now)
        elif turn is _COMPANION and entry.aboard:
            queue.turn = _POLICY  # to end a launch it gives way like anybody; to bring one it keeps a slice
        return self._granted(queue, entry, now)

    def _granted(self, queue: ReadyQueue, entry: Entry, now: float) -> Grant:
        """READY to RUNNING, for an entry that its queue has let go."""
        if self._judges and queue.turn is _OVERDUE and queue.only_lane is not None:
            self._judge(queue, entry, now)
        entry.state = _RUNNING
        if not entry.started:
            entry.started = True
            entry.started_at = now
        entry.waited_s += now - entry.ready_since
        entry.ready_since = now
        if queue.last is not entry:
            queue.last = entry
            entry.switches += 1
            self.switches += 1
        grant = entry.grant
        if grant is None or grant.slice_s != self._slice_s:
            entry.grant = grant = Grant(entry, self._slice_s)
        return grant

    def _leave_device(self, entry: Entry) -> None:
        assert entry.lane is not None, f"{entry!r} does not run"
        assert entry.lane.queue.running is entry, f"{entry!r} does not run"
        entry.lane.queue.running = None

    # Launches that run as one.

    def _companion(self, queue: ReadyQueue, leader: Entry, now: float) -> Entry | None:
        """Who is granted the device before a READY entry that is to begin a launch, so as to ride in it."""
        assert leader.batch is not None
        crowd = queue.crowds.get(leader.batch)
        if crowd is None:  # it is overdue, and was put off
            return None
        if crowd.between:
            companion = min(crowd.between, key=lambda entry: (patience_s(entry, now), entry.key))
            if len(crowd.pending) <= seats(leader, companion, now):
                return companion
        return next((other for other in crowd.suspended if waits_for(leader, other, now)), None)

    def _board(self, queue: ReadyQueue, leader: Entry, now: float) -> None:
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
                self._hand_over(rider, now)
            else:
                _get_off(rider)
                unlink(rider)
            rider.turn = Turn.RIDER
            link(rider, leader)
        for entry, rows in members.items():
            entry.aboard = rows
        leader.riders = tuple(riders)
        leader.spent_s = 0.0
        leader.expected_s = leader.batch.seconds(sum(members.values()))
        self.joint_launches += bool(riders)
        self.rides += len(riders)

    def _charge_launch(self, queue: ReadyQueue, leader: Entry, seconds: float, now: float) -> None:
        leader.spent_s += seconds
        queue.used_s += seconds
        each_s = seconds / (leader.aboard + sum(rider.aboard for rider in leader.riders))
        for entry in (leader, *leader.riders):
            queue.charge_rider(entry, each_s * entry.aboard)
            if self._observes:
                self._observe(entry, each_s * entry.aboard, now)

    def _hand_over(self, entry: Entry, now: float) -> Entry | None:
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

    # Who goes before whom.

    def _successor(self, queue: ReadyQueue, entry: Entry, now: float) -> tuple[Entry, Turn] | None:
        """The slice is over: who goes before what the entry would be if it became ready now, and why."""
        self._renew(entry, now)
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

    def _intruder(self, queue: ReadyQueue, entry: Entry, now: float) -> tuple[Entry, Turn] | None:
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
        return (head, _POLICY) if self._preempts(queue, head, entry, now) else None

    def _gives_way(self, queue: ReadyQueue, candidate: Entry, now: float) -> bool:
        """Whether the running entry should give way to a READY one within its slice."""
        running = queue.running
        if running is None:
            return False
        if candidate.expedited:
            return queue.turn is not _EXPEDITED
        return queue.turn is _POLICY and self._preempts(queue, candidate, running, now)

    def _preempts(self, queue: ReadyQueue, candidate: Entry, running: Entry, now: float) -> bool:
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
        if self._on_preempts is not None:
            try:
                answer = self._on_preempts(candidate, running, now)
            except Exception as error:
                self._eject("preempts", candidate, _raised(error), now)
            else:
                if answer is True or answer is False:
                    return answer
                self._eject("preempts", candidate, f"returned {answer!r}, not a bool", now)
        return bool(candidate.key < running.key)

    # The policy, at arm's length.

    def _adopt(self, policy: Policy, now: float) -> None:
        """Makes a policy decide, and gives every entry a key from it."""
        kind = type(policy)
        ours = kind in POLICIES.values()
        self._policy = policy
        self._slice_s = float(policy.slice_s)
        guard: Callable[[Any], Any] = _unguarded
        if not ours and self._timer is not None:
            guard = Stopwatch(self._timer, self._policy_budget_s).timed
        self._key = guard(policy.key)
        self._key_kind: type | None = None  # float or tuple, with the first key
        # Those that say nothing but the default are not asked.
        self._on_ready = guard(policy.on_ready) if kind.on_ready is not Policy.on_ready else None
        self._on_ran = guard(policy.on_ran) if kind.on_ran is not Policy.on_ran else None
        self._on_done = guard(policy.on_done) if kind.on_done is not Policy.on_done else None
        self._on_power = guard(policy.on_power) if kind.on_power is not Policy.on_power else None
        self._on_preempts = guard(policy.preempts) if kind.preempts is not Policy.preempts else None
        self._defer_until = guard(policy.defer_until) if kind.defer_until is not Policy.defer_until else None
        self._judges = policy.bounded and not ours  # the tests hold ours to their bounds
        self._observes = self._judges or self._on_ran is not None
        if self._power is not None and self._on_power is not None and not self._call_on_power(now):
            return  # ejected: its successor has done all this
        for queue in self._queues.values():
            self._promise_share(queue)
            for lane in queue.lanes.values():
                lane.clock = 0.0
        for entry in self._entries:
            entry.vtime = 0.0
        for entry in self._entries:
            if entry.ticket and self._on_ready is not None:
                self._call_on_ready(entry, now)
                if self._policy is not policy:
                    return
        self._order_anew(policy, now, sleepers=True)

    def _order_anew(self, policy: Policy, now: float, *, sleepers: bool) -> None:
        """Gives entries keys from their policy, and puts off those that it wants to. `sleepers`: also those
        that wait for no other entry, and have no use for a key until they wake with a new one; but keys of
        two policies cannot be compared."""
        for entry in self._entries:
            if not sleepers and entry.state is _WAITING and entry.waits_on is None:
                continue
            entry.own_key = entry.key = self._key_of(entry, now)
            if self._policy is not policy:
                return  # ejected on the way: its successor has done all this
        inherit_keys(self._entries)
        put_off: dict[Entry, float] = {}
        if self._defer_until is not None:
            for entry in self._entries:
                if entry.ticket and not entry.started and not entry.waiters:
                    until = self._put_off_until(entry, now)
                    if self._policy is not policy:
                        return  # as above
                    if until is not None:
                        put_off[entry] = until
        for queue in self._queues.values():
            queue.rebuild(put_off)

    def _promise_share(self, queue: ReadyQueue) -> None:
        queue.guaranteed_share = self._background_share if self._policy.guarantees_background else 0.0
        queue.background_owed_s = 0.0

    def _call_on_power(self, now: float) -> bool:
        """False: the policy was ejected for it."""
        assert self._on_power is not None
        try:
            self._on_power(self._power, now)
        except Exception as error:
            self._eject("on_power", None, _raised(error), now)
            return False
        return True

    def _call_on_ready(self, entry: Entry, now: float) -> None:
        assert self._on_ready is not None
        try:
            self._on_ready(entry, now)
        except Exception as error:
            self._eject("on_ready", entry, _raised(error), now)

    def _observe(self, entry: Entry, seconds: float, now: float) -> None:
        """The policy hears of service; if it is held to a bound, what that depends on is kept."""
        if self._judges:
            assert entry.lane is not None
            queue = entry.lane.queue
            queue.longest_turn_s = max(queue.longest_turn_s, queue.used_s)
            queue.peak = max(queue.peak, queue.count)
        if self._on_ran is not None:
            try:
                self._on_ran(entry, seconds, now)
            except Exception as error:
                self._eject("on_ran", entry, _raised(error), now)

    def _judge(self, queue: ReadyQueue, entry: Entry, now: float) -> None:
        """Ejects a bounded policy that let an entry become overdue, unless the crowd explains it."""
        waited = now - entry.ready_since
        turn_s = max(queue.longest_turn_s, self._slice_s)
        try:
            bound = self._policy.bound_s(entry, queue.peak, turn_s)
            kept = waited <= bound / (1.0 - queue.guaranteed_share)
        except Exception as error:
            self._eject("bound_s", entry, _raised(error), now)
            return
        if not kept:
            self._eject("bound_s", entry, f"let it wait {waited:.3f} s and promises at most {bound!r} s", now)

    def _key_of(self, entry: Entry, now: float) -> Any:
        """The policy's key, checked."""
        try:
            key = self._key(entry, now)
        except Exception as error:
            return self._ejected_key(entry, _raised(error), now)
        kind: type | None = type(key)
        if kind is not float or key != key:
            kind = key_kind(key)
            if kind is None:
                return self._ejected_key(entry, f"returned {key!r}, not a number or a tuple of numbers", now)
        if kind is not self._key_kind:
            if self._key_kind is not None:
                return self._ejected_key(entry, f"returned {key!r} after keys of the other shape", now)
            self._key_kind = kind
        return key

    def _ejected_key(self, entry: Entry, reason: str, now: float) -> Any:
        self._eject("key", entry, reason, now)
        return self._key(entry, now)

    def _eject(self, hook: str, entry: Entry | None, reason: str, now: float) -> None:
        """Puts `dynamic` in the place of a policy that broke its contract, and reports it."""
        ejected = self._policy
        if type(ejected) is Dynamic:  # one of the entry's fields is no number
            raise SchedulerError(f"{entry!r} has no place under dynamic: {hook} {reason}")
        self._adopt(Dynamic(), now)
        if self._on_ejected is not None:
            self._on_ejected(Ejection(ejected.name, hook, entry, reason, now))


def _get_off(rider: Entry) -> None:
    """A rider leaves the launch that it rides in, to be unlinked from its leader."""
    leader = rider.waits_on
    assert leader is not None
    leader.riders = tuple(other for other in leader.riders if other is not rider)
    rider.aboard = 0


def _raised(error: Exception) -> str:
    return str(error) if isinstance(error, TooSlow) else f"raised {type(error).__name__}: {error}"


def _unguarded(hook: Any) -> Any:
    return hook
