"""A job goes from one device to another between two launches."""

import math
from typing import Any

import pytest
from rt_tools import simulated, until, until_state

from coro_rt import Cancelled, DeviceError, JobCancelled, current_job, move_to, spawn
from coro_rt.schedulers.entry import State
from coro_rt.testing import SimDevice, sim_work
from coro_rt.traps import Move

pytestmark = pytest.mark.anyio


def here() -> str:
    job = current_job()
    assert job.worker.name == job.entry.device
    return job.worker.name


async def there_and_back(places: list[str]) -> str:
    places.append(here())
    await sim_work(0.01)
    await move_to("far")
    places.append(here())
    await sim_work(0.02)
    await move_to("far")  # where it is
    await move_to("near")
    places.append(here())
    return "done"


def two() -> dict[str, Any]:
    return {"devices": [SimDevice("near"), SimDevice("far")]}


async def test_what_is_launched_after_a_move_runs_on_the_other_device() -> None:
    places: list[str] = []
    async with simulated(**two()) as (runtime, _):
        assert await runtime.run(there_and_back, places) == "done"
        busy = runtime.stats().device_busy_s
    assert places == ["near", "far", "near"]
    assert busy == pytest.approx({"near": 0.01, "far": 0.02})


async def test_many_jobs_cross_each_other() -> None:
    async def all_of_them() -> list[str]:
        return [await job for job in [spawn(there_and_back, []) for _ in range(50)]]

    async with simulated(**two()) as (runtime, _):
        assert await runtime.run(all_of_them) == ["done"] * 50
        assert runtime.stats().device_busy_s["far"] == pytest.approx(1.0)


async def test_a_device_that_is_not_open_is_an_error_where_the_job_stands() -> None:
    async def lost() -> str:
        with pytest.raises(DeviceError, match=r"no device 'moon' is open, only near, far"):
            await move_to("moon")
        return here()

    async with simulated(**two()) as (runtime, _):
        assert await runtime.run(lost) == "near"


async def test_a_device_that_has_failed_is_an_error_where_the_job_stands() -> None:
    async def turned_away() -> str:
        with pytest.raises(DeviceError, match="device 'far' has failed"):
            await move_to("far")
        return here()

    async with simulated(**two()) as (runtime, _):
        runtime._engine.workers["far"].failure = RuntimeError("smoke")
        try:
            assert await runtime.run(turned_away) == "near"
        finally:
            runtime._engine.workers["far"].failure = None


async def test_cancelled_on_the_way_it_ends_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    on_the_way: list[Move] = []
    arrive = Move._go
    monkeypatch.setattr(Move, "_go", lambda self: on_the_way.append(self))

    async def leaves() -> None:
        try:
            await move_to("far")
        finally:
            ended.append(here())

    async with simulated(**two()) as (runtime, _):
        async with runtime.start(leaves) as handle:
            await until_state(handle, State.WAITING)
            handle.cancel()
            with pytest.raises(JobCancelled):
                await handle.result()
        arrive(on_the_way[0])  # too late: nobody waits for it any more
    assert ended == ["near"]


async def test_cancelled_while_it_waits_for_its_turn_it_ends_where_it_goes() -> None:
    ended: list[str] = []

    async def leaves() -> None:
        try:
            await move_to("far")
        except Cancelled:
            ended.append(here())
            raise

    async def busy() -> None:
        while not ended:
            await sim_work(0.01)

    async with (
        simulated(**two(), policy="fifo", max_wait_s=math.inf) as (runtime, _),
        runtime.start(busy, device="far") as other,
        runtime.start(leaves) as handle,
    ):
        await until(lambda: (handle.job.entry.device, handle.state) == ("far", State.READY))
        handle.cancel()
        with pytest.raises(JobCancelled):
            await handle.result()
        await other.result()
    assert ended == ["far"]
