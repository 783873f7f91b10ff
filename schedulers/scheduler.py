"""The scheduler: every decision about what runs next, and nothing else.

Pure: no threads, no clock, no input or output. Workers drive it under one lock, simulators and tests without
any; every call takes `now`. The order is the policy's (policy.py), which is kept at arm's length
(guarded.py); tenants, waiting limits and background's share are the queue's (ready.py); who rides in whose
launch, batch.py and boarding.py say; who gives way to whom, giving_way.py. Here are the transitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from math import inf
from typing import NoReturn

from coro_rt.schedulers.backlog import Backlog, backlog
from coro_rt.schedulers.batch import Batch, lets_go_on_s
from coro_rt.schedulers.boarding import board, companion, get_off, hand_over
from coro_rt.schedulers.choice import Choice, Work
from coro_rt.schedulers.ejection import Ejection
from coro_rt.schedulers.entry import Entry, Grant, State, Turn
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.explanation import Explanation, Known, explain
from coro_rt.schedulers.giving_way import gives_way, intruder, preempts, successor
from coro_rt.schedulers.guarded import GuardedPolicy
from coro_rt.schedulers.inheritance import check_circle, inherit, last_waited_for, link, release, unlink
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.ready import ReadyQueue
from coro_rt.schedulers.registry import PolicyLike, get_policy
from coro_rt.schedulers.upcoming import upcoming

# Looking up a member of an Enum takes as long as a call, so these are named once.
_NEW, _READY, _RUNNING = State.NEW, State.READY, State.RUNNING
_WAITING, _DONE = State.WAITING, State.DONE
_POLICY, _EXPEDITED, _OVERDUE = Turn.POLICY, Turn.EXPEDITED, Turn.OVERDUE
_COMPANION = Turn.COMPANION


class _Queues(dict[str, ReadyQueue]):
    """By the names of their devices."""

    def __missing__(self, device: str) -> NoReturn:
        raise SchedulerError(f"no device {device!r}; there are {sorted(self)}")


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
        self._max_wait_s = max_wait_s
        self._inheritance = inheritance
        self.placement = Placement() if placement is None else placement
        self._newcomer = Entry(0, name="newcomer")  # never submitted: see `backlog`
        self._tickets = count(1)
        self._queues = _Queues()
        self._entries: dict[Entry, None] = {}  # submitted and not done, in the order of submission
        self._policy = GuardedPolicy(
            get_policy(policy),
            self._entries,
            self._queues,
            background_share=background_share,
            on_ejected=on_ejected,
            timer=timer,
            budget_s=policy_budget_s,
        )
        for device in devices:
            self.add_device(device)

    def __len__(self) -> int:
        """How many entries are submitted and not done."""
        return len(self._entries)

    @property
    def policy(self) -> Policy:
        """The policy that decides now."""
        return self._policy.policy

    @property
    def power(self) -> PowerState | None:
        """What the machine runs on, as it was last said; None: nobody has."""
        return self._policy.power

    def add_device(self, device: str) -> None:
        """Opens a queue for one more device."""
        if device in self._queues:
            raise SchedulerError(f"there is a device {device!r} already")
        queue = ReadyQueue(device, weights=self._shares, max_wait_s=self._max_wait_s, tickets=self._tickets)
        self._policy.promise_share(queue)
        self._queues[device] = queue

    def ready(self, device: str) -> int:
        """How many entries are ready on a device."""
        return self._queues[device].count

    def resumes_at(self, device: str) -> float:
        """When to ask `next` again after it said None: somebody is put off until then; `inf`: nobody is."""
        return self._queues[device].resumes_at()

    def lets_go_on_s(self, device: str, now: float) -> float:
        """For how long whoever is next lets the launch under way go on, to ride in the one after it, before
        the worker is to ask `turn` again; `inf`: nobody waits for its end."""
        queue = self._queues[device]
        head, running = queue.head(), queue.running
        if head is None or running is None:
            return inf
        return lets_go_on_s(head, running, now) or inf

    # What the host and the workers call.

    def submit(self, entry: Entry, now: float) -> bool:
        """NEW to READY. True: the entry that runs on its device should give way to it."""
        queue = self._queues[entry.device]
        assert entry.state is _NEW, f"{entry!r} is submitted already"
        entry.state = _READY
        entry.submitted_at = now
        self._entries[entry] = None
        entry.lane = queue.lane(entry.tenant)
        entry.lane.entries += 1
        return self._enqueue(entry, now)

    def next(self, device: str, now: float) -> Grant | None:
        """READY to RUNNING: grants a free device to the entry that goes first; None if nobody is ready."""
        queue = self._queues[device]
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
        queue, policy = lane.queue, self._policy
        assert queue.running is entry, f"{entry!r} does not run"
        assert seconds >= 0.0, seconds
        if entry.aboard:
            self._charge_launch(queue, entry, seconds, now)
        else:
            queue.charge(entry, seconds)
            if policy.observes:
                policy.ran(entry, seconds, now)
        self.decisions += 1
        if queue.used_s >= policy.slice_s:
            picked = successor(queue, policy, entry, now)
            if picked is None:
                queue.begin_slice(entry, _POLICY)
                queue.calm = False
                return None
        else:
            decides = policy.policy
            picked = intruder(queue, policy, entry, now)
            if picked is None:
                return None
            self.preemptions += 1
            policy.renew(entry, now)
            if policy.policy is not decides:  # ejected meanwhile: its successor chooses
                picked = queue.pick(now) or picked
        entry.state = _READY
        other, turn = picked
        if entry.batch is not None or other.batch is not None:
            if entry.turn is _COMPANION and not entry.rows:
                entry.batch = None  # it was expected to bring a launch, and does something else
            queue.running = None
            queue.push(entry)
            return self._grant(queue, other, turn, now)
        queue.hand_over(entry, other, turn)
        return self._granted(queue, other, now)

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
        if self._policy.observes:
            self._policy.ran(entry, seconds, now)

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
        return last if queue.running is None or gives_way(queue, self._policy, last, now) else None

    def wake(self, entry: Entry, now: float) -> bool:
        """WAITING to READY, on the device that it names now; the inheriting ends. Returns like `submit`."""
        queue = self._queues[entry.device]
        assert entry.state is _WAITING, f"{entry!r} does not wait"
        entry.state = _READY
        if entry.aboard:
            get_off(entry)
            entry.rows = 0
        unlink(entry)
        assert entry.lane is not None
        entry.lane.entries -= 1
        entry.lane = queue.lane(entry.tenant)
        entry.lane.entries += 1
        return self._enqueue(entry, now)

    def move(self, entry: Entry, device: str, now: float) -> None:
        """A WAITING entry will wake on another device. SchedulerError if there is none of that name."""
        self._queues[device]  # there is one
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
        return hand_over(entry, now)

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
            if self._policy.on_done is not None:
                self._policy.done(entry, now)

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
        return gives_way(queue, self._policy, entry, now)

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
        entry.own_key = self._policy.key(entry, now)
        inherit(entry)
        if entry.deferred:
            entry.lane.queue.rekey(entry, entry.key, background=entry.background)
        last = last_waited_for(entry)
        if last.lane is None:
            return False
        queue = last.lane.queue
        if last.state is _READY:
            return gives_way(queue, self._policy, last, now)
        if last.state is _RUNNING and queue.turn is _POLICY:
            head = queue.head()
            return head is not None and preempts(queue, self._policy, head, last, now)
        return False

    def predict(self, entry: Entry, seconds_left: float, now: float) -> None:
        """How many device seconds an entry will still take. Counts from its next key."""
        entry.predicted_seconds_left = seconds_left
        entry.predicted_at_s = entry.served_s

    def set_policy(self, policy: PolicyLike, now: float) -> None:
        """Changes the policy; every entry gets a new key. SchedulerError, and no change, for no policy."""
        self._policy.adopt(get_policy(policy), now)

    def set_power(self, state: PowerState, now: float) -> None:
        """What the machine runs on and how warm it is. A policy that listens is asked anew for all keys and
        whom it puts off, which takes some microseconds for each entry that is ready or waits for another."""
        if state == self._policy.power:
            return
        self.placement.set_power(state)
        self._policy.set_power(state, now)

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
        self.placement.fence(self._queues[device].name, reason)

    def readmit(self, device: str, now: float) -> None:
        """`place` chooses a device again."""
        self.placement.readmit(self._queues[device].name)

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
        queue = self._queues[device]
        if queue.running is None and not queue.count:
            return Backlog(device, slice_s=self._policy.slice_s)
        newcomer = self._newcomer
        newcomer.qos = newcomer.effective_qos = qos
        newcomer.background = qos is QoS.BACKGROUND
        newcomer.deadline = deadline
        newcomer.tenant = tenant
        newcomer.predicted_seconds_left = expected_s
        newcomer.ready_since = newcomer.submitted_at = now
        newcomer.lane = queue.lane(tenant)
        policy = self._policy
        key, slice_s = policy.policy.key, policy.slice_s
        by_service = policy.on_ran is not None
        try:
            newcomer.key = key(newcomer, now)
            return backlog(queue, newcomer, now, key, slice_s, without, by_service=by_service)
        except Exception:  # of a policy of somebody's own; it is noticed when it decides
            return backlog(queue, newcomer, now, key, slice_s, without, by_service=True)

    def explain(self, entry: Entry, now: float, known: Known = Known()) -> Explanation:  # noqa: B008 (frozen)
        """Why an entry waits or runs, who goes before it, and, as far as it is known, who ran instead."""
        queue, policy = self._queues[entry.device], self._policy
        return explain(entry, queue, policy=policy.policy.name, slice_s=policy.slice_s, now=now, known=known)

    def running(self, device: str) -> Entry | None:
        """Who has a device."""
        return self._queues[device].running

    def upcoming(self, device: str, now: float, limit: int) -> list[Entry]:
        """At most `limit` ready entries of a device in the order in which they would be granted, in bounded
        time: see upcoming.py."""
        return upcoming(self._queues[device], now, slice_s=self._policy.slice_s, limit=limit)

    # Transitions.

    def _enqueue(self, entry: Entry, now: float) -> bool:
        """Puts an entry that has become READY into its queue. Returns like `submit`."""
        policy = self._policy
        if policy.on_ready is not None:
            policy.ready(entry, now)
        policy.renew(entry, now)
        lane = entry.lane
        assert lane is not None
        lane.queue.push(entry)
        if policy.defer_until is not None and not entry.waiters:
            until = policy.put_off_until(entry, now)
            if until is not None:
                lane.queue.defer(entry, until)
                return False
        return gives_way(lane.queue, policy, entry, now)

    def _grant(self, queue: ReadyQueue, entry: Entry, turn: Turn, now: float) -> Grant:
        """READY to RUNNING, for the entry that was picked, or for one that it takes along then."""
        begins = entry.rows > 0 and not entry.aboard and turn is not _EXPEDITED
        if begins:
            before = companion(queue, entry, now)
            if before is not None:
                entry, turn, begins = before, _COMPANION, False
        queue.grant(entry, turn)
        if begins:
            self._board(queue, entry, now)
        elif turn is _COMPANION and entry.aboard:
            queue.turn = _POLICY  # to end a launch it gives way like anybody; to bring one it keeps a slice
        return self._granted(queue, entry, now)

    def _granted(self, queue: ReadyQueue, entry: Entry, now: float) -> Grant:
        """READY to RUNNING, for an entry that its queue has let go."""
        policy = self._policy
        if policy.judges and queue.turn is _OVERDUE and queue.only_lane is not None:
            policy.judge(queue, entry, now)
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
        if grant is None or grant.slice_s != policy.slice_s:
            entry.grant = grant = Grant(entry, policy.slice_s)
        return grant

    def _leave_device(self, entry: Entry) -> None:
        assert entry.lane is not None, f"{entry!r} does not run"
        assert entry.lane.queue.running is entry, f"{entry!r} does not run"
        entry.lane.queue.running = None

    # Launches that run as one.

    def _board(self, queue: ReadyQueue, leader: Entry, now: float) -> None:
        """A RUNNING entry begins its launch, with those others that may ride in it."""
        board(queue, leader, now)
        self.joint_launches += bool(leader.riders)
        self.rides += len(leader.riders)

    def _charge_launch(self, queue: ReadyQueue, leader: Entry, seconds: float, now: float) -> None:
        leader.spent_s += seconds
        queue.used_s += seconds
        each_s = seconds / (leader.aboard + sum(rider.aboard for rider in leader.riders))
        for entry in (leader, *leader.riders):
            queue.charge_rider(entry, each_s * entry.aboard)
            if self._policy.observes:
                self._policy.ran(entry, each_s * entry.aboard, now)
