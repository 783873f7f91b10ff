"""How long anybody waits, and who gets how much, in virtual time."""

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_sim import Simulation, give_way

from coro_rt.schedulers import POLICIES, Entry, Fifo, Policy, QoS, Scheduler, State

QUANTUM_S = 0.001
BACKGROUND_SHARE = 0.05  # the default
arrivals = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0.001, 0.01, 0.05, inf]), st.sampled_from(QoS)),
    min_size=2,
    max_size=40,
)


class Starving(Policy):
    """key = name: whoever has the first name always wins."""

    guarantees_background = False

    def key(self, job: Entry, now: float) -> float:
        return 0.0 if job.name == "winner" else 1.0


@pytest.mark.parametrize("policy", [policy for policy in POLICIES.values() if policy.bounded])
@settings(max_examples=200, deadline=None)
@given(workload=arrivals, max_wait_s=st.sampled_from([0.2, 1.0, inf]))
def test_every_wait_under_a_bounded_policy_is_within_its_formula(
    policy: type[Policy], workload: list[tuple[float, float, QoS]], max_wait_s: float
) -> None:
    simulation = Simulation(Scheduler(policy, max_wait_s=max_wait_s), quantum_s=QUANTUM_S)
    jobs = [simulation.job(work, at=at, qos=qos) for at, work, qos in workload]
    simulation.run(until=3.0)
    others, turn_s = len(jobs) - 1, Policy.slice_s + QUANTUM_S
    for entry, wait in [*simulation.waits, *((e, 3.0 - e.ready_since) for e in jobs if e.ticket)]:
        bound = policy().bound_s(entry, others, turn_s) / (1 - BACKGROUND_SHARE)
        assert wait <= min(bound, max_wait_s + 2 * (others + 1) * turn_s)


@pytest.mark.parametrize("policy", [*POLICIES, Starving])
def test_nobody_waits_much_longer_than_max_wait_s_under_any_policy(policy: str | type[Policy]) -> None:
    simulation = Simulation(Scheduler(policy, max_wait_s=0.5), quantum_s=QUANTUM_S)
    simulation.job(inf, name="winner", qos=QoS.USER_INTERACTIVE)
    others = [simulation.job(inf, name=f"other {i}", qos=QoS(i % 4)) for i in range(20)]
    simulation.run(until=5.0)
    bound = 0.5 + 2 * 21 * (Policy.slice_s + QUANTUM_S)
    for entry in others:
        assert entry.switches >= 5
    assert max(wait for _, wait in simulation.waits) <= bound


def test_a_crowd_of_overdue_entries_leaves_every_second_grant_to_the_policy() -> None:
    simulation = Simulation(Scheduler(Starving, max_wait_s=0.01), quantum_s=QUANTUM_S)
    winner = simulation.job(inf, name="winner")
    for i in range(200):
        simulation.job(inf, name=f"other {i}")
    simulation.run(until=4.0)
    assert winner.served_s >= 0.45 * 4.0
    queue = simulation.scheduler._queues["cpu"]
    assert sum(len(lane.foreground) for lane in queue.lanes.values()) <= 2 * 201 + 65, "and leaves no garbage"
    turns = simulation.order[20:]
    assert all("winner" in pair for pair in pairwise(turns))


@pytest.mark.parametrize("policy", ["dynamic", "fair"])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_background_gets_its_share_under_full_interactive_load(
    policy: str | type[Policy], share: float
) -> None:
    scheduler = Scheduler(policy, background_share=share, max_wait_s=inf)
    simulation = Simulation(scheduler, quantum_s=QUANTUM_S)
    background = [simulation.job(inf, qos=QoS.BACKGROUND) for _ in range(3)]
    for i in range(30):
        simulation.job(inf, qos=QoS.USER_INTERACTIVE, at=i * 0.01)
    for i in range(2000):  # newcomers, always more urgent
        simulation.job(0.0009, qos=QoS.USER_INTERACTIVE, at=i * 0.004)
    simulation.run(until=8.0)
    got = sum(entry.served_s for entry in background)
    assert got >= share * 8.0 - 2 * Policy.slice_s
    assert got <= (share + 0.02) * 8.0
    least, *_, most = sorted(entry.served_s for entry in background)
    assert least >= 0.5 * most


