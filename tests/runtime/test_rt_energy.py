"""Joules in virtual time: who is charged for them, what is left, what is modelled, when they are read."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rt_bus import Bus
from rt_energy import Counter
from rt_tools import simulated

import coro_rt
from coro_rt import Meter, QoS, Runtime
from coro_rt.devices.cpu import CpuDevice
from coro_rt.testing import SimDevice, VirtualClock, sim_work

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The host makes no difference to who pays."""
    return "trio"


@asynccontextmanager
async def measured(counter: Counter, **options: Any) -> AsyncIterator[tuple[Runtime, VirtualClock]]:
    """A runtime whose device is measured; whatever was counted is charged to somebody, or idle."""
    clock = counter.clock
    options = {"devices": [SimDevice(watts=3.0)], **options}
    async with simulated(clock=clock, energy=Meter([counter]), **options) as (runtime, _):
        yield runtime, clock
    if len(counter.readings) > 1:
        energy = runtime.stats().energy[counter.device]
        counted = counter.until(counter.readings[-1]) - counter.until(counter.readings[0])
        account = runtime._engine.workers[counter.device]._account
        assert account is not None
        counted += account._ended_joules  # paid at the end of a job, after the last reading
        assert energy.joules - energy.modelled_joules + energy.idle_joules == pytest.approx(counted)


async def work(seconds: float) -> None:
    """A job."""
    await sim_work(seconds)


async def pauses(*seconds: float) -> None:
    """A job that works and sleeps in turn."""
    for number, each in enumerate(seconds):
        await (coro_rt.sleep(each) if number % 2 else sim_work(each))


async def test_jobs_pay_by_their_device_seconds() -> None:
    async with measured(Counter(10.0)) as (runtime, clock):
        async with runtime.start(work, 1.0) as short, runtime.start(work, 3.0) as long:
            with clock.hold():
                await anyio.wait_all_tasks_blocked()
            await short.result()
            await long.result()
        for handle in (short, long):
            assert handle.ledger.joules == pytest.approx(10 * handle.ledger.device_s, rel=0.01)
            assert handle.ledger.modelled_joules == 0


async def test_a_pause_is_nobodys() -> None:
    counter = Counter({0.0: 20.0, 1.0: 5.0, 11.0: 30.0})
    async with measured(counter) as (runtime, _), runtime.start(pauses, 1.0, 10.0, 1.0) as job:
        await job.result()
    assert job.ledger.joules == pytest.approx(50.0)
    energy = runtime.stats().energy["sim"]
    assert energy.source == "counter"
    assert (energy.joules, energy.idle_joules) == pytest.approx((50.0, 50.0))


async def test_within_an_interval_jobs_pay_its_mean_power() -> None:
    """A pause that is too short to be read is shared out like the rest: by time."""
    counter = Counter(10.0)
    counter.least_s = 100.0
    async with measured(counter) as (runtime, clock), runtime.start(pauses, 1.0, 2.0, 1.0) as job:
        with clock.hold():
            await anyio.wait_all_tasks_blocked()
        await job.result()
        counter.least_s = 0.0
        await runtime.run(work, 1.0)
    energy = runtime.stats().energy["sim"]
    assert energy.joules - energy.modelled_joules == pytest.approx(10.0)
    assert job.ledger.modelled_joules == pytest.approx(6.0), "it ended before there was any interval"


async def test_what_ends_between_two_readings_pays_as_in_the_last_interval() -> None:
    async with measured(Counter(10.0)) as (runtime, _):
        ledgers = []
        for seconds in (0.005, 1.0, 0.005):
            async with runtime.start(work, seconds) as job:
                await job.result()
            ledgers.append(job.ledger)
    first, long, last = ledgers
    assert (first.joules, first.modelled_joules) == pytest.approx((0.015, 0.015)), "nothing was known"
    assert (long.joules, long.modelled_joules) == pytest.approx((10.0, 0.0), rel=0.01)
    assert (last.joules, last.modelled_joules) == pytest.approx((0.05, 0.0), rel=0.01)


async def test_a_cancelled_job_pays_for_what_it_had() -> None:
    async def cancel() -> coro_rt.Job[None]:
        child = coro_rt.spawn(work, 5.0)
        await coro_rt.sleep(2.0)
        child.cancel()
        with pytest.raises(coro_rt.JobCancelled):
            await child
        return child

    async with measured(Counter(10.0)) as (runtime, _):
        job = await runtime.run(cancel)
        assert 2.0 <= job.ledger.device_s < 5.0
        assert job.ledger.joules == pytest.approx(10 * job.ledger.device_s, rel=0.01)


async def test_parents_have_their_childrens_joules_and_the_runtime_those_of_all_who_ended() -> None:
    async def parent() -> None:
        children = [coro_rt.spawn(work, 1.0) for _ in range(3)]
        await sim_work(1.0)
        for child in children:
            await child

    async with measured(Counter(10.0)) as (runtime, _):
        async with runtime.start(parent) as job:
            await job.result()
        assert job.ledger.joules == pytest.approx(40.0, rel=0.01)
        ended = runtime.snapshot().ended
        assert (ended.joules, ended.modelled_joules) == (job.ledger.joules, 0.0)


