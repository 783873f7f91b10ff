"""The simulator: the very same scheduler in virtual time. Exact, complete, bounded."""

from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import (
    POLICIES,
    BatchTiming,
    Change,
    DeviceTiming,
    Milestone,
    Policy,
    Predict,
    QoS,
    Rows,
    Run,
    SchedulerError,
    SeenLaunch,
    Wait,
    Workload,
    WorkloadJob,
    simulate,
)

SLICE_S = Policy.slice_s
seconds = st.floats(0, 0.05, allow_nan=False)


def job(name: str, *steps, at: float = 0.0, qos: QoS = QoS.DEFAULT, **more) -> WorkloadJob:
    return WorkloadJob(name, at, tuple(steps), qos, **more)


def workload(*jobs: WorkloadJob, give_way_s: float = 0.0005, **more) -> Workload:
    return Workload(jobs, devices={"cpu": DeviceTiming((give_way_s,))}, **more)


@st.composite
def workloads(draw) -> Workload:
    """Jobs with waits of all kinds; whoever waits for a job waits for an earlier one, so nobody for ever."""
    jobs: list[WorkloadJob] = []
    for number in range(draw(st.integers(1, 12))):
        earlier = st.integers(0, max(0, number - 1))
        steps = []
        for _ in range(draw(st.integers(0, 4))):
            match draw(st.sampled_from(["run", "sleep", "predict", "wait"])):
                case "run":
                    steps.append(Run(draw(seconds)))
                case "sleep":
                    steps += [Run(draw(seconds)), Wait(draw(seconds))]
                case "predict":
                    steps.append(Predict(draw(seconds)))
                case "wait" if number:
                    other = draw(earlier)
                    milestone = Milestone(other, draw(st.one_of(st.just(inf), seconds)))
                    steps.append(Wait(0.0, milestone, draw(st.sampled_from([None, other]))))
        changes = [
            Change(draw(seconds), draw(st.sampled_from([None, *QoS])), None, draw(st.booleans()))
            for _ in range(draw(st.integers(0, 2)))
        ]
        after = Milestone(draw(earlier), draw(seconds)) if number and draw(st.booleans()) else None
        pause_s = None if after is None else draw(st.one_of(st.none(), seconds))
        jobs.append(
            WorkloadJob(
                f"job-{number}",
                draw(seconds),
                tuple(steps),
                draw(st.sampled_from(QoS)),
                draw(st.sampled_from(["one", "two"])),
                draw(st.sampled_from(["cpu", "npu"])),
                draw(st.one_of(st.just(inf), seconds)),
                after=after,
                pause_s=pause_s,
                changes=tuple(changes),
            )
        )
    devices = {"cpu": DeviceTiming((0.0005, 0.0), (0.0, 0.001)), "npu": DeviceTiming((0.0,))}
    return Workload(tuple(jobs), devices=devices)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=150, deadline=None)
@given(work=workloads())
def test_nothing_is_lost_service_is_conserved_and_the_same_comes_out_again(policy, work):
    outcome = simulate(work, policy, spans=True)
    assert len(outcome.jobs) == len(work.jobs)
    for made, became in zip(work.jobs, outcome.jobs, strict=True):
        assert became.ended_s < inf
        if became.started_s < inf:
            assert became.served_s == pytest.approx(made.service_s, abs=1e-6)
        else:
            assert any(change.cancel for change in made.changes)
        assert became.waited_s >= 0
        assert became.arrived_s <= became.ended_s
    on_devices = sum(span.end_s - span.begin_s for span in outcome.spans)
    assert on_devices == pytest.approx(sum(outcome.service_s.values()), abs=1e-6)
    for device in work.devices:
        spans = [span for span in outcome.spans if span.device == device]
        assert all(a.end_s <= b.begin_s for a, b in pairwise(spans))
    assert simulate(work, policy, spans=True) == outcome


def test_a_job_alone_runs_through_in_one_event_however_long_it_is():
    outcome = simulate(workload(job("long", Run(3600.0))))
    assert outcome.ended_s == 3600.0
    assert outcome.events < 10
    assert outcome.jobs[0].waited_s == 0.0


def test_an_urgent_job_waits_no_longer_than_giving_way_takes():
    outcome = simulate(
        workload(
            job("background", Run(1.0), qos=QoS.BACKGROUND),
            job("urgent", Run(0.1), at=0.5, qos=QoS.USER_INTERACTIVE),
            give_way_s=0.0005,
        )
    )
    background, urgent = outcome.jobs
    assert urgent.started_s - urgent.arrived_s == pytest.approx(0.0005)
    assert urgent.ended_s == pytest.approx(0.6005)
    assert background.ended_s == pytest.approx(1.1)


def test_equals_share_slice_by_slice():
    outcome = simulate(workload(job("a", Run(0.1)), job("b", Run(0.1))), spans=True)
    assert [job.ended_s for job in outcome.jobs] == pytest.approx([0.198, 0.2], abs=SLICE_S)
    assert max(span.end_s - span.begin_s for span in outcome.spans) == pytest.approx(SLICE_S)


