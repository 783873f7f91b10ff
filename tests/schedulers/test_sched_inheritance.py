"""Whoever is waited for is as urgent as those who wait, while they do."""

from math import inf

import pytest
from sched_sim import Simulation, give_way

from coro_rt.schedulers import Entry, Policy, PowerSave, QoS, Scheduler

policies = pytest.mark.parametrize("policy", ["strict", "dynamic"])


def scene(policy: str, *, inherit: bool) -> tuple[Scheduler, Entry, list[Entry], Entry]:
    """A background holder that has begun, a crowd in the middle, and an urgent one waiting for it."""
    scheduler = Scheduler(policy, background_share=0.0, inheritance=inherit)
    holder = Entry(0, name="holder", qos=QoS.BACKGROUND)
    scheduler.submit(holder, 0.0)
    grant = scheduler.next("cpu", 0.0)
    assert grant is not None
    scheduler.ran(holder, 0.001, 0.001)
    crowd = [Entry(i, name=f"middle {i}") for i in range(1, 11)]
    for entry in crowd:
        scheduler.submit(entry, 0.001)
    urgent = Entry(99, name="urgent", qos=QoS.USER_INTERACTIVE)
    assert scheduler.submit(urgent, 0.001)
    assert scheduler.turn(holder, 0.0, 0.001) is not None
    scheduler.ran(urgent, 0.001, 0.002)
    scheduler.park(urgent, 0.002, on=holder)
    return scheduler, holder, crowd, urgent


def ran_before(scheduler: Scheduler, wanted: Entry, now: float) -> int:
    """How many others are granted a slice before the wanted one."""
    for others in range(1000):
        grant = scheduler.next("cpu", now)
        assert grant is not None
        if grant.entry is wanted:
            return others
        now += 0.002
        scheduler.ran(grant.entry, 0.002, now)
        give_way(scheduler, grant.entry, now)
    return 1000


@policies
def test_the_holder_runs_next_and_goes_on_running_until_the_wait_ends(policy: str) -> None:
    scheduler, holder, _, urgent = scene(policy, inherit=True)
    assert holder.effective_qos is QoS.USER_INTERACTIVE
    assert ran_before(scheduler, holder, 0.002) == 0
    assert scheduler.turn(holder, 0.002, 0.004) is None, "its next slice is as urgent"
    assert scheduler.wake(urgent, 0.004)
    assert holder.effective_qos is QoS.BACKGROUND
    grant = scheduler.turn(holder, 0.0, 0.004)
    assert grant is not None
    assert grant.entry is urgent


@policies
def test_without_inheritance_the_crowd_in_the_middle_goes_before_the_holder(policy: str) -> None:
    scheduler, holder, crowd, _ = scene(policy, inherit=False)
    assert ran_before(scheduler, holder, 0.002) >= len(crowd)


@policies
def test_urgency_travels_along_a_chain_and_back(policy: str) -> None:
    scheduler = Scheduler(policy)
    chain = [
        Entry(i, name=f"link {i}", qos=qos)
        for i, qos in enumerate([QoS.BACKGROUND, QoS.UTILITY, QoS.DEFAULT])
    ]
    urgent = Entry(9, name="urgent", qos=QoS.USER_INTERACTIVE)
    for entry in [urgent, *reversed(chain)]:
        scheduler.submit(entry, 0.0)
    for entry, on in [(urgent, chain[2]), (chain[2], chain[1]), (chain[1], chain[0])]:
        grant = scheduler.next("cpu", 0.0)
        assert grant is not None
        assert grant.entry is entry
        scheduler.park(entry, 0.0, on=on)
    assert [entry.effective_qos for entry in chain] == [QoS.USER_INTERACTIVE] * 3
    assert [entry.key for entry in chain] == [urgent.key] * 3
    assert "raised to USER_INTERACTIVE by link 1" in str(scheduler.explain(chain[0], 0.0))

    scheduler.set_qos(urgent, 0.0, qos=QoS.USER_INITIATED)
    assert [entry.effective_qos for entry in chain] == [QoS.USER_INITIATED] * 3
    assert [entry.key for entry in chain] == [urgent.key] * 3

    scheduler.set_policy("dynamic", 0.0)
    assert [entry.key for entry in chain] == [urgent.key] * 3

    scheduler.wake(urgent, 0.0)
    assert [entry.effective_qos for entry in chain] == [QoS.DEFAULT] * 3
    grant = scheduler.next("cpu", 0.0)
    assert grant is not None
    assert grant.entry is urgent
    scheduler.park(urgent, 0.0)
    grant = scheduler.next("cpu", 0.0)
    assert grant is not None
    assert grant.entry is chain[0]
    scheduler.done(chain[0], 0.0)
    assert chain[1].waits_on is None
    assert chain[1].effective_qos is QoS.DEFAULT


