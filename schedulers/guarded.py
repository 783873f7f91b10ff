"""A policy at arm's length: what it answers is checked, and who breaks the contract of `Policy` is ejected.

`dynamic` takes over within the same call, so the call's own answer is good, and whoever compares keys or puts
somebody off afterwards goes by those of `dynamic`. Only a field of an entry that is no number is too much for
`dynamic` too: SchedulerError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from coro_rt.schedulers.dynamic import Dynamic
from coro_rt.schedulers.ejection import Ejection, Stopwatch, TooSlow, key_kind
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.inheritance import inherit, inherit_keys
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.registry import POLICIES

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import ReadyQueue

_WAITING = State.WAITING  # looking up a member of an Enum takes as long as a call


class GuardedPolicy:
    """The policy of a scheduler, whose `entries` and `queues` it sees as they are.

    The hooks are None where the policy says nothing but the default; ask for them here, and then call the
    method of this class that guards them: the scheduler saves a call.
    """

    __slots__ = (
        "_background_share",
        "_budget_s",
        "_entries",
        "_key",
        "_key_kind",
        "_on_ejected",
        "_queues",
        "_timer",
        "defer_until",
        "judges",
        "observes",
        "on_done",
        "on_power",
        "on_preempts",
        "on_ran",
        "on_ready",
        "policy",
        "power",
        "slice_s",
    )

    def __init__(
        self,
        policy: Policy,
        entries: Mapping[Entry, None],
        queues: Mapping[str, ReadyQueue],
        *,
        background_share: float,
        on_ejected: Callable[[Ejection], None] | None,
        timer: Callable[[], float] | None,
        budget_s: float,
    ) -> None:
        self._entries = entries
        self._queues = queues
        self._background_share = background_share
        self._on_ejected = on_ejected
        self._timer = timer
        self._budget_s = budget_s
        self.power: PowerState | None = None
        self.adopt(policy, 0.0)

    def adopt(self, policy: Policy, now: float) -> None:
        """Makes a policy decide, and gives every entry a key from it."""
        kind = type(policy)
        ours = kind in POLICIES.values()
        self.policy = policy
        self.slice_s = float(policy.slice_s)
        guard: Callable[[Any], Any] = _unguarded
        if not ours and self._timer is not None:
            guard = Stopwatch(self._timer, self._budget_s).timed
        self._key = guard(policy.key)
        self._key_kind: type | None = None  # float or tuple, with the first key
        # Those that say nothing but the default are not asked.
        self.on_ready = guard(policy.on_ready) if kind.on_ready is not Policy.on_ready else None
        self.on_ran = guard(policy.on_ran) if kind.on_ran is not Policy.on_ran else None
        self.on_done = guard(policy.on_done) if kind.on_done is not Policy.on_done else None
        self.on_power = guard(policy.on_power) if kind.on_power is not Policy.on_power else None
        self.on_preempts = guard(policy.preempts) if kind.preempts is not Policy.preempts else None
        self.defer_until = guard(policy.defer_until) if kind.defer_until is not Policy.defer_until else None
        self.judges = policy.bounded and not ours  # the tests hold ours to their bounds
        self.observes = self.judges or self.on_ran is not None
        if self.power is not None and self.on_power is not None and not self._tell_power(now):
            return  # ejected: its successor has done all this
        for queue in self._queues.values():
            self.promise_share(queue)
            for lane in queue.lanes.values():
                lane.clock = 0.0
        for entry in self._entries:
            entry.vtime = 0.0
        for entry in self._entries:
            if entry.ticket and self.on_ready is not None:
                self.ready(entry, now)
                if self.policy is not policy:
                    return
        self._order_anew(policy, now, sleepers=True)

    def set_power(self, state: PowerState, now: float) -> None:
        """What the machine runs on and how warm it is. A policy that listens is asked anew for all keys, and
        whom it puts off."""
        self.power = state
        policy = self.policy
        guaranteed = policy.guarantees_background
        if self.on_power is None or not self._tell_power(now):
            return
        if policy.guarantees_background is not guaranteed:
            for queue in self._queues.values():
                self.promise_share(queue)
        self._order_anew(policy, now, sleepers=False)

    def promise_share(self, queue: ReadyQueue) -> None:
        """Background has its share of a device if the policy wants that; what it was owed is forgotten."""
        queue.guaranteed_share = self._background_share if self.policy.guarantees_background else 0.0
        queue.background_owed_s = 0.0

    def renew(self, entry: Entry, now: float) -> None:
        """Gives an entry the key of one that becomes ready now."""
        entry.ready_since = now
        entry.own_key = entry.key = self.key(entry, now)
        if entry.waiters or entry.effective_qos is not entry.qos:
            inherit(entry)

    def key(self, entry: Entry, now: float) -> Any:
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

    def ready(self, entry: Entry, now: float) -> None:
        """The policy hears that an entry becomes ready. Only with `on_ready`."""
        assert self.on_ready is not None
        try:
            self.on_ready(entry, now)
        except Exception as error:
            self._eject("on_ready", entry, _raised(error), now)

    def put_off_until(self, entry: Entry, now: float) -> float | None:
        """Until when a READY entry is put off; None: it is not. Only with `defer_until`."""
        assert self.defer_until is not None
        try:
            until = self.defer_until(entry, now)
            later = bool(until > now)
        except Exception as error:
            self._eject("defer_until", entry, _raised(error), now)
            return None
        return until if later else None

    def preempts(self, candidate: Entry, running: Entry, now: float) -> bool:
        """Whether a candidate takes the device from the running entry within its slice. Only with
        `on_preempts`: else the smaller key does."""
        assert self.on_preempts is not None
        try:
            answer = self.on_preempts(candidate, running, now)
        except Exception as error:
            self._eject("preempts", candidate, _raised(error), now)
        else:
            if answer is True or answer is False:
                return answer
            self._eject("preempts", candidate, f"returned {answer!r}, not a bool", now)
        return bool(candidate.key < running.key)

    def ran(self, entry: Entry, seconds: float, now: float) -> None:
        """The policy hears of service; if it is held to a bound, what that depends on is kept. Only if
        `observes`."""
        if self.judges:
            assert entry.lane is not None
            queue = entry.lane.queue
            queue.longest_turn_s = max(queue.longest_turn_s, queue.used_s)
            queue.peak = max(queue.peak, queue.count)
        if self.on_ran is not None:
            try:
                self.on_ran(entry, seconds, now)
            except Exception as error:
                self._eject("on_ran", entry, _raised(error), now)

    def done(self, entry: Entry, now: float) -> None:
        """The policy hears that an entry has ended. Only with `on_done`."""
        assert self.on_done is not None
        try:
            self.on_done(entry, now)
        except Exception as error:
            self._eject("on_done", entry, _raised(error), now)

    def judge(self, queue: ReadyQueue, entry: Entry, now: float) -> None:
        """Ejects a bounded policy that let an entry become overdue, unless the crowd explains it. Only if
        `judges`."""
        waited = now - entry.ready_since
        turn_s = max(queue.longest_turn_s, self.slice_s)
        try:
            bound = self.policy.bound_s(entry, queue.peak, turn_s)
            kept = waited <= bound / (1.0 - queue.guaranteed_share)
        except Exception as error:
            self._eject("bound_s", entry, _raised(error), now)
            return
        if not kept:
            self._eject("bound_s", entry, f"let it wait {waited:.3f} s and promises at most {bound!r} s", now)

    def _order_anew(self, policy: Policy, now: float, *, sleepers: bool) -> None:
        """Gives entries keys from their policy, and puts off those that it wants to. `sleepers`: also those
        that wait for no other entry, and have no use for a key until they wake with a new one; but keys of
        two policies cannot be compared."""
        for entry in self._entries:
            if not sleepers and entry.state is _WAITING and entry.waits_on is None:
                continue
            entry.own_key = entry.key = self.key(entry, now)
            if self.policy is not policy:
                return  # ejected on the way: its successor has done all this
        inherit_keys(self._entries)
        put_off: dict[Entry, float] = {}
        if self.defer_until is not None:
            for entry in self._entries:
                if entry.ticket and not entry.started and not entry.waiters:
                    until = self.put_off_until(entry, now)
                    if self.policy is not policy:
                        return  # as above
                    if until is not None:
                        put_off[entry] = until
        for queue in self._queues.values():
            queue.rebuild(put_off)

    def _tell_power(self, now: float) -> bool:
        """False: the policy was ejected for it."""
        assert self.on_power is not None
        try:
            self.on_power(self.power, now)
        except Exception as error:
            self._eject("on_power", None, _raised(error), now)
            return False
        return True

    def _ejected_key(self, entry: Entry, reason: str, now: float) -> Any:
        self._eject("key", entry, reason, now)
        return self._key(entry, now)

    def _eject(self, hook: str, entry: Entry | None, reason: str, now: float) -> None:
        """Puts `dynamic` in the place of a policy that broke its contract, and reports it."""
        ejected = self.policy
        if type(ejected) is Dynamic:  # one of the entry's fields is no number
            raise SchedulerError(f"{entry!r} has no place under dynamic: {hook} {reason}")
        self.adopt(Dynamic(), now)
        if self._on_ejected is not None:
            self._on_ejected(Ejection(ejected.name, hook, entry, reason, now))


def _raised(error: Exception) -> str:
    return str(error) if isinstance(error, TooSlow) else f"raised {type(error).__name__}: {error}"


def _unguarded(hook: Any) -> Any:
    return hook
