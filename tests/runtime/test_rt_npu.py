"""The device `npu` where it cannot be had, and its settings: none of it needs the extra."""

import subprocess
import sys
from typing import Any

import anyio
import pytest

from coro_rt import DeviceError, open_runtime
from coro_rt.devices import available, open_device
from coro_rt.devices.npu import NpuDevice, providers

BLOCKED = """
import importlib.util, sys
MISSING = ("onnx", "onnxruntime", "wgpu")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in MISSING else find(name, *rest)
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_without_the_extra_asking_for_it_names_the_command_that_installs_it() -> None:
    assert "needs onnxruntime and onnx, not installed here: pip install 'coro-rt[npu]'" in run(
        BLOCKED
        + """
import anyio, coro_rt
async def main():
    async with coro_rt.open_runtime(devices=["cpu", "npu"]):
        pass
try:
    anyio.run(main)
except coro_rt.DeviceError as error:
    print(error)
"""
    )


def test_without_the_extra_the_list_of_devices_says_so_and_all_else_works() -> None:
    said = run(
        BLOCKED
        + """
import coro_rt
from coro_rt.devices import available
(npu,) = [info for info in available() if info.kind == "npu"]
print(npu.available, npu.detail, len(npu.missing))
"""
    )
    assert said.startswith("False the device 'npu' needs onnxruntime and onnx")
    assert said.endswith(" 5\n")


def test_nothing_of_it_is_imported_unless_it_is_asked_for() -> None:
    program = """
import sys, anyio, coro_rt
async def main():
    async with coro_rt.open_runtime() as runtime:
        async def nothing(): pass
        await runtime.run(nothing)
anyio.run(main)
import coro_rt.llm.model
print([name for name in ("onnx", "onnxruntime", "coro_rt.devices.npu", "wgpu") if name in sys.modules])
"""
    assert run(program) == "[]\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": "int2"}, "weights is one of auto, int4, int8, float32, not 'int2'"),
        ({"activations": "bfloat16"}, "activations is one of auto, float32, int16, int8"),
        ({"buckets": ()}, "buckets are numbers of tokens"),
        ({"buckets": (0,)}, "buckets are numbers of tokens"),
        ({"libraries": "lib.so"}, "libraries is a list"),
        ({"quantum_s": 0}, "quantum_s is a positive number"),
        ({"threads": 0}, "threads is a whole number"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        NpuDevice(**settings)


def test_a_provider_is_named_behind_a_colon() -> None:
    device = open_device("npu:cpu")
    assert isinstance(device, NpuDevice)
    assert device.name == "npu"
    assert [providers.full_name(name) for name in ("qnn", "QNN", "cpu", "MyExecutionProvider")] == [
        "QNNExecutionProvider",
        "QNNExecutionProvider",
        "CPUExecutionProvider",
        "MyExecutionProvider",
    ]


async def opened(device: NpuDevice) -> None:
    async with open_runtime(devices=[device]):
        pass


@pytest.mark.npu
def test_the_cpu_is_no_npu_unless_it_is_named() -> None:
    pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'coro-rt[npu]'")
    (listed,) = [info for info in available() if info.kind == "npu"]
    if not listed.available:
        assert "no NPU was found" in listed.detail
        with pytest.raises(DeviceError, match="'npu:cpu'"):
            anyio.run(opened, NpuDevice())
    device = NpuDevice(provider="cpu")
    assert "a stand-in on the CPU" in device.detail
    anyio.run(opened, device)


@pytest.mark.npu
def test_a_provider_or_a_library_that_is_not_there_is_named_with_a_remedy(tmp_path: Any) -> None:
    pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'coro-rt[npu]'")
    with pytest.raises(DeviceError, match=r"'OtherProvider' here, only .*CPUExecutionProvider.*libraries="):
        anyio.run(opened, NpuDevice(provider="OtherProvider"))
    with pytest.raises(DeviceError, match=r"there is no library '/no/such\.so': give the path"):
        anyio.run(opened, NpuDevice(libraries=["/no/such.so"]))
    with pytest.raises(DeviceError, match="there is no library 'no_such_package'"):
        anyio.run(opened, NpuDevice(libraries=["no_such_package"]))
    with pytest.raises(DeviceError, match="json does not say where its library is"):
        anyio.run(opened, NpuDevice(libraries=["json"]))
    broken = tmp_path / "provider.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(DeviceError, match="could not be registered as an execution provider"):
        anyio.run(opened, NpuDevice(libraries=[broken]))
    anyio.run(opened, NpuDevice(provider="cpu"))  # and nothing of it stays
