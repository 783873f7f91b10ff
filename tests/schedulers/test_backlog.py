"""What a newcomer would wait for: as its urgency has it, and as it comes out in the simulator."""

from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import (
    POLICIES,
    Backlog,
    DeviceTiming,
    Entry,
    Policy,
    QoS,
    Run,
    Scheduler,
    SchedulerError,
    Workload,
    WorkloadJob,
    simulate,
)

ids = iter(range(1, 1 << 30))


def submit(
    scheduler: Scheduler, qos: QoS, seconds: float, now: float = 0.0, tenant: str = "default"
) -> Entry:
    entry = Entry(next(ids), qos=qos, predicted_seconds_left=seconds, tenant=tenant)
    scheduler.submit(entry, now)
    return entry


def test_an_idle_device_has_none() -> None:
    found = Scheduler().backlog("cpu", 1.0)
    assert found.idle
    assert found.wait_s(1.0) == 0.0


def test_who_is_more_urgent_is_served_before_and_equals_take_turns() -> None:
    scheduler = Scheduler()
    submit(scheduler, QoS.USER_INTERACTIVE, 0.3)
    submit(scheduler, QoS.USER_INITIATED, 0.2)
    submit(scheduler, QoS.USER_INITIATED, 0.001)
    submit(scheduler, QoS.DEFAULT, 5.0)
    found = scheduler.backlog("cpu", 0.0, qos=QoS.USER_INITIATED)
    assert [ahead.left_s for ahead in found.ahead] == [0.3]
    assert found.turns_s == (0.2, 0.001)
    assert found.wait_s(0.01) == pytest.approx(0.3 + 0.01 + 0.001)
    assert found.wait_s(10.0) == pytest.approx(0.3 + 0.2 + 0.001, abs=0.1)  # and the other a few slices
    assert scheduler.backlog("cpu", 0.0, qos=QoS.USER_INTERACTIVE).wait_s(0.01) == pytest.approx(0.01)


def test_who_is_more_urgent_goes_before_for_as_long_as_his_lead_with_each_slice() -> None:
    scheduler = Scheduler()  # whose levels lie apart by 8 s
    for _ in range(10):
        submit(scheduler, QoS.DEFAULT, 5.0)
    found = scheduler.backlog("cpu", 0.0, qos=QoS.UTILITY)
    assert found.wait_s(0.002) == pytest.approx(8.0)
    assert found.wait_s(0.004) == pytest.approx(16.0)
    assert found.wait_s(10.0) == pytest.approx(50.0)


def test_under_a_policy_whose_keys_do_not_move_who_is_more_urgent_is_served_whole() -> None:
    scheduler = Scheduler("strict")
    submit(scheduler, QoS.DEFAULT, 50.0)
    assert scheduler.backlog("cpu", 0.0, qos=QoS.UTILITY).wait_s(0.002) == pytest.approx(50.0)


def test_who_has_waited_for_long_gets_a_slice_before_somebody_more_urgent() -> None:
    scheduler = Scheduler()
    submit(scheduler, QoS.DEFAULT, 5.0)
    assert scheduler.backlog("cpu", 1.0, qos=QoS.USER_INTERACTIVE).wait_s(0.01) == 0.0
    assert scheduler.backlog("cpu", 1.99, qos=QoS.USER_INTERACTIVE).wait_s(0.01) == pytest.approx(0.002)


def test_what_was_served_since_a_prediction_is_not_to_come_any_more() -> None:
    scheduler = Scheduler()
    entry = submit(scheduler, QoS.DEFAULT, 1.0)
    scheduler.next("cpu", 0.0)
    scheduler.turn(entry, 0.75, 0.75)
    assert scheduler.backlog("cpu", 0.75).turns_s == (pytest.approx(0.25),)
    scheduler.predict(entry, 3.0, 0.75)
    scheduler.turn(entry, 1.0, 1.75)
    assert scheduler.backlog("cpu", 1.75).turns_s == (pytest.approx(2.0),)


def test_who_asks_for_itself_is_not_in_its_own_way() -> None:
    scheduler = Scheduler()
    entry = submit(scheduler, QoS.DEFAULT, 1.0)
    scheduler.next("cpu", 0.0)
    assert scheduler.backlog("cpu", 0.0, without=entry).idle


