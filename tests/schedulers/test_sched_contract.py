"""What every policy's scheduler promises, whatever the order."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_sim import Simulation, give_way

import coro_rt.schedulers as schedulers
from coro_rt.schedulers import (
    POLICIES,
    DeadlockError,
    Entry,
    Policy,
    PowerSave,
    QoS,
    Scheduler,
    SchedulerError,
    State,
)


class LastComeFirst(Policy):
    """key = -ready_since: a newcomer's policy, and an unfair one."""

    def key(self, job: Entry, now: float) -> float:
        return -job.ready_since


every_policy = pytest.mark.parametrize("policy", [*POLICIES.values(), LastComeFirst], ids=lambda p: p.name)
workloads = st.lists(
    st.tuples(
        st.floats(0, 0.05),  # arrival
        st.floats(0.0005, 0.02),  # work
        st.sampled_from(QoS),
        st.sampled_from(["mail", "chat"]),
        st.one_of(st.just(float("inf")), st.floats(0, 1)),  # deadline
    ),
    min_size=1,
    max_size=30,
)


def test_the_public_names_are_those_in_all() -> None:
    public = {
        name
        for name, value in vars(schedulers).items()
        if name[0] != "_" and not isinstance(value, ModuleType)
    }
    assert public == set(schedulers.__all__)


@every_policy
@settings(max_examples=100, deadline=None)
@given(workload=workloads)
def test_every_job_gets_exactly_its_work_and_the_same_workload_gives_the_same_decisions(
    policy: type[Policy], workload: list[tuple[float, float, QoS, str, float]]
) -> None:
    orders = []
    for _ in range(2):
        simulation = Simulation(Scheduler(policy))
        jobs = [
            simulation.job(work, at=at, qos=qos, tenant=tenant, deadline=deadline, name=str(i))
            for i, (at, work, qos, tenant, deadline) in enumerate(workload)
        ]
        simulation.run()
        assert sorted(entry.id for entry in simulation.ended) == sorted(entry.id for entry in jobs)
        for job, (_, work, *_) in zip(jobs, workload, strict=True):
            assert job.state is State.DONE
            assert job.served_s == pytest.approx(work)
        assert len(simulation.scheduler) == 0
        assert simulation.scheduler.ready("cpu") == 0
        assert simulation.scheduler.next("cpu", simulation.now) is None
        orders.append(simulation.order)
    assert orders[0] == orders[1]


@every_policy
def test_an_expedited_entry_goes_before_everything_once(policy: type[Policy]) -> None:
    scheduler = Scheduler(policy)
    low = Entry(0, qos=QoS.UTILITY)
    scheduler.submit(low, 0.0)
    others = [Entry(i, qos=QoS.USER_INTERACTIVE) for i in range(1, 5)]
    running = _grant(scheduler, 0.0)
    assert running is low
    give_way(scheduler, low, 0.0)
    for entry in others:
        scheduler.submit(entry, 0.001)
    running = _grant(scheduler, 0.001)
    if running is low:
        give_way(scheduler, low, 0.001)
        scheduler.expedite(others[0], 0.001)
        running = _grant(scheduler, 0.001)
        assert running is others[0]
        return
    assert scheduler.expedite(low, 0.002)
    grant = scheduler.turn(running, 0.0, 0.002)
    assert grant is not None
    assert grant.entry is low
    assert scheduler.turn(low, 0.0005, 0.0025) is None, "it keeps its slice"
    give_way(scheduler, low, 0.0025)
    if policy.name in ("strict", "dynamic", "fair"):
        assert _grant(scheduler, 0.0025) is not low


@every_policy
def test_expediting_a_waiting_entry_wakes_it_and_a_running_one_needs_nothing(policy: type[Policy]) -> None:
    scheduler = Scheduler(policy)
    first, second = Entry(1), Entry(2)
    scheduler.submit(first, 0.0)
    scheduler.submit(second, 0.0)
    waiting = _grant(scheduler, 0.0)
    scheduler.park(waiting, 0.0)
    running = _grant(scheduler, 0.0)
    assert not scheduler.expedite(running, 0.001)
    assert scheduler.expedite(waiting, 0.001)
    assert waiting.state is State.READY
    give_way(scheduler, running, 0.001)
    assert _grant(scheduler, 0.001) is waiting


