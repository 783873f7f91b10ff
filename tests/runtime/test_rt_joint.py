"""Launches that run as one: every member gets its own result, its own cancel, and its share of the bill."""

import random
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from rt_bus import Bus, Rows
from rt_tools import opened, simulated

import coro_rt
from coro_rt import JobCancelled, QoS, Runtime, qos
from coro_rt.kernel import BatchKernel
from coro_rt.testing import SimDevice, VirtualClock, sim_work

pytestmark = pytest.mark.anyio


async def held(runtime: Runtime, bus: Bus, rows: tuple[int, ...], trips: int) -> list[coro_rt.JobHandle[int]]:
    """Passengers in the background; under `clock.hold()`, so that nothing has run yet."""
    handles = []
    with qos(QoS.BACKGROUND):
        for nth, count in enumerate(rows):
            handle = runtime.start(bus.passenger, f"{nth}", count, trips)
            await handle.__aenter__()
            handles.append(handle)
    return handles


async def test_equals_run_as_one_and_each_gets_its_own_result_and_its_share_of_the_bill() -> None:
    bus = Bus()
    async with simulated(devices=[SimDevice(watts=2.0)]) as (runtime, clock):
        with clock.hold():
            handles = await held(runtime, bus, (1, 2, 3), 3)
        assert [await handle.result() for handle in handles] == [3, 6, 9]
        assert {frozenset(trip) for trip in bus.trips[1:]} >= {frozenset("012")}
        busy = runtime.stats().device_busy_s["sim"]
        assert sum(handle.ledger.device_s for handle in handles) == pytest.approx(busy)
        assert busy < 3 * (0.008 * 3 + 0.006)
        assert [handle.ledger.joules for handle in handles] == pytest.approx(
            [2 * handle.ledger.device_s for handle in handles]
        )
        assert 0 < runtime.stats().joint_launches <= runtime.stats().rides
    assert bus.open == 0


async def test_launches_run_alone_where_a_device_has_no_way_to_run_them_together() -> None:
    kernel: BatchKernel[[float], None] = BatchKernel("alone", lambda seconds: (Rows(), 1))

    @kernel.on("sim")
    def spend(device: SimDevice, launch: coro_rt.Launch[None], slice_s: float) -> bool:
        left = launch.args[0] if launch.state is None else launch.state
        launch.state = device.spend(left, slice_s)
        return launch.state < 1e-9

    async def job() -> None:
        await kernel(0.01)

    async with simulated() as (runtime, clock):
        async with anyio.create_task_group() as group:
            with clock.hold():
                for _ in range(3):
                    group.start_soon(runtime.run, job)
                await anyio.wait_all_tasks_blocked()
        assert runtime.stats().rides == 0
        assert clock() == pytest.approx(0.03)


@pytest.mark.parametrize("when", ["pending", "riding", "leading", "suspended"])
async def test_a_member_that_is_cancelled_leaves_before_its_own_code_runs_and_the_others_go_on(
    when: str,
) -> None:
    bus = Bus()

    async with simulated() as (runtime, clock):
        with clock.hold():
            rows = 50 if when == "pending" else 3  # not all of 50 fit into one launch
            handles = await held(runtime, bus, (rows, rows, rows), 5)

            async def cancel() -> None:
                """By a more urgent job, so at a moment when the launch is half-done."""
                entries = [handle.job.entry for handle in handles]
                while not any(entry.riders for entry in entries):
                    await coro_rt.sleep(0.001)
                leader = next(entry for entry in entries if entry.riders)
                victim = leader.riders[0] if when == "riding" else leader
                if when == "pending":
                    while not any(entry.rows and not entry.aboard for entry in entries):
                        await coro_rt.sleep(0.001)
                    victim = next(entry for entry in entries if entry.rows and not entry.aboard)
                if when == "suspended":
                    await sim_work(0.005)
                chosen.append(entries.index(victim))
                handles[chosen[0]].cancel()

            chosen: list[int] = []
            with qos(QoS.USER_INTERACTIVE):
                await runtime.start(cancel).__aenter__()
        outcomes: list[int | None] = []
        for handle in handles:
            try:
                outcomes.append(await handle.result())
            except JobCancelled:
                outcomes.append(None)
        assert [nth for nth, outcome in enumerate(outcomes) if outcome is None] == chosen
        assert when == "pending" or sum(outcome == 15 for outcome in outcomes) == 2
        assert sorted(bus.ended) == ["0", "1", "2"]
        if when != "pending":
            assert bus.left == [str(chosen[0])]
    assert bus.open == 0