def test_background_gets_its_share_on_top() -> None:
    scheduler = Scheduler(background_share=0.2)
    submit(scheduler, QoS.BACKGROUND, 10.0)
    found = scheduler.backlog("cpu", 0.0, qos=QoS.DEFAULT)
    assert found.wait_s(0.8) == pytest.approx(0.2)


def test_another_tenant_takes_turns_as_one_and_its_background_waits() -> None:
    scheduler = Scheduler(background_share=0.0)
    for _ in range(3):
        submit(scheduler, QoS.USER_INTERACTIVE, 1.0, tenant="other")
        submit(scheduler, QoS.BACKGROUND, 1.0, tenant="other")
    found = scheduler.backlog("cpu", 0.0, qos=QoS.DEFAULT)
    assert found.wait_s(0.1) == pytest.approx(0.1)


def test_a_crowd_is_looked_at_in_part_and_thought_to_be_alike() -> None:
    scheduler = Scheduler()
    for _ in range(1000):
        submit(scheduler, QoS.DEFAULT, 0.5)
    assert scheduler.backlog("cpu", 0.0).wait_s(0.01) == pytest.approx(10.0)
    assert scheduler.backlog("cpu", 0.0, qos=QoS.UTILITY).wait_s(10.0) == pytest.approx(500.0)
    assert scheduler.backlog("cpu", 0.0, qos=QoS.USER_INTERACTIVE).wait_s(0.01) == 0.0


def test_a_device_that_there_is_not_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="no device 'gpu'"):
        Scheduler().backlog("gpu", 0.0)


class Raises(Policy):
    """Breaks when it is asked about somebody who was not submitted by its maker."""

    def key(self, job: Entry, now: float) -> float:
        if job.name == "newcomer":
            raise RuntimeError("who is that?")
        return 0.0


@pytest.mark.parametrize("policy", [*POLICIES.values(), Raises])
def test_under_any_policy_asking_changes_nothing(policy: type[Policy]) -> None:
    def grants(*, ask: bool) -> list[str]:
        scheduler = Scheduler(policy)
        found = []
        for number in range(40):
            qos = QoS(number % 5)
            scheduler.submit(Entry(number, qos=qos, predicted_seconds_left=0.01 * number), number * 0.001)
        now, entry = 0.05, None
        for number in range(200):
            now += 0.003
            if ask:
                found_s = scheduler.backlog("cpu", now, qos=QoS(number % 5)).wait_s(0.01)
                assert 0.0 <= found_s < inf
            grant = scheduler.next("cpu", now) if entry is None else scheduler.turn(entry, 0.003, now)
            if grant is not None:
                entry = grant.entry
                found.append(entry.name)
        assert type(scheduler.policy) is policy
        return found

    assert grants(ask=True) == grants(ask=False)


levels = st.sampled_from([QoS.BACKGROUND, QoS.DEFAULT, QoS.USER_INITIATED, QoS.USER_INTERACTIVE])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(levels, st.sampled_from([0.004, 0.05, 0.4])), max_size=4),
    st.sampled_from([QoS.USER_INITIATED, QoS.USER_INTERACTIVE]),
    st.sampled_from([0.003, 0.02, 0.2]),
    st.sampled_from([0.001, 0.03, 0.5]),
)
@example([(QoS.USER_INTERACTIVE, 0.4)] * 3, QoS.USER_INITIATED, 0.003, 0.001)
def test_what_is_foreseen_for_somebody_urgent_is_what_comes(
    others: list[tuple[QoS, float]], qos: QoS, run_s: float, at_s: float
) -> None:
    jobs = [WorkloadJob("other", 0.0, (Run(s),), qos=level, predicted_s=s) for level, s in others]
    devices = {"cpu": DeviceTiming(give_way_s=(0.0,))}
    found: list[Backlog] = []
    simulate(
        Workload(tuple(jobs), devices),
        looks=[(at_s, lambda scheduler, now: found.append(scheduler.backlog("cpu", now, qos=qos)))],
    )
    urgent = WorkloadJob("urgent", at_s, (Run(run_s),), qos=qos, predicted_s=run_s)
    outcome = simulate(Workload((*jobs, urgent), devices))
    took_s = outcome.jobs[-1].ended_s - at_s
    foreseen_s = found[0].wait_s(run_s) + run_s
    assert foreseen_s == pytest.approx(took_s, rel=0.1, abs=0.004)