def test_a_lock_handed_on_takes_its_other_waiters_along() -> None:
    scheduler = Scheduler("strict")
    first, second = Entry(1, qos=QoS.BACKGROUND), Entry(2, qos=QoS.UTILITY)
    urgent = Entry(3, qos=QoS.USER_INTERACTIVE)
    scheduler.submit(first, 0.0)
    for entry in (second, urgent):
        scheduler.submit(entry, 0.0)
        assert scheduler.next("cpu", 0.0) is not None
        scheduler.park(entry, 0.0, on=first)
    scheduler.wake(second, 0.0)
    scheduler.park(urgent, 0.0, on=second)
    assert (first.effective_qos, second.effective_qos) == (QoS.BACKGROUND, QoS.USER_INTERACTIVE)
    scheduler.park(urgent, 0.0)
    assert second.effective_qos is QoS.UTILITY


def test_one_who_is_waited_for_before_it_is_submitted_is_urgent_from_the_start() -> None:
    scheduler = Scheduler("dynamic")
    holder, urgent = Entry(1, qos=QoS.BACKGROUND), Entry(2, qos=QoS.USER_INTERACTIVE)
    scheduler.submit(urgent, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.park(urgent, 0.0, on=holder)
    middle = Entry(3)
    scheduler.submit(middle, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    assert scheduler.submit(holder, 0.001), "it preempts what the urgent one would have preempted"
    assert holder.effective_qos is QoS.USER_INTERACTIVE


def test_inheritance_crosses_devices() -> None:
    scheduler = Scheduler("dynamic", devices=["cpu", "gpu"])
    holder, other = Entry(1, qos=QoS.BACKGROUND, device="gpu"), Entry(2, device="gpu")
    urgent = Entry(3, qos=QoS.USER_INTERACTIVE)
    for entry in (other, holder, urgent):
        scheduler.submit(entry, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.park(urgent, 0.0, on=holder)
    grant = scheduler.next("gpu", 0.0)
    assert grant is not None
    assert grant.entry is holder


def test_raised_background_is_not_charged_to_backgrounds_share() -> None:
    scheduler, holder, _, urgent = scene("dynamic", inherit=True)
    queue = scheduler._queues["cpu"]
    assert queue.background_count == 0
    scheduler.wake(urgent, 0.002)
    assert queue.background_count == 1
    assert holder.background


def inversion(policy: str, *, inheritance: bool) -> float:
    """How long an urgent one waits that needs what a background one holds for 5 ms more, beside a crowd."""
    scheduler = Scheduler(policy, inheritance=inheritance, background_share=0.0)
    simulation = Simulation(scheduler, quantum_s=0.001)
    holder = simulation.job(0.02, qos=QoS.BACKGROUND, name="holder")
    for _ in range(10):
        simulation.job(inf, at=0.015, name="middle")
    urgent = simulation.job(inf, at=0.015, qos=QoS.USER_INTERACTIVE, name="urgent")
    simulation.run(until=0.016)
    assert simulation.running is urgent
    scheduler.park(urgent, simulation.now, on=holder)
    simulation.running = None
    asked = simulation.now
    while holder not in simulation.ended and simulation.now < 20.0:
        simulation.run(until=simulation.now + 0.001)
    return simulation.now - asked


@pytest.mark.parametrize("policy", ["strict", "dynamic", "edf", "laxity"])
def test_an_urgent_entry_waits_for_a_holder_one_quantum_and_what_is_left_of_its_piece(policy: str) -> None:
    assert inversion(policy, inheritance=True) <= 0.005 + 0.001 + 1e-9


@pytest.mark.parametrize("policy", ["strict", "dynamic", "laxity"])
def test_with_inheritance_off_it_waits_for_the_crowd_until_somebody_is_overdue(policy: str) -> None:
    assert inversion(policy, inheritance=False) > 1.0


class PutsOff(Policy):
    """First come, first served, but nobody before a second has passed; and levels do not count."""

    def key(self, job: Entry, now: float) -> float:
        return job.submitted_at

    def defer_until(self, job: Entry, now: float) -> float:
        return job.submitted_at + 1.0


def put_off_elsewhere() -> tuple[Scheduler, Entry, Entry]:
    """A background entry that is put off on an idle GPU, and an urgent one that runs on the CPU."""
    scheduler = Scheduler(PowerSave(window_s=8.0), devices=["cpu", "gpu"], max_wait_s=100.0)
    holder = Entry(1, qos=QoS.BACKGROUND, device="gpu")
    urgent = Entry(2, qos=QoS.USER_INTERACTIVE)
    for entry in (holder, urgent):
        scheduler.submit(entry, 1.0)
    assert scheduler.next("gpu", 1.0) is None
    assert scheduler.next("cpu", 1.0) is not None
    return scheduler, holder, urgent


def test_who_is_put_off_on_an_idle_device_is_to_be_taken_up_when_somebody_urgent_waits_for_it() -> None:
    scheduler, holder, urgent = put_off_elsewhere()
    assert scheduler.park(urgent, 1.0, on=holder) is holder
    grant = scheduler.next("gpu", 1.0)
    assert grant is not None
    assert grant.entry is holder


def test_so_is_who_is_waited_for_by_a_chain_and_when_its_end_becomes_urgent() -> None:
    scheduler, holder, urgent = put_off_elsewhere()
    scheduler.set_qos(urgent, 1.0, qos=QoS.BACKGROUND)
    between = Entry(3, qos=QoS.BACKGROUND)
    scheduler.submit(between, 1.0)
    scheduler.park(urgent, 1.0, on=between)
    assert scheduler.next("cpu", 1.0) is not None
    assert scheduler.park(between, 1.0, on=holder) is holder
    assert scheduler.next("gpu", 1.0) is not None
    other = Entry(4, device="gpu")
    scheduler.submit(other, 1.0)
    assert scheduler.turn(holder, 0.0, 1.0) is not None, "it is background as yet"
    assert scheduler.set_qos(urgent, 1.0, qos=QoS.USER_INTERACTIVE), "what runs on the GPU gives way to it"
    grant = scheduler.turn(other, 0.0, 1.0)
    assert grant is not None
    assert grant.entry is holder


def test_one_that_runs_on_another_device_gives_way_to_whom_somebody_more_urgent_waits_for() -> None:
    scheduler = Scheduler(devices=["cpu", "gpu"])
    holder, busy = Entry(1, qos=QoS.BACKGROUND, device="gpu"), Entry(2, device="gpu")
    urgent, idle = Entry(3, qos=QoS.USER_INTERACTIVE), Entry(4, qos=QoS.BACKGROUND)
    for entry in (busy, holder, urgent, idle):
        scheduler.submit(entry, 0.0)
    assert scheduler.next("gpu", 0.0) is not None
    assert scheduler.next("cpu", 0.0) is not None
    assert scheduler.park(urgent, 0.0, on=holder) is holder
    assert scheduler.next("cpu", 0.0) is not None
    assert scheduler.park(idle, 0.0, on=busy) is None, "which runs"


def test_who_is_waited_for_is_not_put_off_whoever_waits() -> None:
    scheduler = Scheduler(PutsOff(), devices=["cpu", "gpu"])
    first, second = Entry(1), Entry(2, device="gpu")
    scheduler.submit(first, 0.0)
    scheduler.submit(second, 0.5)
    assert scheduler.next("cpu", 1.0) is not None
    assert scheduler.next("gpu", 1.0) is None
    assert scheduler.park(first, 1.0, on=second) is second
    grant = scheduler.next("gpu", 1.0)
    assert grant is not None
    scheduler.park(second, 1.0)
    scheduler.wake(second, 1.2)
    assert scheduler.next("gpu", 1.2) is not None, "it is waited for still"
