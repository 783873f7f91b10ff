"""A GPU that fails: what its driver says, submissions that do not end, numbers that are none; and that it
comes back. On the adapter that there is.
"""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rt_tools import PATIENCE_S, opened, until

from coro_rt import DeviceLost, JobCancelled, current_job, sleep
from coro_rt.devices.gpu import GpuDevice
from coro_rt.faults import REASONS
from coro_rt.kernel import Kernel
from coro_rt.kernels import launch as single
from coro_rt.kernels.formats import Format
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.testing import Fault, FaultInjection

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

VALUES = np.arange(64, dtype=np.float32)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: devices fail alike on all of them, and these take their time."""
    return "trio", {}


doubled: Kernel[[Any], Any] = Kernel("doubled")


@doubled.on("gpu")
def _doubled(device: GpuDevice, launch: Any, slice_s: float) -> bool:
    launch.result = device.read(device.upload(launch.args[0] * 2), launch.args[0].nbytes).view(np.float32)
    return True


async def double() -> Any:
    return await doubled(VALUES)


multiplied: Kernel[[], Any] = Kernel("multiplied")


@multiplied.on("gpu")
def _multiplied(device: GpuDevice, launch: Any, slice_s: float) -> bool:
    """A program, so that there are submissions."""
    from coro_rt.devices.gpu.single import OnGpu

    rng = np.random.default_rng(1)
    w = PackedMatrix.from_float(Format.known["Q8_0"], rng.standard_normal((32, 64), dtype=np.float32))
    launch.result = single.matmul(w, rng.standard_normal((2, 64), dtype=np.float32), on=OnGpu(device))
    return True


async def multiply() -> Any:
    return await multiplied()


def quick(**options: Any) -> GpuDevice:
    """A device that is tried again soon."""
    device = GpuDevice(**options)
    device.pauses_s = (0.0, *[0.001] * 20)
    return device


@pytest.mark.anyio
@pytest.mark.parametrize("reason", REASONS)
async def test_each_fault_fences_it_and_opened_anew_it_works_again(reason: str) -> None:
    device = quick()
    faults = FaultInjection(device, Fault(reason, tries=1), hurry=True)
    async with opened(devices=["cpu", device]) as runtime:
        with pytest.raises(DeviceLost) as caught:
            await runtime.run(multiply, device="gpu")
        assert caught.value.reason == reason
        await until(lambda: device.fenced is None)
        assert device.epoch >= 2  # one try failed
        assert np.array_equal(await runtime.run(double, device="gpu"), VALUES * 2)
        assert np.isfinite(await runtime.run(multiply, device="gpu")).all()
    assert len(faults.happened) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("reason", REASONS)
async def test_a_cancel_in_the_middle_of_it_leaves_nothing_behind(reason: str) -> None:
    device = quick()
    faults = FaultInjection(device, Fault(reason), hurry=True)
    async with opened(devices=["cpu", device]) as runtime:
        async with runtime.start(again_and_again, device="gpu") as handle:
            await until(lambda: faults.happened)
            handle.cancel()
            with pytest.raises(JobCancelled):
                await handle.result()
        await until(lambda: device.fenced is None)
        assert np.array_equal(await runtime.run(double, device="gpu"), VALUES * 2)


async def again_and_again() -> None:
    while True:
        try:
            await multiplied()
        except DeviceLost:
            await sleep(0.001)


@pytest.mark.anyio
async def test_a_device_that_is_gone_beneath_us_is_lost_and_comes_back() -> None:
    device = quick()
    async with opened(devices=["cpu", device]) as runtime:
        assert np.array_equal(await runtime.run(double, device="gpu"), VALUES * 2)
        device.device.destroy()
        with pytest.raises(DeviceLost, match="the device 'gpu' is lost"):
            await runtime.run(double, device="gpu")
        await until(lambda: device.fenced is None)
        assert np.array_equal(await runtime.run(double, device="gpu"), VALUES * 2)


class Never:
    """A promise of a driver that does not answer, until it is told to. That takes too long at once."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def sync_wait(self) -> None:
        current_job().worker.guard.watch.expire()
        assert self.told.wait(PATIENCE_S)


@pytest.mark.anyio
async def test_a_submission_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    device, never = quick(watchdog_s=PATIENCE_S), Never()
    submit = device._submit

    def hangs(*args: Any) -> Any:
        monkeypatch.undo()
        return replace(submit(*args), promise=never)

    monkeypatch.setattr(device, "_submit", hangs)
    try:
        async with opened(devices=["cpu", device]) as runtime:
            with pytest.raises(DeviceLost, match="the device 'gpu' hung: a quantum did not end within"):
                await runtime.run(multiply, device="gpu")
            await until(lambda: device.fenced is None)
            assert np.isfinite(await runtime.run(multiply, device="gpu")).all()
            never.told.set()
    finally:
        never.told.set()


def test_it_knows_the_answer_to_the_known_question(gpu: GpuDevice) -> None:
    assert gpu.sound()
    gpu.check_numbers(np.array([1.0, np.nan]))  # it is sound: not its fault


def test_numbers_that_are_none_are_its_fault_if_it_fails_the_question_too(
    gpu: GpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "read", lambda buffer, nbytes: np.full(nbytes, 255, np.uint8))
    assert not gpu.sound()
    with pytest.raises(DeviceLost, match="gave what is not numbers: and it gives a wrong answer"):
        gpu.check_numbers([np.inf])
    gpu.check_numbers([1.0])


def test_memory_that_it_has_none_of_is_another_thing_than_a_device_that_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wgpu = pytest.importorskip("wgpu")
    device = GpuDevice()
    device.start()
    told: list[DeviceLost] = []

    def fails(kind: type[Exception]) -> Any:
        def create(**_: object) -> None:
            raise kind("no")

        return create

    try:
        device.guard(device.waiting(), told.append)
        monkeypatch.setattr(device.device, "create_buffer", fails(wgpu.GPUOutOfMemoryError))
        with pytest.raises(DeviceLost) as full:
            device.buffer(2**20)
        assert full.value.reason == "memory"
        assert not told  # who asked may need less
        monkeypatch.setattr(device.device, "create_buffer", fails(wgpu.GPUValidationError))
        with pytest.raises(DeviceLost) as broken:
            device.buffer(2**20)
        assert (broken.value.reason, told) == ("lost", [broken.value])
    finally:
        device.close()
