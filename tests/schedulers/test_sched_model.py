"""Random calls in any order that the contract allows, against a model that knows only the states."""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from coro_rt.schedulers import POLICIES, DeadlockError, Entry, PowerState, QoS, Scheduler, State

DEVICES = ("cpu", "sim")
times = st.floats(0, 0.01)


class Calls(RuleBasedStateMachine):
    """No entry is lost or runs twice; a device runs one at a time; what is done never comes back."""

    entries = Bundle("entries")

    @initialize(policy=st.sampled_from(sorted(POLICIES)), max_wait_s=st.sampled_from([0.02, 1e9]))
    def start(self, policy: str, max_wait_s: float) -> None:
        self.scheduler = Scheduler(policy, devices=DEVICES, max_wait_s=max_wait_s)
        self.state: dict[Entry, State] = {}
        self.expedited: set[Entry] = set()
        self.policy = policy
        self.may_be_overdue = max_wait_s < 1e9
        self.tenants = 1
        self.now = 0.0

    def on(self, device: str, state: State) -> list[Entry]:
        return [entry for entry, known in self.state.items() if known is state and entry.device == device]

    @rule(
        target=entries,
        dt=times,
        qos=st.sampled_from(QoS),
        device=st.sampled_from(DEVICES),
        tenant=st.sampled_from(["a", "a", "a", "b"]),
    )
    def submit(self, dt: float, qos: QoS, device: str, tenant: str) -> Entry:
        self.now += dt
        entry = Entry(len(self.state), qos=qos, device=device, tenant=tenant)
        self.tenants = max(self.tenants, 1 + (tenant == "b"))
        gives_way = self.scheduler.submit(entry, self.now)
        assert not gives_way or self.on(device, State.RUNNING)
        self.state[entry] = State.READY
        return entry

    @rule(device=st.sampled_from(DEVICES), dt=times)
    def next(self, device: str, dt: float) -> None:
        self.now += dt
        if self.on(device, State.RUNNING):
            return
        ready = self.on(device, State.READY)
        grant = self.scheduler.next(device, self.now)
        if grant is None:
            assert all(entry.deferred for entry in ready)
            assert bool(ready) == (self.scheduler.resumes_at(device) < inf)
            return
        entry = grant.entry
        assert entry in ready
        expedited = self.expedited & set(ready)
        if expedited:
            assert entry in expedited
            self.expedited.discard(entry)
        elif not self.may_be_overdue and self.tenants == 1 and not any(job.waiters for job in ready):
            if self.policy == "fifo":
                assert entry.submitted_at == min(job.submitted_at for job in ready)
            elif self.policy == "strict":
                assert (-entry.qos, entry.submitted_at) == min((-job.qos, job.submitted_at) for job in ready)
        self.state[entry] = State.RUNNING

    @rule(device=st.sampled_from(DEVICES), dt=times)
    def run(self, device: str, dt: float) -> None:
        for entry in self.on(device, State.RUNNING):
            self.now += dt
            served = entry.served_s
            grant = self.scheduler.turn(entry, dt, self.now)
            assert entry.served_s == served + dt
            if grant is not None:
                assert self.state[grant.entry] is State.READY
                assert grant.entry.device == device
                self.state[entry] = State.READY
                self.state[grant.entry] = State.RUNNING
                self.expedited.discard(grant.entry)

    @rule(device=st.sampled_from(DEVICES), on=st.one_of(st.none(), entries))
    def park(self, device: str, on: Entry | None) -> None:
        for entry in self.on(device, State.RUNNING):
            link, circle = on, False
            while link is not None:
                circle = circle or link is entry
                link = link.waits_on
            try:
                self.scheduler.park(entry, self.now, on=on)
            except DeadlockError:
                assert circle
            else:
                assert not circle
                self.state[entry] = State.WAITING

    @rule(entry=entries)
    def wake(self, entry: Entry) -> None:
        if self.state[entry] is State.WAITING:
            self.scheduler.wake(entry, self.now)
            self.state[entry] = State.READY

    @rule(entry=entries)
    def expedite(self, entry: Entry) -> None:
        if self.state[entry] in (State.READY, State.WAITING):
            self.scheduler.expedite(entry, self.now)
            self.state[entry] = State.READY
            self.expedited.add(entry)

    @rule(entry=entries)
    def done(self, entry: Entry) -> None:
        if self.state[entry] is State.RUNNING or (self.state[entry] is State.READY and not entry.started):
            self.scheduler.done(entry, self.now)
            self.state[entry] = State.DONE
            self.expedited.discard(entry)

    @rule(entry=entries, qos=st.sampled_from(QoS), within_s=st.one_of(st.none(), st.floats(-1, 1)))
    def set_qos(self, entry: Entry, qos: QoS, within_s: float | None) -> None:
        self.scheduler.set_qos(
            entry, self.now, qos=qos, deadline=None if within_s is None else self.now + within_s
        )

    @precondition(lambda self: len(self.state) > 3)
    @rule(policy=st.sampled_from(sorted(POLICIES)))
    def set_policy(self, policy: str) -> None:
        self.scheduler.set_policy(policy, self.now)
        self.policy = policy

    @rule(battery=st.one_of(st.none(), st.floats(0, 1)), charging=st.booleans(), thermal=st.floats(0, 1))
    def set_power(self, battery: float | None, charging: bool, thermal: float) -> None:
        self.scheduler.set_power(PowerState(battery, charging, thermal), self.now)

    @rule(entry=entries)
    def explain(self, entry: Entry) -> None:
        explanation = self.scheduler.explain(entry, self.now)
        assert entry.name in str(explanation)
        assert entry.name not in explanation.ahead

    @invariant()
    def the_scheduler_and_the_model_agree(self) -> None:
        for entry, state in self.state.items():
            assert entry.state is state
            assert (entry.ticket != 0) == (state is State.READY)
            highest = max([entry.qos, *(waiter.effective_qos for waiter in entry.waiters)])
            assert state is State.DONE or entry.effective_qos == highest
            assert state is State.DONE or entry.key == min([entry.own_key, *(w.key for w in entry.waiters)])
            assert entry.waits_on is None or (state is State.WAITING and entry in entry.waits_on.waiters)
        assert len(self.scheduler) == sum(state is not State.DONE for state in self.state.values())
        for device in DEVICES:
            assert self.scheduler.ready(device) == len(self.on(device, State.READY))
            assert len(self.on(device, State.RUNNING)) <= 1

    def teardown(self) -> None:
        """Whatever happened, everything can still be brought to its end."""
        for entry, state in self.state.items():
            if state is State.RUNNING:
                self.scheduler.done(entry, self.now)
            elif state in (State.WAITING, State.READY):
                self.scheduler.expedite(entry, self.now)  # also if the policy puts it off
        for device in DEVICES:
            while (grant := self.scheduler.next(device, self.now)) is not None:
                self.scheduler.done(grant.entry, self.now)
        assert len(self.scheduler) == 0


Calls.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestCalls = Calls.TestCase
