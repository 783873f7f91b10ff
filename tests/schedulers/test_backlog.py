"""What a newcomer would wait for: as its urgency has it, and as it comes out in the simulator."""

from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import (
    POLICIES,
    Backlog,
    BatchTiming,
    DeviceTiming,
    Entry,
    Policy,
    QoS,
    Rows,
    Run,
    Scheduler,
    SchedulerError,
    Workload,
    WorkloadJob,
    simulate,
)
from coro_rt.schedulers.batch import KnownCosts

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


# Those who write with one model.

COSTS = tuple(0.01 + 0.001 * row for row in range(32))  # of a launch with so many rows, from one on
STEPS = 400


def writer(qos: QoS, rows: int = 1) -> WorkloadJob:
    """Writes `STEPS` tokens, and has some code of its own after each."""
    steps = (Rows(0, rows, rows), Run(0.0)) * STEPS
    return WorkloadJob("writes", 0.0, steps, qos=qos, predicted_s=STEPS * COSTS[rows - 1], batch=0)


def foreseen_and_took(
    writers: list[WorkloadJob], qos: QoS, run_s: float, at_s: float
) -> tuple[Backlog, float, float]:
    """For a plain job that comes."""
    devices, batches = {"cpu": DeviceTiming(give_way_s=(0.0,))}, (BatchTiming(COSTS),)
    found: list[Backlog] = []
    simulate(
        Workload(tuple(writers), devices, batches=batches),
        looks=[(at_s, lambda scheduler, now: found.append(scheduler.backlog("cpu", now, qos=qos)))],
    )
    plain = WorkloadJob("plain", at_s, (Run(run_s),), qos=qos, predicted_s=run_s)
    outcome = simulate(Workload((*writers, plain), devices, batches=batches))
    return found[0], found[0].wait_s(run_s) + run_s, outcome.jobs[-1].ended_s - at_s


@pytest.mark.parametrize("count", [1, 2, 4, 8, 20])
@pytest.mark.parametrize("at_s", [0.3003, 0.307, 0.33, 0.345])
@pytest.mark.parametrize(
    ("level", "qos"),
    [(QoS.DEFAULT, QoS.DEFAULT), (QoS.USER_INITIATED, QoS.DEFAULT), (QoS.DEFAULT, QoS.USER_INTERACTIVE)],
)
def test_who_writes_with_others_takes_their_time_once_at_any_moment(
    level: QoS, qos: QoS, count: int, at_s: float
) -> None:
    """Between two launches all of them are ready, and in one, one of them runs."""
    found, foreseen_s, took_s = foreseen_and_took([writer(level)] * count, qos, 0.2, at_s)
    assert foreseen_s == pytest.approx(took_s, rel=0.1, abs=0.02), found


def test_those_who_read_prompts_take_their_own_time() -> None:
    scheduler, batch = Scheduler(), KnownCosts(COSTS)
    for rows in (1, 1, 30, 30):
        entry = Entry(next(ids), predicted_seconds_left=1.0)
        entry.batch, entry.rows, entry.brought = batch, rows, rows
        scheduler.submit(entry, 0.0)
    found = scheduler.backlog("cpu", 0.0)
    assert found.turns_s == (1.0, 1.0)
    assert found.shared == ((pytest.approx(1.1), pytest.approx(0.011)),)


def test_a_crowd_of_writers_is_looked_at_in_part_and_counted_whole() -> None:
    scheduler, batch = Scheduler(), KnownCosts(COSTS)
    for _ in range(100):
        entry = Entry(next(ids), predicted_seconds_left=1.0)
        entry.batch, entry.brought = batch, 1
        scheduler.submit(entry, 0.0)
    found = scheduler.backlog("cpu", 0.0)
    assert (found.turns_s, found.more) == ((), 0)
    assert found.shared == ((pytest.approx(4 * 4.1), pytest.approx(4 * 0.041)),), "four launches of 32"


def test_who_asks_for_itself_and_writes_with_others_has_longer_launches_and_no_turns() -> None:
    scheduler, batch = Scheduler(), KnownCosts(COSTS)
    entries = [Entry(next(ids), predicted_seconds_left=1.0) for _ in range(5)]
    for entry in entries:
        entry.batch, entry.brought = batch, 1
        scheduler.submit(entry, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    found = scheduler.backlog("cpu", 0.0, without=entries[0])
    assert (found.before_s, found.turns_s, found.shared) == (0.0, (), ())
    assert found.wait_s(1.0) == pytest.approx(0.4), "a launch of five takes 0.014 s"


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