async def test_when_the_kernel_raises_every_member_gets_the_error() -> None:
    bus = Bus()
    async with simulated() as (runtime, clock):
        with clock.hold():
            handles = await held(runtime, bus, (1, 1, 1), 50)

            async def break_it() -> None:
                await coro_rt.sleep(0.1)
                bus.fails = True

            with qos(QoS.USER_INTERACTIVE):
                await runtime.start(break_it).__aenter__()
        for handle in handles:
            with pytest.raises(ZeroDivisionError, match="in the kernel"):
                await handle.result()
        assert sorted(bus.ended) == ["0", "1", "2"]
    assert bus.open == 0


async def test_when_the_device_fails_every_member_ends_with_its_error(caplog: Any) -> None:
    class Frail(SimDevice):
        def clear_preempt(self) -> None:
            if broken:
                raise OSError("unplugged")
            super().clear_preempt()

    bus = Bus()
    broken: list[bool] = []
    clock = VirtualClock()
    async with coro_rt.open_runtime(devices=[Frail()], clock=clock) as runtime:
        with clock.hold():
            handles = await held(runtime, bus, (1, 1, 1), 50)

            async def break_it() -> None:
                await coro_rt.sleep(0.1)
                broken.append(True)

            with qos(QoS.USER_INTERACTIVE):
                await runtime.start(break_it).__aenter__()
        for handle in handles:
            with pytest.raises(coro_rt.DeviceError, match="unplugged"):
                await handle.result()
        assert sorted(bus.ended) == ["0", "1", "2"]
    assert bus.open == 0


@pytest.mark.parametrize("seed", range(4))
async def test_random_passengers_cancelled_at_random_leave_nothing_behind(seed: int) -> None:
    rng = random.Random(seed)
    bus = Bus()
    ended = 0

    async def passenger(runtime: Runtime, nth: int) -> None:
        nonlocal ended
        rows, trips = rng.choice((1, 1, 1, 20, 100)), rng.randint(1, 6)
        with qos(rng.choice(list(QoS)), tenant=rng.choice("ab")):
            async with runtime.start(bus.passenger, f"{nth}", rows, trips) as handle:
                for _ in range(rng.randint(0, 60)):
                    await checkpoint()
                if rng.random() < 0.5:
                    handle.cancel()
                with suppress(JobCancelled):
                    await handle.result()
                ended += 1

    async with opened(devices=["sim"], clock=VirtualClock()) as runtime:
        async with anyio.create_task_group() as group:
            for nth in range(150):
                group.start_soon(passenger, runtime, nth)
                if rng.random() < 0.3:
                    await checkpoint()
        assert ended == 150
        assert runtime.stats().rides > 20
    assert bus.open == 0
    assert len(set(bus.ended)) == len(bus.ended) > 50


async def test_closing_the_runtime_ends_everybody_in_a_launch() -> None:
    bus = Bus()
    async with simulated() as (runtime, clock):
        with clock.hold():
            await held(runtime, bus, (1, 1, 1), 10**9)
        while not bus.trips or len(bus.trips[-1]) < 3:
            await checkpoint()
    assert sorted(bus.ended) == ["0", "1", "2"]
    assert bus.open == 0
