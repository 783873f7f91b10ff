"""The GPU as a device: what is said where there is none, what it costs not to have it, and kernels of one's
own.
"""

import subprocess
import sys
from typing import Any

import anyio
import numpy as np
import pytest

from coro_rt import open_runtime
from coro_rt.devices import available
from coro_rt.devices.gpu import GpuDevice, adapter
from coro_rt.errors import DeviceError, DeviceLost, KernelError
from coro_rt.kernel import Kernel, kernel


def test_without_the_package_asking_for_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda _: None)

    async def main() -> None:
        with pytest.raises(DeviceError, match=r"not installed: pip install 'coro-rt\[gpu\]'"):
            async with open_runtime(devices=["gpu"]):
                pass

    anyio.run(main)
    (info,) = [device for device in available() if device.name == "gpu"]
    assert not info.available
    assert "pip install 'coro-rt[gpu]'" in info.detail


def test_without_an_adapter_asking_for_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wgpu = pytest.importorskip("wgpu")
    pytest.importorskip("wgpu.backends.wgpu_native")  # which makes wgpu.gpu what it is
    monkeypatch.setattr(wgpu.gpu, "enumerate_adapters_sync", list)
    with pytest.raises(DeviceError, match="apt-get install mesa-vulkan-drivers"):
        GpuDevice().start()


@pytest.mark.gpu
def test_an_adapter_that_is_not_there_is_named_with_those_that_are(gpu: GpuDevice) -> None:
    with pytest.raises(DeviceError, match="with 'Voodoo' in its name was found; there are: ") as caught:
        GpuDevice(adapter="Voodoo").start()
    assert gpu.adapter.info["device"] in str(caught.value)
    assert GpuDevice(adapter=gpu.adapter.info["device"][:5].upper()).detail == gpu.detail


def test_who_does_not_ask_for_it_imports_nothing() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import anyio, coro_rt, coro_rt.llm.model\n"
        "async def main():\n"
        "    async with coro_rt.open_runtime(): pass\n"
        "anyio.run(main)\n"
        "print([name for name in sys.modules if 'wgpu' in name or name.startswith('coro_rt.devices.gpu')])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


@pytest.mark.gpu
def test_it_is_listed_with_what_it_can_do(gpu: GpuDevice) -> None:
    (info,) = [device for device in available() if device.name == "gpu"]
    assert info.available
    assert info.detail == gpu.detail
    assert gpu.adapter.info["backend_type"] in info.detail
    assert "bindings up to" in info.detail


doubled: Kernel[[Any], Any] = Kernel("doubled")


@doubled.on("gpu")
def _doubled(device: GpuDevice, launch: Any, slice_s: float) -> bool:
    buffer = device.upload(launch.args[0] * 2)
    launch.result = device.read(buffer, launch.args[0].nbytes).view(np.float32)
    return True


@kernel
def only_on_the_cpu() -> None:
    pass


@pytest.mark.gpu
@pytest.mark.anyio
@pytest.mark.usefixtures("gpu")
async def test_jobs_launch_kernels_of_their_own_on_it() -> None:
    async def job(values: np.ndarray) -> np.ndarray:
        with pytest.raises(KernelError, match="has no implementation for devices of kind 'gpu'"):
            await only_on_the_cpu()
        return await doubled(values)

    values = np.arange(100, dtype=np.float32)
    async with open_runtime(devices=["cpu", "gpu"]) as runtime:
        assert np.array_equal(await runtime.run(job, values, device="gpu"), values * 2)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_device_without_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    wgpu = pytest.importorskip("wgpu")
    device = GpuDevice()
    device.start()

    def full(**_: object) -> None:
        raise wgpu.GPUOutOfMemoryError("no")

    monkeypatch.setattr(device.device, "create_buffer", full)
    with pytest.raises(DeviceLost, match="'gpu' has run out of its own memory: it has no 1 MiB left"):
        device.buffer(2**20)
    device.close()


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_closed_device_says_so() -> None:
    device = GpuDevice()
    with pytest.raises(DeviceError, match="not started, or was closed"):
        device.buffer(16)
    device.start()
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="not started, or was closed"):
        device.buffer(16)