def test_a_wait_outside_takes_as_long_as_it_says_and_leaves_the_device_to_others():
    outcome = simulate(workload(job("a", Run(0.1), Wait(0.3), Run(0.1)), job("b", Run(0.3), at=0.1)))
    assert outcome.jobs[0].ended_s == pytest.approx(0.5)
    assert outcome.jobs[1].ended_s == pytest.approx(0.4)


def test_a_wait_for_a_milestone_ends_in_the_middle_of_that_jobs_piece():
    outcome = simulate(
        workload(
            job("holder", Run(1.0)),
            job("waiter", Run(0.0), Wait(until=Milestone(0, 0.25), on=0), Run(0.1), qos=QoS.USER_INTERACTIVE),
        )
    )
    assert outcome.jobs[1].ended_s == pytest.approx(0.35)


def test_who_is_waited_for_inherits_the_urgency():
    def ended(on: int | None) -> float:
        steps = Run(0.0), Wait(until=Milestone(0), on=on), Run(0.01)
        jobs = [job("holder", Run(0.1), qos=QoS.BACKGROUND)]
        jobs += [job("other", Run(0.5), qos=QoS.USER_INITIATED, at=0.01)]
        jobs += [job("urgent", *steps, qos=QoS.USER_INTERACTIVE)]
        return simulate(workload(*jobs, background_share=0.0)).jobs[2].ended_s

    assert ended(on=0) < 0.12
    assert ended(on=None) > 0.5


def test_a_job_comes_at_the_milestone_of_the_one_that_starts_it():
    jobs = job("parent", Run(0.2), at=1.0), job("child", Run(0.1), after=Milestone(0, 0.1))
    assert simulate(workload(*jobs)).jobs[1].arrived_s == pytest.approx(1.1)


def test_a_job_that_is_asked_for_after_another_one_comes_when_that_is_done_with_its_deadline_and_changes():
    cancel = (Change(0.95, cancel=True),)
    steps = Run(0.01), Wait(50.0)
    asked = job("b", *steps, at=0.7, after=Milestone(0), pause_s=0.2, deadline_s=1.7, changes=cancel)
    _, outcome = simulate(workload(job("a", Run(3.0)), asked)).jobs
    assert (outcome.arrived_s, outcome.deadline_s) == pytest.approx((3.2, 4.2))
    assert outcome.ended_s == pytest.approx(3.45, abs=0.001)


def test_a_launch_takes_as_long_as_the_last_one_of_like_size_by_then():
    seen = [SeenLaunch(0.0, 1, 0.1), SeenLaunch(1.0, 1, 0.5), SeenLaunch(0.0, 3, 0.9)]
    timing = BatchTiming((0.1, 0.2, 0.3, 0.4, 0.5), seen=tuple(seen))

    def took(at: float, rows: int) -> float:
        (outcome,) = simulate(workload(job("one", Rows(0, rows), at=at), batches=(timing,))).jobs
        return outcome.ended_s - outcome.arrived_s

    assert [took(at, 1) for at in (0.0, 0.99, 1.0, 7.0)] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert took(0.0, 4) == pytest.approx(0.9 * 4 / 3)
    assert took(0.0, 5) == pytest.approx(0.5 * 1.5 / 0.5)  # none of its size: as slow as the others were


def test_what_a_launch_leaves_over_goes_into_the_next_one_of_several_rows():
    """Two prompts share launches of 6 rows: 4 and 2, then 3 and 3, as the second one brings 4 again; 1 and 2,
    and 1."""
    timing = BatchTiming((1.0,) * 6)
    rows = Rows(0, 4, 4), Run(0.0), Rows(0, 3, 3), Run(0.0), Rows(0, 1, 1)
    jobs = [job(name, *rows, qos=QoS.BACKGROUND, batch=0) for name in "ab"]
    first, second = simulate(workload(*jobs, batches=(timing,))).jobs
    assert (first.ended_s, second.ended_s) == pytest.approx((3.0, 4.0))


def test_an_idle_device_takes_a_while_to_begin():
    devices = {"cpu": DeviceTiming(wake_s=(0.1, 0.3))}
    jobs = [job(name, Run(1.0), at=at) for name, at in (("a", 0.0), ("b", 0.05), ("c", 5.0))]
    waited = [job.waited_s for job in simulate(Workload(tuple(jobs), devices), "fifo").jobs]
    assert waited == pytest.approx([0.1, 1.05, 0.3])


def test_decisions_go_by_what_had_been_learned_by_then():
    """As long as two rows seem to cost twice as much as one, background does not ride with the urgent."""

    def rides(pairs_s: float) -> bool:
        learned = [SeenLaunch(0.0, 1, 0.001) for _ in range(50)]
        learned += [SeenLaunch(0.0, 2, pairs_s) for _ in range(50)]
        timing = BatchTiming((0.001, 0.001), learned=tuple(learned))
        rows = [Rows(0)] * 100
        jobs = [
            job(name, *rows, qos=qos, batch=0)
            for name, qos in (("a", QoS.BACKGROUND), ("b", QoS.USER_INTERACTIVE))
        ]
        background, _ = simulate(workload(*jobs, batches=(timing,), background_share=0.0)).jobs
        return background.ended_s < 0.15

    assert rides(0.001)
    assert not rides(0.002)