@every_policy
def test_an_entry_that_has_not_started_can_leave_the_queue_and_a_started_one_cannot(
    policy: type[Policy],
) -> None:
    scheduler = Scheduler(policy)
    entries = [Entry(i) for i in range(3)]
    for entry in entries:
        scheduler.submit(entry, 0.0)
    running = _grant(scheduler, 0.0)
    left = next(entry for entry in entries if entry is not running)
    scheduler.done(left, 0.0)
    never_submitted = Entry(9)
    scheduler.done(never_submitted, 0.0)
    assert never_submitted.state is State.DONE
    assert len(scheduler) == 2
    give_way(scheduler, running, 0.0)
    with pytest.raises(AssertionError, match="has started"):
        scheduler.done(running, 0.0)
    seen = set()
    while (grant := scheduler.next("cpu", 0.0)) is not None:
        seen.add(grant.entry)
        scheduler.done(grant.entry, 0.0)
    assert seen == set(entries) - {left}


@every_policy
def test_a_step_that_does_not_exist_is_an_assertion(policy: type[Policy]) -> None:
    scheduler = Scheduler(policy)
    entry = Entry(1)
    steps: list[Callable[[], object]] = [
        lambda: scheduler.wake(entry, 0.0),
        lambda: scheduler.park(entry, 0.0),
        lambda: scheduler.ran(entry, 0.1, 0.0),
        lambda: scheduler.turn(entry, 0.1, 0.0),
    ]
    for step in steps:
        with pytest.raises(AssertionError):
            step()
    scheduler.submit(entry, 0.0)
    with pytest.raises(AssertionError):
        scheduler.submit(entry, 0.0)
    _grant(scheduler, 0.0)
    with pytest.raises(AssertionError):
        scheduler.next("cpu", 0.0)
    scheduler.done(entry, 0.0)
    with pytest.raises(AssertionError):
        scheduler.expedite(entry, 0.0)
    assert not scheduler.set_qos(entry, 0.0, qos=QoS.UTILITY)


@every_policy
def test_waiting_for_each_other_is_a_deadlock_error_and_changes_nothing(policy: type[Policy]) -> None:
    scheduler = Scheduler(policy)
    entries = [Entry(i, name=f"job {i}") for i in range(3)]
    for entry in entries:
        scheduler.submit(entry, 0.0)
    order = [_grant(scheduler, 0.0)]
    with pytest.raises(DeadlockError, match=f"{order[0].name} waits for {order[0].name}"):
        scheduler.park(order[0], 0.0, on=order[0])
    later = [entry for entry in entries if entry is not order[0]]
    scheduler.park(order[0], 0.0, on=later[0])
    order.append(_grant(scheduler, 0.0))
    if (
        order[1] is not later[0]
    ):  # the one that is waited for is not first under a policy that ignores urgency
        scheduler.park(order[1], 0.0)
        order[1] = _grant(scheduler, 0.0)
    assert order[1] is later[0]
    with pytest.raises(DeadlockError):
        scheduler.park(order[1], 0.0, on=order[0])
    assert order[1].state is State.RUNNING
    assert order[0].waits_on is order[1]
    scheduler.done(order[1], 0.0)
    assert order[0].waits_on is None


@pytest.mark.parametrize("policy", POLICIES)
def test_equals_do_not_preempt_each_other_within_a_slice(policy: str) -> None:
    scheduler = Scheduler(policy)
    first, second = Entry(1), Entry(2)
    assert not scheduler.submit(first, 0.0)
    assert not scheduler.submit(second, 0.0)
    running = _grant(scheduler, 0.0)
    for step in range(1, 4):
        now = step * 0.0005
        assert scheduler.turn(running, 0.0005, now) is None
        assert not scheduler.submit(Entry(10 + step), now)
    assert scheduler.preemptions == 0


