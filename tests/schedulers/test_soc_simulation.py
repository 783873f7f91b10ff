"""The simulator on chips: tokens instead of seconds, decided by the same scheduler."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import (
    BatchTiming,
    Change,
    DeviceTiming,
    Entry,
    Policy,
    PowerSave,
    PowerState,
    QoS,
    Rows,
    Run,
    SchedulerError,
    Wait,
    Workload,
    WorkloadJob,
    simulate,
)
from coro_rt.schedulers.pace import CHUNK
from coro_rt.schedulers.soc import CHIPS, get_chip, get_model
from coro_rt.schedulers.soc.roofline import seconds
from coro_rt.schedulers.soc.simulation import simulate_on

GEN_3 = get_chip("snapdragon-8-gen-3")
MODEL = get_model("llama-3.2-3b")
NAMED = {name: DeviceTiming() for name in ("cpu", "gpu", "npu")}


def job(name: str, reads: int = 0, writes: int = 0, *, at: float = 0.0, **more) -> WorkloadJob:
    steps = ([Rows(0, reads, CHUNK)] if reads else []) + ([Rows(0, writes, 1)] if writes else [])
    return WorkloadJob(name, at, tuple(steps), batch=0, **more)


def workload(*jobs: WorkloadJob, **more) -> Workload:
    return Workload(jobs, batches=(MODEL,), **more)


def alone_s(processor: str, reads: int, writes: int) -> float:
    """What a job takes that is alone on a chip, by the roofline."""
    rows = [(min(CHUNK, reads - behind), behind) for behind in range(0, reads, CHUNK)]
    rows += [(1, reads + written) for written in range(writes)]
    return sum(seconds(GEN_3.processor(processor), MODEL.step([row])) for row in rows)


@st.composite
def workloads(draw) -> Workload:
    jobs = []
    for number in range(draw(st.integers(1, 8))):
        steps = []
        for _ in range(draw(st.integers(0, 3))):
            match draw(st.sampled_from(["read", "write", "wait", "run"])):
                case "read":
                    steps.append(Rows(0, draw(st.integers(1, 300)), CHUNK))
                case "write":
                    steps.append(Rows(0, draw(st.integers(1, 8)), 1))
                case "wait":
                    steps.append(Wait(draw(st.floats(0, 1))))
                case "run":
                    steps.append(Run(draw(st.floats(0, 0.2))))
        changes = []
        if draw(st.booleans()):
            changes.append(Change(draw(st.floats(0, 2)), cancel=True))
        jobs.append(
            WorkloadJob(
                f"job-{number}",
                draw(st.floats(0, 1)),
                tuple(steps),
                draw(st.sampled_from(QoS)),
                device=draw(st.sampled_from(["cpu", "gpu", "npu"])),
                deadline_s=draw(st.one_of(st.just(inf), st.floats(0, 5))),
                changes=tuple(changes),
                batch=0,
            )
        )
    return Workload(tuple(jobs), devices=NAMED, batches=(MODEL,))


@settings(max_examples=25, deadline=None)
@given(workloads(), st.sampled_from(["dynamic", "fair", "powersave"]), st.sampled_from(sorted(CHIPS)))
def test_all_jobs_end_energy_adds_up_and_the_same_again_is_the_same(given_workload, policy, name):
    chip = get_chip(name)
    outcome = simulate_on(chip, given_workload, policy)
    assert outcome == simulate_on(chip, given_workload, policy)
    assert outcome.ejected is None
    done = outcome.chip
    assert done is not None
    for ended in outcome.jobs:
        given_job = given_workload.jobs[ended.number]
        rows = sum(step.rows for step in given_job.steps if isinstance(step, Rows))
        assert ended.tokens == rows or (given_job.changes and ended.tokens <= rows)
        if given_job.device in chip.names:
            assert ended.device == given_job.device
    of_jobs = sum(ended.joules for ended in outcome.jobs)
    assert of_jobs == pytest.approx(sum(done.drawn_joules.values()), abs=1e-6)
    drawn = sum(done.drawn_joules.values()) + chip.awake_w * done.awake_s + done.idle_joules
    assert done.joules == pytest.approx(drawn)
    assert done.hottest_c <= chip.heat.limit_c


@pytest.mark.parametrize("processor", ["big", "gpu", "npu"])
def test_a_job_alone_takes_what_the_roofline_says(processor):
    outcome = simulate_on(GEN_3, workload(job("a", 300, 20)), on=[processor])
    assert outcome.ended_s == pytest.approx(alone_s(processor, 300, 20), rel=1e-6)
    assert outcome.tokens == 320


def test_two_that_write_on_different_processors_share_the_memory():
    """Nobody is faster for the other, and together they are faster than one after the other."""
    jobs = [job(name, 0, 50, device=name) for name in ("gpu", "npu")]
    outcome = simulate_on(GEN_3, workload(*jobs, devices=NAMED))
    gpu, npu = outcome.jobs
    assert gpu.ended_s > alone_s("gpu", 0, 50) * 1.05
    assert npu.ended_s > alone_s("npu", 0, 50) * 1.05
    assert outcome.ended_s < alone_s("gpu", 0, 50) + alone_s("npu", 0, 50)


def test_two_that_write_on_one_processor_read_the_weights_once():
    one = simulate_on(GEN_3, workload(job("a", 0, 50)), on=["npu"])
    two = simulate_on(GEN_3, workload(job("a", 0, 50), job("b", 0, 50)), on=["npu"])
    apart = simulate_on(GEN_3, workload(job("a", 0, 50), job("b", 0, 50), members=1), on=["npu"])
    assert two.ended_s < 1.2 * one.ended_s
    assert apart.ended_s > 1.9 * one.ended_s


def test_a_job_is_cancelled_halfway_and_the_others_go_on():
    kept, cancelled = job("kept", 0, 40), job("cancelled", 0, 40, changes=(Change(0.5, cancel=True),))
    outcome = simulate_on(GEN_3, workload(kept, cancelled), on=["npu"])
    assert outcome.jobs[0].tokens == 40
    assert 5 < outcome.jobs[1].tokens < 30
    assert outcome.jobs[1].ended_s < 0.6


def test_prompts_are_read_where_that_is_fast_and_a_crowd_is_spread():
    one = simulate_on(GEN_3, workload(job("a", 1000, 1)))
    assert one.chip is not None
    assert one.chip.busy_s["npu"] > 0.9 * one.ended_s
    many = workload(*[job(f"job-{number}", 800, 40, qos=QoS.UTILITY) for number in range(12)])
    crowd = simulate_on(GEN_3, many)
    assert crowd.chip is not None
    assert crowd.chip.busy_s["npu"] > 0
    assert crowd.chip.busy_s["gpu"] > 0
    best = min(simulate_on(GEN_3, many, on=[name]).ended_s for name in ("big", "gpu", "npu"))
    assert crowd.ended_s < best


def test_an_urgent_question_hardly_waits_beside_background_work():
    background = [job(f"job-{n}", 1500, 100, qos=QoS.BACKGROUND) for n in range(6)]
    urgent = job("urgent", 64, 8, at=2.0, qos=QoS.USER_INTERACTIVE)
    outcome = simulate_on(GEN_3, workload(*background, urgent))
    assert outcome.jobs[-1].waited_s < 0.2


def test_a_job_whose_time_is_given_in_seconds_takes_them():
    timed = WorkloadJob("timed", 0.0, (Run(1.5),))
    outcome = simulate_on(GEN_3, Workload((timed,)))
    assert outcome.ended_s == pytest.approx(1.5)
    assert outcome.jobs[0].device == "big"


def test_the_battery_falls_and_powersave_hears_of_it():
    heard = []

    class Listens(PowerSave):
        def on_power(self, state, now):
            heard.append((now, state.battery, state.charging))
            super().on_power(state, now)

    small = replace(GEN_3, battery_j=200.0)
    simulate_on(small, workload(job("a", 20_000, 200)), Listens(), battery=0.9)
    assert heard[0] == (0.0, 0.9, False)
    assert heard[-1][1] < 0.5
    assert [battery for _, battery, _ in heard] == sorted((battery for _, battery, _ in heard), reverse=True)


def test_frugal_work_takes_fewer_joules_and_longer():
    class Frugal(Policy):
        def key(self, job, now):
            return job.submitted_at

        def stretch(self, job, now):
            return inf

    one = workload(job("a", 2000, 100, qos=QoS.BACKGROUND))
    fast, slow = (simulate_on(GEN_3, one, policy, on=["gpu"]) for policy in ("fifo", Frugal()))
    assert fast.chip is not None
    assert slow.chip is not None
    assert slow.ended_s > fast.ended_s
    assert slow.chip.joules < 0.95 * fast.chip.joules


def test_powersave_stretches_what_nobody_waits_for_and_slows_nobody_else_down():
    policy, state = PowerSave(), PowerState(charging=False, battery=0.5)
    policy.on_power(state, 0.0)
    for qos in QoS:
        stretch = policy.stretch(Entry(1, qos=qos), 0.0)
        assert stretch == inf if qos <= QoS.UTILITY else 1 <= stretch < 1.1
    policy.on_power(PowerState(charging=True), 0.0)
    assert all(policy.stretch(Entry(1, qos=qos), 0.0) == 0 for qos in QoS)


def test_who_waits_for_memory_is_no_slower_at_a_lower_frequency_and_takes_fewer_joules():
    one = workload(job("a", 0, 100, qos=QoS.USER_INTERACTIVE))
    fast, saving = (simulate_on(GEN_3, one, policy, on=["npu"]) for policy in ("dynamic", "powersave"))
    assert fast.chip is not None
    assert saving.chip is not None
    assert saving.ended_s <= 1.05 * fast.ended_s
    assert saving.chip.joules < 0.8 * fast.chip.joules


def test_a_deadline_that_is_near_ends_frugality():
    one = job("a", 2000, 100, qos=QoS.UTILITY)
    free = simulate_on(GEN_3, workload(one), "powersave", on=["gpu"])
    fast = simulate_on(GEN_3, workload(one), "dynamic", on=["gpu"])
    near = replace(one, deadline_s=1.2 * fast.ended_s)
    in_time = simulate_on(GEN_3, workload(near), "powersave", on=["gpu"])
    assert free.ended_s > near.deadline_s
    assert in_time.missed_deadlines == 0


def test_a_crowd_that_writes_stays_together():
    many = workload(*[job(f"job-{number}", 0, 30) for number in range(12)])
    crowd = simulate_on(GEN_3, many)
    assert crowd.ended_s <= 1.05 * min(simulate_on(GEN_3, many, on=[name]).ended_s for name in ("gpu", "npu"))


def test_tokens_need_a_chip_and_a_chip_needs_tokens():
    with pytest.raises(SchedulerError, match=r"in tokens of llama-.*: say on which chip"):
        simulate(workload(job("a", 10, 1)))
    timed = Workload((job("a", 10, 1),), batches=(BatchTiming((0.001,)),))
    with pytest.raises(SchedulerError, match="launches in seconds"):
        simulate_on(GEN_3, timed)
    with pytest.raises(SchedulerError, match="no processor 'tpu'"):
        simulate_on(GEN_3, workload(job("a", 10, 1)), on=["tpu"])