def test_a_cancelled_job_that_has_not_started_leaves_and_one_that_sleeps_is_served_next():
    cancel = (Change(0.5, cancel=True),)
    outcome = simulate(
        workload(
            job("sleeper", Run(0.001), Wait(50.0), qos=QoS.BACKGROUND, changes=cancel),
            job("busy", Run(1.0), qos=QoS.USER_INTERACTIVE, at=0.01),
            job("never", Run(1.0), qos=QoS.BACKGROUND, at=0.02, changes=cancel),
            background_share=0.0,
        ),
        "strict",
    )
    sleeper, _, never = outcome.jobs
    assert (never.started_s, never.ended_s) == (inf, 0.5)
    assert sleeper.ended_s == pytest.approx(0.5005)


def test_urgency_changes_while_a_job_waits():
    change = Change(0.1013, QoS.USER_INTERACTIVE)
    jobs = [job("long", Run(5.0)), job("raised", Run(0.01), qos=QoS.BACKGROUND, changes=(change,))]
    raised = simulate(workload(*jobs), "strict").jobs[1]
    assert raised.started_s == pytest.approx(0.1018)


def test_missed_deadlines_are_counted():
    jobs = job("met", Run(0.1), deadline_s=0.2), job("missed", Run(0.5), at=0.0, deadline_s=0.3)
    outcome = simulate(workload(*jobs), "fifo")
    assert (outcome.deadlines, outcome.missed_deadlines) == (2, 1)


def test_jobs_that_wait_for_each_other_are_an_error_that_names_them():
    circle = workload(
        job("hen", Run(0.1), Wait(until=Milestone(1))), job("egg", Run(0.1), Wait(until=Milestone(0)))
    )
    with pytest.raises(SchedulerError, match="hen, egg"):
        simulate(circle)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (job("a", device="gpu"), "device 'gpu'"),
        (job("a", Run(-1.0)), "seconds are a number from 0 on"),
        (job("a", Wait(until=Milestone(7))), "waits for job 7"),
        (job("a", Wait(until=Milestone(0))), "waits for itself"),
        (job("a", at=inf), "arrives at inf"),
        (job("a", pause_s=0.1), "pauses for 0.1 after None"),
    ],
)
def test_a_workload_that_cannot_be_is_refused_with_its_job(wrong, said):
    with pytest.raises(SchedulerError, match=f"job 0 .*{said}"):
        workload(wrong)


@pytest.mark.parametrize(
    "launch", [SeenLaunch(0.0, 0, 0.1), SeenLaunch(0.0, 1, 0.0), SeenLaunch(inf, 1, 0.1)]
)
def test_a_launch_that_cannot_have_been_is_refused(launch):
    with pytest.raises(SchedulerError, match="there cannot have been SeenLaunch"):
        workload(batches=(BatchTiming((0.1,), seen=(launch,)),))


def test_a_policy_that_fails_is_reported_and_all_jobs_end():
    class Broken(Policy):
        def key(self, job, now):
            raise ValueError("no")

    outcome = simulate(workload(job("a", Run(0.1)), job("b", Run(0.1))), Broken())
    assert outcome.policy == "broken"
    assert outcome.ejected is not None
    assert "ValueError" in outcome.ejected
    assert outcome.ended_s == pytest.approx(0.2)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_number_of_events_is_bounded_by_the_work_whatever_the_time_that_passes(policy):
    random = Random(7)
    jobs = []
    for number in range(2000):  # a day
        at, service_s = random.uniform(0, 86_400), random.expovariate(1 / 0.5)
        jobs.append(job(f"job-{number}", Run(service_s), at=at, qos=random.choice(list(QoS))))
    reports: list[float] = []
    outcome = simulate(workload(*jobs), policy, progress=reports.append)
    busy_s = sum(outcome.service_s.values())
    assert outcome.events <= 2 * busy_s / SLICE_S + 10 * len(jobs)
    assert reports == sorted(reports)
    assert reports[-1] == outcome.ended_s


def test_tenants_with_equal_work_are_served_alike_although_one_floods():
    jobs = [job(f"flood-{i}", Run(0.01), tenant="flood") for i in range(1000)]
    jobs += [job("one", Run(2.0), tenant="quiet")]
    outcome = simulate(workload(*jobs))
    assert outcome.jobs[-1].ended_s < 4.1


@pytest.mark.parametrize("policy", [name for name, kind in POLICIES.items() if kind.guarantees_background])
def test_background_gets_its_share_under_nothing_but_interactive_load(policy):
    asks = [job(f"ask-{i}", Run(0.5), at=i * 0.5, qos=QoS.USER_INTERACTIVE) for i in range(120)]
    outcome = simulate(workload(*asks, job("summary", Run(60.0), qos=QoS.BACKGROUND)), policy, spans=True)
    share = sum(
        min(span.end_s, 60.0) - span.begin_s
        for span in outcome.spans
        if span.job == len(asks) and span.begin_s < 60.0
    )
    assert share / 60.0 >= 0.049
