"""A quantum that does not end: another thread takes over, and whoever comes back late touches nothing."""

import logging
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest
from rt_tools import PATIENCE_S, opened, simulated, until
from scene import LIMIT_S, NOTICED_S, elsewhere, started

import coro_rt
from coro_rt import DeviceLost, QoS, current_job
from coro_rt.devices.cpu import CpuDevice
from coro_rt.testing import Fault, FaultInjection, SimDevice, sim_work

pytestmark = pytest.mark.anyio

SOON_S = 0.02  # of the real clock


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("coro_rt")]


async def test_a_quantum_as_long_as_its_limit_is_none_that_hangs() -> None:
    """Nor is a launch of many quanta, however long."""
    device = SimDevice("near", quantum_s=0.9 * LIMIT_S, watchdog_s=LIMIT_S)
    log: list[str] = []
    async with simulated(devices=[device], policy="fifo") as (runtime, clock):
        assert await runtime.run(elsewhere, log, 100.0) == "near"
        assert clock() == pytest.approx(100.0)
    assert not log


class Slow(SimDevice):
    """Its kernels do not come back at the end of a slice."""

    def spend(self, seconds: float, slice_s: float) -> float:
        return super().spend(seconds, seconds)


async def test_a_quantum_that_ends_too_late_is_not_believed() -> None:
    device = Slow("near", watchdog_s=LIMIT_S)
    device.pauses_s = ()
    log: list[str] = []
    async with simulated(devices=[device, SimDevice("far")]) as (runtime, _):
        assert await runtime.run(elsewhere, log, 2.0) == "far"
        assert threads().count("coro_rt-near") <= 2
    assert log == ["hung"]


async def test_the_job_goes_on_once_whoever_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """A kernel on real threads that comes back long after it was given up."""
    gate, inside = threading.Event(), threading.Event()
    results: list[Any] = []

    @coro_rt.kernel
    def slow() -> str:
        inside.set()
        assert gate.wait(PATIENCE_S)
        return "late"

    async def job() -> str:
        try:
            results.append(await slow())
        except DeviceLost as lost:
            results.append(lost.reason)
        assert current_job().worker.job is current_job()
        return "ended"

    device = CpuDevice(threads=1, watchdog_s=SOON_S)
    device.pauses_s = (SOON_S,)
    async with opened(devices=[device]) as runtime:
        assert await runtime.run(job) == "ended"
        assert results == ["hung"]
        await until(lambda: "was tried" in caplog.text)  # what hangs may still write into memory
        assert device.fenced == "hung"
        assert threads().count("coro_rt-cpu") == 2
        gate.set()
        await until(lambda: threads().count("coro_rt-cpu") == 1)
    assert results == ["hung"]


async def test_a_thread_that_never_comes_back_is_left_behind_and_closing_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coro_rt.guard.STRAY_S", 0.0)
    device = SimDevice("near", watchdog_s=SOON_S)
    device.pauses_s = ()
    faults = FaultInjection(device, Fault("hung", stuck=True))
    closed = []
    monkeypatch.setattr(device, "close", lambda: closed.append(1))
    log: list[str] = []
    try:
        async with opened(devices=[device, SimDevice("far")]) as runtime:
            assert await runtime.run(elsewhere, log, 0.001) == "far"
        assert "device 'near' hung, and still does" in caplog.text
        assert not closed
        assert threads() == ["coro_rt-near"]
    finally:
        faults.release()
    await until(lambda: not threads())
    assert log == ["hung"]


async def test_a_device_that_can_end_a_quantum_from_outside_keeps_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Interruptible(SimDevice):
        """As ONNX Runtime, which looks between two nodes whether it is to end."""

        stopped = False

        def interrupt(self) -> bool:
            self.stopped = True
            self._parker.unpark()
            return True

        def spend(self, seconds: float, slice_s: float) -> float:
            while not self.stopped:
                self._parker.park(float("inf"))
            raise self.lose("hung", "but it could be ended")

    device = Interruptible("near", watchdog_s=LIMIT_S)
    device.pauses_s = ()
    log: list[str] = []
    async with simulated(devices=[device, SimDevice("far")]) as (runtime, clock):
        worker = runtime._engine.workers["near"]
        thread = worker._thread
        assert await runtime.run(elsewhere, log, 0.1) == "far"
        assert worker._thread is thread
        assert clock() == pytest.approx(NOTICED_S + 0.1)
    assert log == ["hung"]
    assert "but it could be ended" in caplog.text


async def test_one_that_does_not_end_when_it_is_told_to_is_given_up_after_all() -> None:
    class Deaf(SimDevice):
        """Says that it will end."""

        def interrupt(self) -> bool:
            return True

    device = Deaf("near", watchdog_s=LIMIT_S)
    device.pauses_s = ()
    FaultInjection(device, Fault("hung"))
    log: list[str] = []
    async with simulated(devices=[device, SimDevice("far")]) as (runtime, clock):
        assert await runtime.run(elsewhere, log, 0.1) == "far"
        assert clock() == pytest.approx(0.25 * LIMIT_S + NOTICED_S + 0.1)
    assert log == ["hung"]


async def test_in_a_hurry_it_is_noticed_at_once() -> None:
    device = SimDevice("near", watchdog_s=1e6)
    device.pauses_s = ()
    FaultInjection(device, Fault("hung"), hurry=True)
    log: list[str] = []
    async with simulated(devices=[device, SimDevice("far")]) as (runtime, clock):
        assert await runtime.run(elsewhere, log, 0.1) == "far"
        assert clock() == pytest.approx(0.1)
    assert log == ["hung"]


async def test_others_on_that_device_are_urgent_again_at_once() -> None:
    """The most urgent goes first when the new thread takes over."""
    device = SimDevice("near", watchdog_s=LIMIT_S)
    device.pauses_s = ()
    FaultInjection(device, Fault("hung"))
    order: list[str] = []

    async def job(name: str) -> None:
        with pytest.raises(DeviceLost):
            await sim_work(0.1)
        order.append(name)

    async with (
        simulated(devices=[device], background_share=0.0) as (runtime, clock),
        AsyncExitStack() as stack,
    ):
        with clock.hold():
            handles = [
                await started(stack, runtime, job, level.name, qos=level)
                for level in (QoS.BACKGROUND, QoS.USER_INTERACTIVE, QoS.UTILITY)
            ]
        for handle in handles:
            await handle.result()
    assert order == ["USER_INTERACTIVE", "UTILITY", "BACKGROUND"]


async def test_errors_beside_it_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    device = SimDevice("near", watchdog_s=LIMIT_S)
    device.pauses_s = ()
    FaultInjection(device, Fault("hung"))
    log: list[str] = []
    with caplog.at_level(logging.INFO, "coro_rt"):
        async with simulated(devices=[device, SimDevice("far")]) as (runtime, _):
            for _ in range(3):
                await runtime.run(elsewhere, log, 0.1, device="far" if log else "near")
    assert [record.levelname for record in caplog.records if "near" in record.getMessage()] == ["WARNING"]