async def test_riders_pay_by_their_rows() -> None:
    bus, counter = Bus(), Counter(10.0)
    async with measured(counter) as (runtime, clock):
        await runtime.run(work, 1.0)
        handles = []
        with clock.hold(), coro_rt.qos(QoS.BACKGROUND):
            for rows in (1, 2, 3):
                handle = runtime.start(bus.passenger, str(rows), rows, 20)
                await handle.__aenter__()
                handles.append(handle)
        for handle in handles:
            await handle.result()
            assert handle.ledger.joules == pytest.approx(10 * handle.ledger.device_s, rel=0.02)
        assert runtime.stats().rides > 0


async def test_who_moves_pays_on_each_device() -> None:
    async def wanders() -> None:
        await sim_work(1.0)
        await coro_rt.move_to("far")
        await sim_work(1.0)
        await coro_rt.move_to("near")
        await sim_work(1.0)

    devices = [SimDevice("near"), SimDevice("far", watts=2.0)]
    async with measured(Counter(10.0, device="near"), devices=devices) as (runtime, _):
        async with runtime.start(wanders) as job:
            await job.result()
        assert (job.ledger.joules, job.ledger.modelled_joules) == pytest.approx((22.0, 2.0), rel=0.02)
        energy = runtime.stats().energy
        assert (energy["near"].source, energy["near"].modelled_joules) == ("counter", 0.0)
        assert (energy["far"].source, energy["far"].joules) == ("model", pytest.approx(2.0))


async def test_a_source_measures_one_device() -> None:
    counter = Counter(10.0)
    counter.measures = lambda device: True  # type: ignore[method-assign]
    devices = [SimDevice("sim"), SimDevice("other")]
    async with measured(counter, devices=devices) as (runtime, _):
        sources = [energy.source for energy in runtime.stats().energy.values()]
    assert sources == ["counter", "model"]


@settings(max_examples=40, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.003, 0.05, 1.5]), st.sampled_from([0.001, 0.03, 1.0])),
        min_size=1,
        max_size=8,
    ),
    cancelled=st.integers(0, 8),
)
def test_all_that_is_counted_is_charged_or_idle(jobs: list[tuple[float, float]], cancelled: int) -> None:
    async def main() -> None:
        counter = Counter({0.0: 7.0, 0.4: 20.0, 1.1: 3.0})

        async def everybody() -> None:
            started = []
            for gap, seconds in jobs:
                await coro_rt.sleep(gap)
                started.append(coro_rt.spawn(pauses, seconds, gap, seconds))
            for job in started[:cancelled]:
                job.cancel()
            for job in started[cancelled:]:
                await job

        async with measured(counter) as (runtime, _), runtime.start(everybody) as job:
            await job.result()
            energy = runtime.stats().energy["sim"]
            assert job.ledger.joules == pytest.approx(energy.joules)
            assert job.ledger.modelled_joules == pytest.approx(energy.modelled_joules)

    anyio.run(main, backend="trio")  # and `measured` compares with what was counted


# When it is read.


async def test_an_idle_runtime_reads_nothing_and_a_busy_one_once_a_second() -> None:
    counter = Counter(10.0)
    async with measured(counter) as (runtime, clock):
        await runtime.run(work, 0.0)
        before = len(counter.readings)
        clock.advance(3600.0)
        assert len(counter.readings) == before
        await runtime.run(work, 60.0)
        assert 50 <= len(counter.readings) - before <= 64


async def test_a_source_that_fails_is_replaced_by_the_model_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counter = Counter(10.0)
    clock = counter.clock
    with caplog.at_level(logging.WARNING, "coro_rt"):
        async with simulated(clock=clock, devices=[SimDevice(watts=3.0)], energy=Meter([counter])) as (
            runtime,
            _,
        ):
            await runtime.run(work, 1.0)
            counter.fails = True
            async with runtime.start(work, 2.0) as job:
                await job.result()
            energy = runtime.stats().energy["sim"]
    assert [record.getMessage() for record in caplog.records] == [
        "counter can be read no more, so the joules of 'sim' are modelled from now on: gone"
    ]
    assert job.ledger.joules == job.ledger.modelled_joules == pytest.approx(6.0, rel=0.01)
    assert (energy.source, energy.joules) == ("model", pytest.approx(16.0, rel=0.01))


async def test_a_meter_of_ones_own_stays_open_for_the_next_runtime() -> None:
    counter = Counter(10.0)
    for _ in range(2):
        async with simulated(clock=VirtualClock(), energy=Meter([counter])):
            pass
    assert not counter.closed


async def test_what_a_runtime_has_found_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(10.0)
    monkeypatch.setattr(Meter, "find", lambda kinds: Meter([counter]))
    async with simulated():
        assert not counter.closed
    assert counter.closed


async def test_the_model_is_watts_times_seconds_in_kernels() -> None:
    async with simulated(devices=[SimDevice(watts=3.0)], energy="modelled") as (runtime, _):
        async with runtime.start(work, 2.0) as job:
            await job.result()
        assert job.ledger.joules == job.ledger.modelled_joules == pytest.approx(6.0)
    assert CpuDevice(threads=4).watts == 20.0


@pytest.mark.parametrize("wrong", ["off", None, True])
async def test_energy_is_auto_modelled_or_a_meter(wrong: object) -> None:
    with pytest.raises(ValueError, match=f"energy is 'auto', 'modelled' or a Meter, not {wrong!r}"):
        coro_rt.open_runtime(energy=wrong)  # type: ignore[arg-type]
