"""What each policy's docstring says that it does."""

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_sim import Simulation, give_way

from coro_rt.schedulers import POLICIES, Eevdf, Entry, Laxity, Policy, PowerSave, QoS, Scheduler
from coro_rt.schedulers.laxity import STEP_S

SLICE_S, QUANTUM_S = Policy.slice_s, 0.001


def first_wait(simulation: Simulation, entry: Entry) -> float:
    """How long it waited for its first turn."""
    return next(wait for other, wait in simulation.waits if other is entry)


def test_eevdf_gives_everybody_the_same_and_the_urgent_ones_sooner() -> None:
    simulation = Simulation(Scheduler(Eevdf, max_wait_s=inf, background_share=0.0))
    crowd = [simulation.job(qos=qos) for qos in QoS for _ in range(4)]
    late = [simulation.job(qos=qos, at=1.0) for qos in (QoS.BACKGROUND, QoS.USER_INTERACTIVE)]
    simulation.run(until=11.0)
    for entry in crowd[:-4]:
        assert entry.served_s == pytest.approx(crowd[-1].served_s, rel=0.25)
    patient, urgent = (first_wait(simulation, entry) for entry in late)
    assert urgent < patient / 4


def test_mlfq_lets_a_short_answer_overtake_and_a_long_prompt_does_not_start_on_top() -> None:
    simulation = Simulation(Scheduler("mlfq"))
    old = simulation.job(1.0, name="old")
    short = simulation.job(0.01, at=0.5, name="short")
    long = simulation.job(0.1, at=0.5, name="long")
    long.predicted_seconds_left = 0.1
    medium = simulation.job(0.05, at=0.505, name="medium")
    simulation.run()
    assert simulation.ended == [short, medium, long, old]
    assert first_wait(simulation, long) > 0.02, "it joined below the others"
    assert simulation.scheduler.switches < 15


@pytest.mark.parametrize("prediction", [inf, float("nan"), -1.0, 1e300])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_prediction_can_break_a_policy_of_ours(policy: str, prediction: float) -> None:
    ejected: list[object] = []
    simulation = Simulation(Scheduler(policy, on_ejected=ejected.append))
    for deadline in (inf, 0.1, -inf):
        for qos in QoS:
            entry = simulation.job(0.01, qos=qos, deadline=deadline)
            entry.predicted_seconds_left = prediction
    simulation.run()
    assert len(simulation.ended) == 15
    assert not ejected


def test_edf_meets_what_can_be_met() -> None:
    simulation = Simulation(Scheduler("edf"))
    jobs = [simulation.job(0.02, deadline=0.01 + 0.02 * i, qos=QoS(i % 5)) for i in range(20, 0, -1)]
    ends: dict[Entry, float] = {}
    while len(simulation.ended) < len(jobs):
        simulation.run(until=simulation.now + QUANTUM_S)
        for entry in simulation.ended:
            ends.setdefault(entry, simulation.now)
    assert all(end <= entry.deadline + 1e-9 for entry, end in ends.items())


def test_under_edf_the_overload_of_one_tenant_stays_its_own() -> None:
    simulation = Simulation(Scheduler("edf"))
    flood = [simulation.job(0.05, tenant="flood", deadline=0.01 * i) for i in range(1000)]
    modest = [simulation.job(0.02, tenant="modest", at=0.1 * i, deadline=0.1 * i + 0.06) for i in range(20)]
    ends: dict[Entry, float] = {}
    while simulation.now < 2.1:
        simulation.run(until=simulation.now + QUANTUM_S)
        for entry in simulation.ended:
            ends.setdefault(entry, simulation.now)
    assert all(ends[entry] <= entry.deadline for entry in modest)
    assert sum(entry in ends and ends[entry] > entry.deadline for entry in flood) >= 10


def test_laxity_starts_the_longer_of_two_that_are_due_together() -> None:
    simulation = Simulation(Scheduler("laxity"))
    short, long = simulation.job(0.1, deadline=1.0), simulation.job(0.6, deadline=1.0)
    short.predicted_seconds_left, long.predicted_seconds_left = 0.1, 0.6
    simulation.run()
    assert simulation.ended[0] is long


