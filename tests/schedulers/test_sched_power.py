"""The power state: who hears of it, what `powersave` makes of it, and what a policy that fails at it does."""

from itertools import count, groupby
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_sim import Simulation

from coro_rt.schedulers import (
    Dynamic,
    Ejection,
    Entry,
    Policy,
    PowerChange,
    PowerSave,
    PowerState,
    QoS,
    Run,
    Scheduler,
    SchedulerError,
    Workload,
    WorkloadJob,
    simulate,
)

PLUGGED = PowerState()
UNPLUGGED = PowerState(battery=1.0, charging=False)
EMPTY = PowerState(battery=0.0, charging=False)
HOT = PowerState(thermal=0.5)
QUANTUM_S = 0.001


def started(scheduler: Scheduler, now: float) -> list[Entry]:
    """Who is granted the device, one after the other, each ending at once."""
    entries = []
    while (grant := scheduler.next("cpu", now)) is not None:
        entries.append(grant.entry)
        scheduler.done(grant.entry, now)
    return entries


class Listens(Policy):
    """First come, first served; on battery the other way round."""

    def __init__(self) -> None:
        self.heard: list[tuple[PowerState, float]] = []
        self.sign = 1.0

    def on_power(self, state: PowerState, now: float) -> None:
        self.heard.append((state, now))
        self.sign = 1.0 if state.charging else -1.0

    def key(self, job: Entry, now: float) -> float:
        return self.sign * job.id


