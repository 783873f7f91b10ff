"""The virtual clock and the simulated device: same jobs, same schedule, and no time passes."""

import random
import threading
import time
from typing import Any

import anyio
import pytest
from rt_tools import PATIENCE_S, opened, simulated, until

import coro_rt
from coro_rt import QoS
from coro_rt.testing import SimDevice, VirtualClock, sim_work
from coro_rt.worker import Worker

pytestmark = pytest.mark.anyio


async def test_simulated_work_takes_virtual_time() -> None:
    async def job() -> float:
        await sim_work(36.0)
        await coro_rt.sleep(3600.0)
        return coro_rt.current_job().engine.clock()

    async with simulated() as (runtime, clock):
        assert await runtime.run(job) == pytest.approx(3636.0)
        assert clock.now() == pytest.approx(3636.0)


async def test_devices_work_at_the_same_time() -> None:
    async def job() -> None:
        await sim_work(1.0)

    async with (
        simulated(devices=[SimDevice("a"), SimDevice("b")]) as (runtime, clock),
        anyio.create_task_group() as tg,
    ):
        with clock.hold():
            for device in ("a", "a", "b"):
                tg.start_soon(_on, runtime, job, device)
            await until(lambda: len(runtime._engine.jobs) == 3)
            assert clock.now() == 0.0
        await until(lambda: not runtime._engine.jobs)
        assert clock.now() == pytest.approx(2.0)


async def test_no_time_passes_before_all_threads_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    run, come = Worker._run, threading.Event()
    log: list[tuple[str, float]] = []

    def one_is_late(self: Worker, job: coro_rt.Job[Any] | None) -> None:
        if self.name == "late":
            assert come.wait(PATIENCE_S)
        run(self, job)

    async def job() -> None:
        log.append((coro_rt.current_job().worker.name, clock.now()))
        await coro_rt.sleep(1.0)

    monkeypatch.setattr(Worker, "_run", one_is_late)
    devices = [SimDevice("late"), SimDevice("here")]
    async with simulated(devices=devices) as (runtime, clock), anyio.create_task_group() as tg:
        for device in devices:
            tg.start_soon(_on, runtime, job, device.name)
        await until(lambda: len(runtime._engine.jobs) == 2)
        assert not log
        come.set()
    assert log == [("late", 0.0), ("here", 0.0)]


async def test_a_worker_that_runs_is_waited_for_when_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would begin a job of the block before the others are there."""
    take, clock = Worker._take, VirtualClock()
    looked: list[bool] = []

    def slow(self: Worker) -> coro_rt.Job[Any] | None:
        while not clock._holds and not looked:
            time.sleep(0)
        job = take(self)
        looked.append(True)
        return job

    monkeypatch.setattr(Worker, "_take", slow)
    async with opened(devices=["sim"], clock=clock):
        with clock.hold():
            found = list(looked)
            looked.append(True)
    assert found


async def _on(runtime: coro_rt.Runtime, job: object, device: str) -> None:
    await runtime.run(job, device=device)  # type: ignore[arg-type]


async def _schedule(seed: int) -> list[tuple[float, str]]:
    """What a mix of jobs on two devices does, with times."""
    rng = random.Random(seed)
    trace: list[tuple[float, str]] = []
    lock = coro_rt.Lock()

    async def job(name: str, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(rng.randrange(1, 5)):
            await sim_work(rng.random() / 10)
            trace.append((clock.now(), name))
            if rng.random() < 0.5:
                await coro_rt.sleep(rng.random() / 10)
            if rng.random() < 0.3:
                async with lock:
                    await sim_work(0.01)

    async with (
        simulated(devices=[SimDevice("a"), SimDevice("b")]) as (runtime, clock),
        anyio.create_task_group() as tg,
    ):

        async def ask(name: str, level: QoS, device: str) -> None:
            with coro_rt.qos(level):
                await runtime.run(job, name, hash(name) % 1000 if name == "" else int(name), device=device)

        with clock.hold():
            for i in range(30):
                tg.start_soon(ask, str(i), QoS(rng.randrange(5)), rng.choice("ab"))
                await until(lambda i=i: len(runtime._engine.jobs) == i + 1)
    return trace


async def test_the_same_jobs_have_the_same_schedule_every_time() -> None:
    first = await _schedule(7)
    assert len(first) > 30
    for _ in range(3):
        assert await _schedule(7) == first


async def test_nothing_moves_while_it_is_held() -> None:
    async def job() -> None:
        await sim_work(1.0)

    async with simulated() as (runtime, clock), anyio.create_task_group() as tg:
        with clock.hold():
            tg.start_soon(runtime.run, job)
            await until(lambda: runtime.stats().jobs_ready)
            await anyio.sleep(0.005)
            assert runtime.stats().jobs_ready == 1
            assert clock.now() == 0.0


async def test_a_clock_is_moved_by_hand_when_nothing_else_moves_it() -> None:
    clock = VirtualClock(start=5.0)
    assert clock() == clock.now() == 5.0
    clock.advance(2.0)
    assert clock() == 7.0
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1.0)


async def test_the_cpu_runs_on_a_virtual_clock_in_no_time() -> None:
    clock = VirtualClock()
    async with opened(clock=clock) as runtime:

        async def job() -> None:
            await coro_rt.sleep(1000.0)

        await runtime.run(job)
    assert clock.now() == 1000.0


async def test_in_real_time_the_simulated_device_waits() -> None:
    async def job() -> None:
        await sim_work(0.003)

    async with opened(devices=["sim"]) as runtime:
        began = runtime.clock()
        await runtime.run(job)
        assert runtime.clock() - began >= 0.003
        with anyio.move_on_after(0.005):
            await runtime.run(_long)


async def _long() -> None:
    await sim_work(3600.0)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
async def test_simulated_work_takes_a_number_of_seconds(seconds: float) -> None:
    async def job() -> None:
        await sim_work(seconds)

    async with simulated() as (runtime, _):
        with pytest.raises(coro_rt.KernelError, match="sim_work takes a number of seconds"):
            await runtime.run(job)


def test_a_quantum_is_positive() -> None:
    with pytest.raises(ValueError, match="quantum_s"):
        SimDevice(quantum_s=0)


async def test_hold_is_for_any_thread() -> None:
    clock = VirtualClock()
    with clock.hold():
        thread = threading.Thread(target=clock.advance, args=(1.0,))
        thread.start()
        thread.join()
    assert clock.now() == 1.0