@given(gains=st.lists(st.floats(0, 0.01), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_laxity_does_not_switch_at_every_look_between_equals(gains: list[float]) -> None:
    simulation = Simulation(Scheduler(Laxity, max_wait_s=inf))
    jobs = [simulation.job(0.2, deadline=10.0 + gain) for gain in gains]
    for entry in jobs:
        entry.predicted_seconds_left = 0.2
    while len(simulation.ended) < len(jobs):
        simulation.run(until=simulation.now + QUANTUM_S)
        for entry in jobs:
            entry.predicted_seconds_left = 0.2 - entry.served_s
    steps = sum(0.2 / STEP_S for _ in jobs)
    assert simulation.scheduler.switches <= steps + 2 * len(jobs), (
        "not once a slice, which would be five times"
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_equals_hand_the_device_over_once_a_slice_at_most(policy: str) -> None:
    simulation = Simulation(Scheduler(policy, max_wait_s=inf), quantum_s=0.0002)
    for i in range(5):
        simulation.job(inf, at=i * 0.0001)
    simulation.run(until=1.0)
    assert simulation.scheduler.preemptions == 0
    assert simulation.scheduler.switches <= 1.0 / SLICE_S + 5
    assert all(first != second for first, second in pairwise(simulation.order))


def test_powersave_puts_background_off_and_runs_it_together() -> None:
    simulation = Simulation(Scheduler(PowerSave(window_s=5.0), max_wait_s=60.0))
    background = [simulation.job(0.1, at=0.5 * i, qos=QoS.BACKGROUND, name=f"b{i}") for i in range(9)]
    urgent = simulation.job(0.1, at=1.0, qos=QoS.USER_INTERACTIVE, name="urgent")
    simulation.run(until=4.9)
    assert simulation.ended == [urgent], "the device was idle but for it"
    assert str(simulation.scheduler.explain(background[0], 4.9)).endswith("the policy puts it off.")
    assert simulation.scheduler.resumes_at("cpu") == 5.0
    simulation.run(until=6.0)
    assert simulation.ended == [urgent, *background], "one after the other"
    assert simulation.scheduler.switches == 10


def test_powersave_keeps_deadlines_and_the_longest_wait() -> None:
    simulation = Simulation(Scheduler(PowerSave(window_s=100.0), max_wait_s=10.0))
    due = simulation.job(0.1, qos=QoS.BACKGROUND, deadline=3.0)
    due.predicted_seconds_left = 0.1
    others = [simulation.job(0.1, qos=QoS.BACKGROUND, at=0.1 * i) for i in range(3)]
    simulation.run(until=3.0)
    assert simulation.ended == [due]
    assert 2.5 < due.waited_s < 3.0
    simulation.run()
    assert [entry.waited_s for entry in others] == pytest.approx([10.0] * 3, abs=0.2)


def test_powersave_puts_nobody_off_who_is_waited_for_expedited_or_made_urgent() -> None:
    scheduler = Scheduler(PowerSave(window_s=5.0))
    held, expedited, raised, left = (Entry(i, qos=QoS.BACKGROUND) for i in range(4))
    urgent = Entry(9, qos=QoS.USER_INTERACTIVE)
    for entry in (held, expedited, raised, left, urgent):
        scheduler.submit(entry, 0.0)
    grant = scheduler.next("cpu", 0.0)
    assert grant is not None
    assert grant.entry is urgent
    scheduler.park(urgent, 0.0, on=held)
    scheduler.expedite(expedited, 0.0)
    scheduler.set_qos(raised, 0.0, qos=QoS.DEFAULT)
    granted = []
    while (grant := scheduler.next("cpu", 0.0)) is not None:
        granted.append(grant.entry)
        scheduler.done(grant.entry, 0.0)
    assert granted == [expedited, held, raised]
    assert scheduler.resumes_at("cpu") == 5.0
    scheduler.done(left, 0.0)
    assert scheduler.resumes_at("cpu") == inf


def test_after_powersave_another_policy_puts_nobody_off() -> None:
    scheduler = Scheduler(PowerSave(window_s=5.0))
    first = Entry(1, qos=QoS.BACKGROUND)
    scheduler.submit(first, 0.0)
    assert scheduler.next("cpu", 0.0) is None
    scheduler.set_policy("dynamic", 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.set_policy(PowerSave(), 0.0)
    give_way(scheduler, first, 0.0)
    assert scheduler.next("cpu", 0.0) is not None, "who has begun goes on"