class Raises(Listens):
    """Cannot bear a battery."""

    def on_power(self, state: PowerState, now: float) -> None:
        super().on_power(state, now)
        if not state.charging:
            raise OSError("no battery here")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"battery": 40}, "battery is a number from 0 to 1, or None, not 40"),
        ({"battery": True}, "battery is a number from 0 to 1, or None, not True"),
        ({"battery": float("nan")}, "battery is a number from 0 to 1, or None, not nan"),
        ({"charging": 1}, "charging is True or False, not 1"),
        ({"thermal": None}, "thermal is a number from 0 to 1, not None"),
        ({"thermal": -0.1}, "thermal is a number from 0 to 1, not -0.1"),
    ],
)
def test_a_state_that_cannot_be_is_an_error(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(SchedulerError, match=said):
        PowerState(**wrong)  # type: ignore[arg-type]


def test_a_policy_that_listens_hears_each_change_once_and_orders_all_anew() -> None:
    policy = Listens()
    scheduler = Scheduler(policy)
    entries = [Entry(i) for i in range(1, 4)]
    for entry in entries:
        scheduler.submit(entry, 0.0)
    scheduler.set_power(UNPLUGGED, 1.0)
    scheduler.set_power(UNPLUGGED, 2.0)
    assert policy.heard == [(UNPLUGGED, 1.0)]
    assert started(scheduler, 2.0) == entries[::-1]


def test_who_waits_for_nobody_gets_its_key_when_it_wakes() -> None:
    class Counts(Listens):
        asked = 0

        def key(self, job: Entry, now: float) -> float:
            self.asked += 1
            return super().key(job, now)

    policy = Counts()
    scheduler = Scheduler(policy)
    entries = [Entry(i) for i in range(1, 101)]
    for entry in entries[:-3]:
        scheduler.submit(entry, 0.0)
        assert scheduler.next("cpu", 0.0) is not None
        scheduler.park(entry, 0.0)
    waits, holds, ready = entries[-3:]
    for entry in (waits, holds, ready):
        scheduler.submit(entry, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.park(waits, 0.0, on=holds)
    policy.asked = 0
    scheduler.set_power(UNPLUGGED, 1.0)
    assert policy.asked == 3
    scheduler.wake(entries[50], 2.0)
    scheduler.wake(entries[40], 2.0)
    assert started(scheduler, 2.0) == [ready, holds, entries[50], entries[40]]


def test_a_policy_that_begins_later_hears_what_is_known() -> None:
    scheduler, before, after = Scheduler("fifo"), Listens(), Listens()
    scheduler.set_policy(before, 0.5)
    scheduler.set_power(EMPTY, 1.0)
    scheduler.set_policy(after, 2.0)
    assert (before.heard, after.heard) == ([(EMPTY, 1.0)], [(EMPTY, 2.0)])


@pytest.mark.parametrize("known", [False, True])
def test_a_policy_that_raises_at_it_is_ejected_and_all_jobs_finish(known: bool) -> None:
    ejections: list[Ejection] = []
    simulation = Simulation(Scheduler("fifo" if known else Raises, on_ejected=ejections.append))
    for i in range(10):
        simulation.job(0.01, at=0.001 * i, qos=QoS(i % 5))
    simulation.at(0.02, lambda: simulation.scheduler.set_power(EMPTY, simulation.now))
    simulation.at(0.03, lambda: simulation.scheduler.set_policy(Raises, simulation.now) if known else None)
    simulation.run()
    assert len(simulation.ended) == 10
    assert [(ejection.hook, ejection.entry, ejection.call) for ejection in ejections] == [
        ("on_power", None, "on_power")
    ]
    assert ejections[0].reason == "raised OSError: no battery here"
    assert isinstance(simulation.scheduler.policy, Dynamic)


def test_a_policy_that_takes_too_long_over_it_is_ejected() -> None:
    ticks, ejections = count(0.0, 1.0), list[Ejection]()
    scheduler = Scheduler(Listens(), on_ejected=ejections.append, timer=lambda: next(ticks))
    scheduler.set_power(EMPTY, 1.0)
    assert [(ejection.hook, ejection.entry) for ejection in ejections] == [("on_power", None)]


@pytest.mark.parametrize(
    ("state", "window_s"),
    [
        (PLUGGED, None),
        (PowerState(battery=0.1), None),
        (UNPLUGGED, 4.0),
        (PowerState(battery=0.5, charging=False), 6.0),
        (EMPTY, 8.0),
        (PowerState(charging=False), 8.0),
        (HOT, 4.0),
        (PowerState(battery=1.0, charging=False, thermal=0.25), 6.0),
    ],
)
def test_powersave_puts_background_off_for_longer_the_less_there_is(
    state: PowerState, window_s: float | None
) -> None:
    scheduler = Scheduler(PowerSave(window_s=8.0), max_wait_s=100.0)
    scheduler.set_power(state, 0.0)
    background, urgent = Entry(1, qos=QoS.BACKGROUND), Entry(2, qos=QoS.UTILITY)
    scheduler.submit(background, 1.0)
    scheduler.submit(urgent, 1.0)
    if window_s is None:
        assert started(scheduler, 1.0) == [urgent, background]
    else:
        assert started(scheduler, 1.0) == [urgent]
        assert scheduler.resumes_at("cpu") == window_s
        assert started(scheduler, window_s) == [background]


def test_what_was_put_off_is_decided_anew_when_the_state_changes() -> None:
    scheduler = Scheduler(PowerSave(window_s=8.0), max_wait_s=100.0)
    scheduler.set_power(EMPTY, 0.0)
    background = Entry(1, qos=QoS.BACKGROUND)
    scheduler.submit(background, 1.0)
    ends = []
    for now, state in enumerate([EMPTY, UNPLUGGED, PowerState(battery=0.5, charging=False)], start=1):
        scheduler.set_power(state, float(now))
        ends.append(scheduler.resumes_at("cpu"))
    assert ends == [8.0, 4.0, 6.0]
    scheduler.set_power(PLUGGED, 3.5)
    assert started(scheduler, 3.5) == [background]


def test_background_that_is_ready_and_has_not_begun_is_put_off_when_the_plug_is_drawn() -> None:
    scheduler = Scheduler(PowerSave(window_s=8.0), max_wait_s=100.0)
    scheduler.set_power(PLUGGED, 0.0)
    begun, other, helper = (Entry(i, qos=QoS.BACKGROUND) for i in range(3))
    for entry in (begun, other, helper):
        scheduler.submit(entry, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.park(begun, 0.0, on=helper)
    scheduler.set_power(EMPTY, 1.0)
    assert started(scheduler, 1.0) == [helper], "somebody waits for it"
    scheduler.wake(begun, 1.0)
    assert started(scheduler, 1.0) == [begun]
    assert scheduler.resumes_at("cpu") == 8.0


def test_a_job_that_is_put_off_may_leave_after_the_state_has_changed() -> None:
    scheduler = Scheduler(PowerSave(window_s=8.0))
    background = Entry(1, qos=QoS.BACKGROUND)
    scheduler.submit(background, 0.0)
    scheduler.set_power(UNPLUGGED, 1.0)
    scheduler.done(background, 1.0)
    assert scheduler.resumes_at("cpu") == inf
    assert started(scheduler, 10.0) == []


def test_on_external_power_and_cool_powersave_decides_as_dynamic_does() -> None:
    orders = []
    for policy in ("dynamic", "powersave"):
        scheduler = Scheduler(policy)
        scheduler.set_power(PLUGGED, 0.0)
        simulation = Simulation(scheduler, quantum_s=QUANTUM_S)
        for i in range(60):
            deadline = 0.1 * i + 0.3 if i % 7 == 0 else inf
            simulation.job(0.05, at=0.01 * i, qos=QoS(i % 5), name=f"job {i}", deadline=deadline)
        simulation.run()
        orders.append(simulation.order)
    assert orders[0] == orders[1]


def test_background_that_has_run_for_long_never_goes_before_a_fresh_question() -> None:
    simulation = Simulation(Scheduler(PowerSave(window_s=1.0), max_wait_s=inf), quantum_s=QUANTUM_S)
    simulation.job(qos=QoS.BACKGROUND)
    asks = [simulation.job(0.01, at=20.0 + 0.37 * i, qos=QoS.USER_INTERACTIVE) for i in range(100)]
    simulation.run(until=60.0)
    assert len(simulation.ended) == len(asks)
    assert max(entry.waited_s for entry in asks) <= 2 * QUANTUM_S


def test_what_was_put_off_runs_one_job_after_the_other_though_it_is_interrupted() -> None:
    simulation = Simulation(Scheduler(PowerSave(window_s=5.0), max_wait_s=inf), quantum_s=QUANTUM_S)
    names = [f"index {i}" for i in range(6)]
    for i, name in enumerate(names):
        simulation.job(0.5, at=0.1 * i, qos=QoS.BACKGROUND, name=name)
    for i in range(30):
        simulation.job(0.01, at=5.0 + 0.1 * i, qos=QoS.USER_INTERACTIVE, name="ask")
    simulation.run()
    ran = [name for name, _ in groupby(name for name in simulation.order if name != "ask")]
    assert ran == names
    assert simulation.order.count("ask") == 30


states = st.builds(
    PowerState,
    battery=st.one_of(st.none(), st.floats(0, 1)),
    charging=st.booleans(),
    thermal=st.floats(0, 1),
)


@settings(max_examples=100, deadline=None)
@given(
    workload=st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from([0.01, 0.3, inf]), st.sampled_from(QoS)),
        min_size=2,
        max_size=12,
    ),
    changes=st.lists(st.tuples(st.floats(0, 70), states), max_size=12),
    window_s=st.sampled_from([0.5, 20.0]),
)
def test_its_bound_holds_whatever_the_state_does_meanwhile(
    workload: list[tuple[float, float, QoS]], changes: list[tuple[float, PowerState]], window_s: float
) -> None:
    policy = PowerSave(window_s=window_s)
    policy.slice_s, quantum_s = 0.2, 0.1  # long ones, or the test would take long
    scheduler = Scheduler(policy, max_wait_s=inf, background_share=0.0)
    simulation = Simulation(scheduler, quantum_s=quantum_s)
    jobs = [simulation.job(work, at=at, qos=qos) for at, work, qos in workload]
    for at, state in changes:
        simulation.at(at, lambda state=state: scheduler.set_power(state, simulation.now))
    simulation.run(until=75.0)
    others, turn_s = len(jobs) - 1, policy.slice_s + quantum_s
    for entry, wait in [*simulation.waits, *((e, 75.0 - e.ready_since) for e in jobs if e.ticket)]:
        assert wait <= policy.bound_s(entry, others, turn_s)


# The simulator.


def background_job(at: float) -> WorkloadJob:
    return WorkloadJob("index", at, (Run(0.5),), QoS.BACKGROUND)


def test_a_workload_carries_changes_of_the_power_state() -> None:
    jobs = tuple(background_job(float(at)) for at in (1, 3, 12))
    power = (PowerChange(0.0, EMPTY), PowerChange(5.0, PLUGGED), PowerChange(10.0, UNPLUGGED))
    workload = Workload(jobs, power=power, max_wait_s=100.0)
    outcome = simulate(workload, PowerSave(window_s=8.0))
    assert [job.started_s for job in outcome.jobs] == pytest.approx([5.0, 5.002, 16.0])
    assert outcome == simulate(workload, PowerSave(window_s=8.0))
    assert [job.started_s for job in simulate(workload, "dynamic").jobs] == pytest.approx([1.0, 3.0, 12.0])


def test_a_policy_that_fails_at_a_change_is_reported_by_the_simulator() -> None:
    workload = Workload((background_job(1.0),), power=(PowerChange(0.0, EMPTY),))
    assert simulate(workload, Raises).ejected == "its on_power failed: raised OSError: no battery here"


def test_a_change_at_no_time_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="the power state changes at -1"):
        Workload((), power=(PowerChange(-1.0, EMPTY),))