@every_policy
def test_the_policy_can_change_while_jobs_run_and_nothing_is_lost(policy: type[Policy]) -> None:
    simulation = Simulation(Scheduler("fifo"))
    for i in range(20):
        simulation.job(0.01, at=i * 0.002, qos=QoS(i % 5), tenant="ab"[i % 2])
    simulation.at(0.03, lambda: simulation.scheduler.set_policy(policy, simulation.now))
    simulation.at(0.06, lambda: simulation.scheduler.set_policy("dynamic", simulation.now))
    simulation.run()
    assert len(simulation.ended) == 20


def test_work_on_one_device_is_not_granted_on_another() -> None:
    scheduler = Scheduler(devices=["cpu", "sim"])
    scheduler.add_device("gpu")
    on_gpu, on_cpu = Entry(1, device="gpu"), Entry(2)
    scheduler.submit(on_gpu, 0.0)
    scheduler.submit(on_cpu, 0.0)
    assert scheduler.next("sim", 0.0) is None
    assert _grant(scheduler, 0.0) is on_cpu
    grant = scheduler.next("gpu", 0.0)
    assert grant is not None
    assert grant.entry is on_gpu
    scheduler.park(on_gpu, 0.0)
    on_gpu.device = "sim"  # placement changed its mind
    scheduler.wake(on_gpu, 0.0)
    assert scheduler.ready("sim") == 1
    assert scheduler.ready("gpu") == 0


def test_what_a_user_gets_wrong_is_a_scheduler_error_that_says_so() -> None:
    scheduler = Scheduler()
    for wrong, call in [
        ("no device 'npu'", lambda: scheduler.next("npu", 0.0)),
        ("no device 'npu'", lambda: scheduler.submit(Entry(1, device="npu"), 0.0)),
        ("'cpu' already", lambda: scheduler.add_device("cpu")),
        ("tenant 'a'", lambda: Scheduler(shares={"a": 0.0})),
        ("background_share", lambda: Scheduler(background_share=1.0)),
        ("max_wait_s", lambda: Scheduler(max_wait_s=0.0)),
        ("policy_budget_s", lambda: Scheduler(policy_budget_s=0.0)),
        ("window_s", lambda: PowerSave(window_s=0.0)),
        ("no policy 'fare'; known are dynamic, edf, eevdf, fair, fifo, ", lambda: Scheduler("fare")),
    ]:
        with pytest.raises(SchedulerError, match=wrong):
            call()
    assert len(scheduler) == 0


def test_counters_tell_switches_from_going_on_and_preemptions_from_turns() -> None:
    scheduler = Scheduler("dynamic")
    low, high = Entry(1, qos=QoS.BACKGROUND), Entry(2, qos=QoS.USER_INTERACTIVE)
    scheduler.submit(low, 0.0)
    _grant(scheduler, 0.0)
    assert scheduler.submit(high, 0.001)
    grant = scheduler.turn(low, 0.001, 0.001)
    assert grant is not None
    assert grant.entry is high
    scheduler.ran(high, 0.001, 0.002)
    scheduler.done(high, 0.002)
    assert _grant(scheduler, 0.002) is low
    assert scheduler.turn(low, 0.002, 0.004) is None, "it is alone: nothing touches the queue"
    assert (scheduler.switches, scheduler.preemptions) == (3, 1)
    assert scheduler.decisions == 4
    assert (low.switches, high.switches) == (2, 1)
    assert low.waited_s == pytest.approx(0.001)
    assert low.served_s == pytest.approx(0.003)


def test_an_entry_keeps_the_time_of_its_first_grant() -> None:
    scheduler = Scheduler("dynamic")
    entry = Entry(1)
    scheduler.submit(entry, 1.0)
    assert entry.started_at == math.inf
    _grant(scheduler, 1.5)
    scheduler.ran(entry, 0.5, 2.0)
    scheduler.park(entry, 2.0)
    scheduler.wake(entry, 3.0)
    _grant(scheduler, 4.0)
    assert (entry.submitted_at, entry.started_at) == (1.0, 1.5)


def _grant(scheduler: Scheduler, now: float) -> Entry:
    grant = scheduler.next("cpu", now)
    assert grant is not None
    return grant.entry