@pytest.mark.parametrize("policy", [name for name in POLICIES if POLICIES[name].guarantees_background])
@settings(max_examples=100, deadline=None)
@given(
    others=st.lists(
        st.tuples(st.floats(0, 0.5), st.sampled_from([0.001, 0.05, inf]), st.sampled_from(QoS)), max_size=20
    ),
    background=st.integers(1, 5),
    share=st.sampled_from([0.05, 0.2]),
)
def test_background_gets_its_share_whatever_else_there_is(
    policy: str, others: list[tuple[float, float, QoS]], background: int, share: float
) -> None:
    simulation = Simulation(Scheduler(policy, background_share=share, max_wait_s=inf), quantum_s=QUANTUM_S)
    jobs = [simulation.job(inf, qos=QoS.BACKGROUND) for _ in range(background)]
    simulation.job(inf, qos=QoS.USER_INTERACTIVE)  # the device is never free
    for at, work, qos in others:
        simulation.job(work, at=at, qos=max(qos, QoS.UTILITY))
    simulation.run(until=1.0)
    assert sum(entry.served_s for entry in jobs) >= share * 1.0 - 2 * (Policy.slice_s + QUANTUM_S)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=100, deadline=None)
@given(
    crowds=st.tuples(*[st.lists(st.sampled_from(QoS), min_size=1, max_size=20)] * 2),
    work=st.sampled_from([0.003, 0.05, inf]),
)
def test_equal_tenants_that_always_have_work_are_served_alike(
    policy: str, crowds: tuple[list[QoS], list[QoS]], work: float
) -> None:
    simulation = Simulation(Scheduler(policy), quantum_s=QUANTUM_S)
    served = []
    for tenant, crowd in zip(("a", "b"), crowds, strict=True):
        jobs = [simulation.job(inf, tenant=tenant)]
        jobs += [simulation.job(work, tenant=tenant, qos=max(qos, QoS.UTILITY)) for qos in crowd]
        served.append(jobs)
    simulation.run(until=1.0)
    first, second = (sum(entry.served_s for entry in jobs) for jobs in served)
    assert 0.5 <= first / second <= 2.0


def test_a_quiet_hour_does_not_cost_background_its_share_afterwards() -> None:
    simulation = Simulation(Scheduler("dynamic", max_wait_s=1.0), quantum_s=QUANTUM_S)
    background = simulation.job(inf, qos=QoS.BACKGROUND)
    simulation.job(inf, qos=QoS.USER_INTERACTIVE, at=60.0)
    simulation.run(until=60.0)
    alone = background.served_s
    simulation.run(until=63.0)
    assert alone == pytest.approx(60.0, rel=0.01)
    assert background.served_s - alone >= 0.05 * (3.0 - 1.1)


def test_background_that_sleeps_and_wakes_gets_no_more_than_its_share() -> None:
    scheduler = Scheduler("dynamic")
    urgent, background = Entry(1, qos=QoS.USER_INTERACTIVE), Entry(2, qos=QoS.BACKGROUND)
    scheduler.submit(urgent, 0.0)
    scheduler.submit(background, 0.0)
    now = 0.0
    while now < 4.0:
        grant = scheduler.next("cpu", now)
        assert grant is not None
        now += 0.002
        scheduler.ran(grant.entry, 0.002, now)
        if grant.entry is background:
            scheduler.park(background, now)
        else:
            if background.state is State.WAITING:
                scheduler.wake(background, now)
            give_way(scheduler, urgent, now)
    assert 0.04 * 4.0 <= background.served_s <= 0.06 * 4.0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tenant_that_floods_the_queue_gets_no_more_than_its_share(policy: str) -> None:
    simulation = Simulation(Scheduler(policy), quantum_s=QUANTUM_S)
    flood = [simulation.job(0.05, qos=QoS.USER_INTERACTIVE, tenant="flood") for _ in range(1000)]
    modest = [simulation.job(inf, tenant="modest", at=0.1)]
    simulation.run(until=4.1)
    flooded = sum(entry.served_s for entry in flood)
    served = sum(entry.served_s for entry in modest)
    assert 0.5 <= served / flooded <= 2.0


def test_tenants_are_served_in_proportion_to_their_shares() -> None:
    simulation = Simulation(Scheduler("dynamic", shares={"big": 3.0, "small": 1.0}), quantum_s=QUANTUM_S)
    big = [simulation.job(inf, tenant="big") for _ in range(2)]
    small = [simulation.job(inf, tenant="small") for _ in range(20)]
    simulation.run(until=4.0)
    assert sum(e.served_s for e in big) / sum(e.served_s for e in small) == pytest.approx(3.0, rel=0.1)


