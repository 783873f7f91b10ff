"""The power state in a runtime: it reaches the policy, and a recorded run is replayed with its changes."""

import logging
from pathlib import Path

import anyio
import pytest
from rt_tools import simulated, until

import coro_rt
from coro_rt import Meter, PowerState, QoS, TraceFileError
from coro_rt.energy import Battery
from coro_rt.schedulers import PowerChange, PowerSave, simulate
from coro_rt.testing import VirtualClock, sim_work
from coro_rt.trace.reader import Trace
from coro_rt.trace.recorded import Recorded
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio

UNPLUGGED = PowerState(battery=1.0, charging=False)


@pytest.fixture
def anyio_backend() -> str:
    """The host makes no difference to what is decided."""
    return "trio"


async def index(clock: VirtualClock, started: list[float]) -> None:
    """A job that notes when it begins."""
    started.append(clock.now())
    await sim_work(1.0)


async def test_the_plug_ends_what_was_put_off_for_a_worker_that_rests() -> None:
    started: list[float] = []
    async with simulated(policy=PowerSave(window_s=8.0)) as (runtime, clock), anyio.create_task_group() as tg:
        with coro_rt.qos(QoS.BACKGROUND), clock.hold():
            tg.start_soon(runtime.run, index, clock, started)
            await anyio.wait_all_tasks_blocked()
            runtime.set_power(PowerState())
    assert started == [0.0]


async def test_a_job_put_off_by_an_empty_battery_can_be_cancelled() -> None:
    started: list[float] = []
    async with simulated(policy=PowerSave(window_s=8.0)) as (runtime, clock):
        runtime.set_power(PowerState(battery=0.0, charging=False))
        with coro_rt.qos(QoS.BACKGROUND), clock.hold(), anyio.CancelScope() as scope:
            async with runtime.start(index, clock, started):
                scope.cancel()
    assert not started


async def record(path: Path) -> None:
    """Background work while the plug is drawn, the battery drains, and the machine becomes hot."""
    started: list[float] = []
    states = [UNPLUGGED, PowerState(), PowerState(battery=0.3, charging=False), PowerState(thermal=0.6)]

    async def day(runtime: coro_rt.Runtime, clock: VirtualClock) -> None:
        jobs = []
        for state in states:
            runtime.set_power(state)
            for _ in range(10):
                with coro_rt.qos(QoS.BACKGROUND):
                    jobs.append(coro_rt.spawn(index, clock, started))
                await coro_rt.sleep(0.9)
        for job in jobs:
            await job

    async with simulated(policy=PowerSave(), record=path, max_wait_s=60.0) as (runtime, clock):
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            await runtime.run(day, runtime, clock)
    assert len(started) == 40


async def test_a_run_with_changes_is_replayed_exactly_and_simulated_with_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path)
    found = replay(Trace(path))
    assert found.complete
    assert not found
    recorded = Recorded(Trace(path))
    assert recorded.workload.power[0] == PowerChange(0.0, UNPLUGGED)
    assert len(recorded.workload.power) == 4
    assert simulate(recorded.workload, "powersave").ejected is None


async def test_a_state_that_cannot_be_in_a_trace_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(path)
    text = path.read_text()
    assert '"battery":0.3' in text
    for wrong in ('"battery":30', '"level":0.3'):
        path.write_text(text.replace('"battery":0.3', wrong))
        with pytest.raises(TraceFileError, match="'state' has 'battery', 'charging' and 'thermal', not"):
            replay(Trace(path))


class Watched(Meter):
    """Says what it is told to say, and notes how often it was asked."""

    def __init__(self, state: PowerState) -> None:
        super().__init__()
        self.watches_power = True
        self.state = state
        self.asked = 0

    def power_state(self) -> PowerState:
        self.asked += 1
        return self.state


async def test_what_the_meter_reads_reaches_the_policy_while_something_runs(tmp_path: Path) -> None:
    meter = Watched(PowerState(battery=0.5, charging=False))
    path = tmp_path / "trace.jsonl"
    async with simulated(policy="powersave", energy=meter, record=path) as (runtime, clock):
        await until(lambda: runtime.snapshot().power == meter.state)
        meter.state = PowerState(battery=0.4, charging=False)
        clock.advance(100.0)
        asked = meter.asked
        assert runtime.snapshot().power != meter.state, "nobody runs, so nobody looks"
        await runtime.run(sim_work_for, 1.0)
        await until(lambda: runtime.snapshot().power == meter.state)
        assert meter.asked == asked + 1
    assert not replay(Trace(path))


async def sim_work_for(seconds: float) -> None:
    """A job."""
    await sim_work(seconds)


async def test_it_is_looked_at_every_few_seconds_at_most(tmp_path: Path) -> None:
    meter = Watched(PowerState())
    async with simulated(energy=meter) as (runtime, _):
        for _ in range(100):
            await runtime.run(sim_work_for, 0.3)
        await until(lambda: meter.asked)
    assert meter.asked <= 7


async def test_a_meter_that_raises_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Watched):
        def power_state(self) -> PowerState:
            super().power_state()
            raise ZeroDivisionError

    meter = Broken(PowerState())
    async with simulated(energy=meter) as (runtime, _):
        for _ in range(5):
            await runtime.run(sim_work_for, 10.0)
        await until(lambda: caplog.records)
        assert runtime.snapshot().power is None
    assert meter.asked == 1
    assert caplog.records[0].getMessage() == "the power state cannot be read, and is not read again"


async def test_the_battery_of_the_machine_reaches_the_snapshot(tmp_path: Path) -> None:
    for name, value in {"type": "Battery", "capacity": "64", "status": "Discharging"}.items():
        (tmp_path / "BAT0").mkdir(exist_ok=True)
        (tmp_path / "BAT0" / name).write_text(value)
    async with simulated(energy=Meter(battery=Battery(tmp_path))) as (runtime, _):
        await until(lambda: runtime.snapshot().power == PowerState(battery=0.64, charging=False))
        assert runtime.snapshot().as_json()["power"] == {"battery": 0.64, "charging": False, "thermal": 1.0}


class Afraid(coro_rt.Policy):
    """First come, first served, until the battery is low."""

    def key(self, job: object, now: float) -> float:
        return job.submitted_at  # type: ignore[attr-defined, no-any-return]

    def on_power(self, state: PowerState, now: float) -> None:
        if state.battery is not None and state.battery < 0.2:
            raise RuntimeError("help")


async def test_a_policy_of_ones_own_that_raises_at_a_change_is_replaced_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[float] = []
    path = tmp_path / "trace.jsonl"
    with caplog.at_level(logging.WARNING, "coro_rt"):
        async with simulated(policy=Afraid(), record=path) as (runtime, clock):
            runtime.set_power(UNPLUGGED)
            assert runtime.snapshot().policy == "afraid"
            async with anyio.create_task_group() as tg:
                with clock.hold():
                    for _ in range(3):
                        tg.start_soon(runtime.run, index, clock, started)
                    await anyio.wait_all_tasks_blocked()
                    runtime.set_power(PowerState(battery=0.1, charging=False))
            assert runtime.snapshot().policy == "dynamic"
    assert len(started) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "policy 'afraid' was replaced by 'dynamic' at 0.000 s: its on_power failed: raised RuntimeError: help"
    ]
    assert not replay(Trace(path), Afraid)
