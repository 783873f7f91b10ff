"""Launches that run as one on a device that fails: every member learns of it, once."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
from rt_bus import Bus
from rt_tools import simulated
from scene import failing, poke, started

from coro_rt import DeviceLost, JobCancelled, QoS, current_job, move_to, sleep
from coro_rt.faults import REASONS
from coro_rt.testing import Fault

pytestmark = pytest.mark.anyio


def passenger(bus: Bus, told: list[str], name: str, rows: int) -> Any:
    """A job of a few trips that goes on elsewhere."""

    async def job() -> int:
        try:
            return await bus.passenger(name, rows, 3)
        except DeviceLost as lost:
            told.append(f"{name} {lost.reason}")
            await move_to("far")
            return await bus.passenger(f"{name} again", rows, 3)

    return job


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("reason", REASONS)
async def test_every_member_learns_of_it_once(reason: str, suspended: bool, cancelled: bool) -> None:
    bus, told = Bus(), []
    devices, _ = failing(Fault(reason, kernel="poke") if suspended else Fault(reason, at=3))
    async with (
        simulated(devices=devices, background_share=0.0) as (runtime, clock),
        AsyncExitStack() as stack,
    ):

        async def culprit() -> None:
            if suspended:
                await sleep(0.015)
                with pytest.raises(DeviceLost):
                    await poke()
            if cancelled:
                handles[1].cancel()
            assert current_job().worker.name == "near"

        with clock.hold():
            handles = [
                await started(stack, runtime, passenger(bus, told, name, rows), qos=QoS.BACKGROUND)
                for name, rows in (("a", 1), ("b", 2), ("c", 3))
            ]
            if suspended or cancelled:
                await started(stack, runtime, culprit, qos=QoS.USER_INTERACTIVE)
        ended: list[Any] = []
        for handle in handles:
            try:
                ended.append(await handle.result())
            except JobCancelled:
                ended.append(None)
    expected: list[Any] = [3, 6, 9]
    if cancelled:
        expected[1] = None
    assert ended == expected
    assert len(told) == len(set(told))
    assert {"a " + reason, "c " + reason} <= set(told)
    assert bus.open == 0


async def test_the_scheduler_keeps_no_launch_of_it() -> None:
    bus, told = Bus(), []
    devices, _ = failing(Fault("lost", at=2))
    async with simulated(devices=devices) as (runtime, clock), AsyncExitStack() as stack:
        with clock.hold():
            handles = [await started(stack, runtime, passenger(bus, told, n, 2)) for n in "abcd"]
        for handle in handles:
            assert await handle.result() == 6
        scheduler: Any = runtime._engine.scheduler
        assert all(not queue.crowds for queue in scheduler._queues.values())