def test_a_tenant_gains_nothing_by_staying_away() -> None:
    simulation = Simulation(Scheduler("dynamic"), quantum_s=QUANTUM_S)
    steady = simulation.job(inf, tenant="steady")
    late = simulation.job(inf, tenant="late", at=5.0)
    simulation.run(until=5.0)
    before = steady.served_s
    simulation.run(until=7.0)
    assert late.served_s == pytest.approx(steady.served_s - before, rel=0.05)


def test_foreground_of_one_tenant_goes_before_background_of_another() -> None:
    simulation = Simulation(Scheduler("dynamic"), quantum_s=QUANTUM_S)
    background = simulation.job(inf, tenant="a", qos=QoS.BACKGROUND)
    urgent = simulation.job(0.5, tenant="b", qos=QoS.DEFAULT, at=1.0)
    simulation.run(until=1.6)
    assert urgent in simulation.ended
    assert urgent.waited_s <= 0.05 * 0.5 + 2 * (Policy.slice_s + QUANTUM_S)
    assert background.served_s >= 1.0


@settings(max_examples=30, deadline=None)
@given(workload=arrivals)
def test_fifo_runs_each_to_its_end_in_the_order_of_arrival(workload: list[tuple[float, float, QoS]]) -> None:
    simulation = Simulation(Scheduler("fifo", max_wait_s=inf), quantum_s=QUANTUM_S)
    jobs = [simulation.job(min(work, 0.1), at=at, qos=qos) for at, work, qos in workload]
    simulation.run()
    arrived = sorted(jobs, key=lambda job: job.submitted_at)
    assert [job.submitted_at for job in simulation.ended] == [job.submitted_at for job in arrived]
    assert simulation.scheduler.switches == len(jobs)
    assert Fifo.bounded is False


def test_an_urgent_newcomer_runs_after_the_current_quantum_under_dynamic_and_strict() -> None:
    for policy in ("dynamic", "strict"):
        simulation = Simulation(Scheduler(policy), quantum_s=QUANTUM_S)
        for _ in range(1000):
            simulation.job(inf, qos=QoS.BACKGROUND)
        urgent = [simulation.job(0.01, qos=QoS.USER_INTERACTIVE, at=0.1 * i) for i in range(1, 20)]
        simulation.run(until=2.1)
        assert len(simulation.ended) == len(urgent)
        first_waits = {}
        for entry, wait in simulation.waits:
            first_waits.setdefault(entry, wait)
        assert max(first_waits[entry] for entry in urgent) <= QUANTUM_S + 1e-9


def test_stale_items_never_outnumber_the_live_ones_by_much() -> None:
    scheduler = Scheduler("dynamic")
    entries = [Entry(i, tenant="ab"[i % 2]) for i in range(100)]
    for entry in entries:
        scheduler.submit(entry, 0.0)
    queue = scheduler._queues["cpu"]
    for i in range(10_000):
        scheduler.set_qos(entries[i % 100], i * 0.001, qos=QoS(i % 5))
        items = sum(len(lane.foreground) + len(lane.background) for lane in queue.lanes.values())
        assert items <= 2 * 100 + 65


def test_those_who_leave_while_they_are_put_off_leave_nothing_behind() -> None:
    scheduler = Scheduler("powersave")
    queue = scheduler._queues["cpu"]
    scheduler.submit(Entry(0, qos=QoS.BACKGROUND), 0.0)
    for i in range(1, 1000):
        entry = Entry(i, qos=QoS.BACKGROUND)
        scheduler.submit(entry, 0.0)
        scheduler.done(entry, 0.0)
        items = sum(len(lane.background) for lane in queue.lanes.values()) + len(queue.deferred)
        assert items <= 2 + 65
    assert scheduler.ready("cpu") == 1
    assert queue.background_count == 0


def test_tenants_that_come_and_go_leave_nothing_behind() -> None:
    scheduler = Scheduler("dynamic")
    now = 0.0
    for i in range(1000):
        entry = Entry(i, tenant=f"tenant {i}")
        scheduler.submit(entry, now)
        grant = scheduler.next("cpu", now)
        assert grant is not None
        now += 0.001
        scheduler.ran(entry, 0.001, now)
        scheduler.done(entry, now)
        assert scheduler.next("cpu", now) is None
    assert len(scheduler._queues["cpu"].lanes) <= 64
