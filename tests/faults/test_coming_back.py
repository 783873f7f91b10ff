"""A fenced device rests, is opened anew and tried, and runs kernels again if it is sound; in virtual time."""

import math
from contextlib import AsyncExitStack
from typing import Any

import pytest
from rt_tools import simulated, until
from scene import LIMIT_S, elsewhere, failing, started

from coro_rt import DeviceLost, JobCancelled, current_job, sleep
from coro_rt.faults import REASONS
from coro_rt.fence import PROVEN_S
from coro_rt.testing import Fault, FaultInjection, SimDevice, sim_work

pytestmark = pytest.mark.anyio


async def sound_at(times: list[float], found: list[bool]) -> None:
    """A job that launches at these times, and notes whether it could."""
    now = current_job().engine.clock
    for time in times:
        await sleep(time - now())
        try:
            await sim_work(0.01)
        except DeviceLost:
            found.append(False)
        else:
            found.append(True)


async def seen(device: SimDevice, times: list[float]) -> list[bool]:
    """Whether a device could be used at these times."""
    found: list[bool] = []
    async with simulated(devices=[device]) as (runtime, _):
        await runtime.run(sound_at, times, found)
    return found


def near(*faults: Fault, pauses_s: tuple[float, ...]) -> SimDevice:
    (device, _), _ = failing(*faults, pauses_s=pauses_s)
    return device


@pytest.mark.parametrize("reason", REASONS)
async def test_after_a_pause_it_is_tried_and_used_again(reason: str) -> None:
    device = near(Fault(reason), pauses_s=(2.0,))
    assert await seen(device, [0.0, 1.0, 2.7, 3.0]) == [False, False, True, True]
    assert device.fenced is None


@pytest.mark.parametrize("reason", REASONS)
async def test_a_cancel_while_it_is_out_does_not_keep_it_out(reason: str) -> None:
    devices, _ = failing(Fault(reason), pauses_s=(2.0,))
    log: list[str] = []
    found: list[bool] = []
    async with simulated(devices=devices) as (runtime, clock), AsyncExitStack() as stack:

        async def canceller() -> None:
            await sleep(1.0)
            handle.cancel()

        with clock.hold():
            handle = await started(stack, runtime, elsewhere, log, 0.1, 10.0)
            await started(stack, runtime, canceller, device="far")
            last = await started(stack, runtime, sound_at, [3.0], found)
        with pytest.raises(JobCancelled):
            await handle.result()
        await last.result()
    assert log == [reason]
    assert found == [True]


async def test_the_pause_after_a_failed_try_is_the_next_one() -> None:
    device = near(Fault("lost", tries=2), pauses_s=(1.0, 2.0, 4.0, 8.0))
    assert await seen(device, [0.0, 1.5, 3.5, 6.9, 7.1]) == [False, False, False, False, True]


async def test_a_device_that_fails_every_try_stays_out() -> None:
    device = near(Fault("nan", tries=math.inf), pauses_s=(1.0, 1.0))
    times = [0.0, 1.5, 2.5, 1000.0]
    found: list[bool] = []
    async with simulated(devices=[device]) as (runtime, _):
        await runtime.run(sound_at, times, found)
        (shown,) = runtime.snapshot().devices
        assert shown.fenced is not None
        assert shown.fenced.endswith(", for good")
    assert found == [False] * 4


async def test_one_that_fails_again_soon_rests_longer_and_one_that_did_well_does_not() -> None:
    late = PROVEN_S + 10
    device = near(Fault("lost", 1), Fault("lost", 2), Fault("lost", 4), pauses_s=(1.0, 5.0))
    times = [0.0, 1.5, 3.0, 7.0, late, late + 1.5]
    #        lost  lost            ok   lost  ok
    assert await seen(device, times) == [False, False, False, True, False, True]


class HangsWhenTried(SimDevice):
    """As often as it is told."""

    hangs = 1

    def attach(self, parker: Any, clock: Any) -> None:
        super().attach(parker, clock)
        self.parker = parker

    def sound(self) -> bool:
        if not self.hangs:
            return True
        self.hangs -= 1
        mine = self.parker
        while self.parker is mine:  # until another thread has taken over
            mine.park(math.inf)
        raise AssertionError("it came back")


async def test_a_device_that_hangs_when_it_is_tried_has_failed_the_try() -> None:
    device = HangsWhenTried("near", watchdog_s=LIMIT_S)
    device.pauses_s = (1.0, 1.0)
    FaultInjection(device, Fault("lost"))
    assert await seen(device, [0.0, 1.2, 2.0, 2.6]) == [False, False, False, True]


class NotThere(SimDevice):
    """Cannot be opened again at first."""

    opened = 0

    def reopen(self) -> None:
        self.opened += 1
        if self.opened == 1:
            raise OSError("still unplugged")


async def test_a_device_that_cannot_be_opened_has_failed_the_try(caplog: pytest.LogCaptureFixture) -> None:
    device = NotThere("near")
    device.pauses_s = (1.0, 1.0)
    FaultInjection(device, Fault("lost"))
    assert await seen(device, [0.0, 1.5, 2.5]) == [False, False, True]
    assert "the device 'near' was tried: still unplugged; it will be tried again" in caplog.text


async def test_it_is_tried_while_nobody_wants_anything() -> None:
    device = NotThere("near")
    device.pauses_s = (1.0, 1.0)
    FaultInjection(device, Fault("lost"))
    async with simulated(devices=[device]) as (runtime, clock):
        with pytest.raises(DeviceLost):
            await runtime.run(work)
        await until(lambda: device.fenced is None)
        assert clock() == pytest.approx(2.0)


async def work() -> None:
    await sim_work(0.01)
