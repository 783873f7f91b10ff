"""An NPU that fails: what ONNX Runtime raises, runs that do not end, numbers that are none."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rt_tools import PATIENCE_S, opened, until

pytest.importorskip("onnx", reason="the extra is not installed: pip install 'coro-rt[npu]'")
pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'coro-rt[npu]'")

from coro_rt import DeviceError, DeviceLost, current_job
from coro_rt.devices.known_answer import answers_rightly
from coro_rt.devices.npu import NpuDevice
from coro_rt.devices.npu.device import Session
from coro_rt.devices.npu.single import OnNpu
from coro_rt.faults import REASONS
from coro_rt.kernel import Kernel
from coro_rt.testing import Fault, FaultInjection

pytestmark = pytest.mark.npu


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: devices fail alike on all of them, and these take their time."""
    return "trio", {}


question: Kernel[[], bool] = Kernel("question")


@question.on("npu")
def _question(device: NpuDevice, launch: Any, slice_s: float) -> bool:
    launch.result = answers_rightly(OnNpu(device))
    return True


async def ask() -> bool:
    return await question()


def quick(**options: Any) -> NpuDevice:
    """A device that is tried again soon."""
    device = NpuDevice(provider="cpu", threads=1, **options)
    device.pauses_s = (0.0, *[0.001] * 20)
    return device


@pytest.mark.anyio
@pytest.mark.parametrize("reason", REASONS)
async def test_each_fault_fences_it_and_its_sessions_begin_anew(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coro_rt.watchdog.GRACE", 0.0)
    device = quick(watchdog_s=PATIENCE_S)
    FaultInjection(device, Fault(reason, tries=1), hurry=True)
    async with opened(devices=["cpu", device]) as runtime:
        with pytest.raises(DeviceLost) as caught:
            await runtime.run(ask, device="npu")
        assert caught.value.reason == reason
        await until(lambda: device.fenced is None)
        assert device.epoch >= 2
        assert await runtime.run(ask, device="npu")


class Loaded:
    """In place of what ONNX Runtime has loaded: a run is whatever it is told."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, outputs: Any, fed: Any, options: Any) -> Any:
        return self._run(options)


class InvalidArgument(Exception):
    """As ONNX Runtime names it."""


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("QNN: the DSP does not answer"), DeviceLost, "lost"),
        (RuntimeError("Failed to allocate memory for requested buffer of size 1"), DeviceLost, "memory"),
        (InvalidArgument("Got invalid dimensions"), DeviceError, None),
    ],
)
def test_what_the_provider_raises_says_how_it_failed(
    error: Exception, kind: type[DeviceError], reason: str | None
) -> None:
    device = quick()
    device.start()

    def fails(options: Any) -> None:
        raise error

    with pytest.raises(kind, match="failed in a layer group") as caught:
        device.run(Session(Loaded(fails)), {})
    assert type(caught.value) is kind
    assert getattr(caught.value, "reason", None) == reason
    device.close()


endless: Kernel[[], None] = Kernel("endless")


@endless.on("npu")
def _endless(device: NpuDevice, launch: Any, slice_s: float) -> bool:
    def until_terminated(options: Any) -> None:
        current_job().worker.guard.watch.expire()
        tick = threading.Event()
        while not options.terminate:
            tick.wait(0.001)
        raise RuntimeError("Exiting due to terminate flag")

    device.run(Session(Loaded(until_terminated)), {})
    return True


async def wait() -> None:
    await endless()


@pytest.mark.anyio
async def test_a_run_that_takes_too_long_is_ended_and_its_thread_kept() -> None:
    device = quick(watchdog_s=PATIENCE_S)
    async with opened(devices=["cpu", device]) as runtime:
        thread = runtime._engine.workers["npu"]._thread
        with pytest.raises(DeviceLost, match=f"hung: a layer group did not end within {PATIENCE_S} s"):
            await runtime.run(wait, device="npu")
        assert runtime._engine.workers["npu"]._thread is thread
        await until(lambda: device.fenced is None)
        assert await runtime.run(ask, device="npu")


@pytest.mark.parametrize("activations", ["auto", "float32"])
def test_it_knows_the_answer_to_the_known_question(activations: str, tmp_path: Path) -> None:
    device = quick(cache=tmp_path, activations=activations)
    device.start()
    assert device.sound()
    device.check_numbers(np.array([np.nan]))  # it is sound: not its fault
    device.close()
