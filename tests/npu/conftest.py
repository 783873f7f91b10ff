"""The CPU's provider stands in for an NPU; where ONNX Runtime is missing these tests are skipped, and say so.

Models are those of tests/llm.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coro_rt.devices.npu import NpuDevice
from coro_rt.errors import DeviceError

sys.path.insert(0, str(Path(__file__).parent.parent / "llm"))


@pytest.fixture(scope="session")
def npu_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where graphs are kept."""
    return tmp_path_factory.mktemp("npu")


@pytest.fixture(scope="session")
def make_npu(npu_cache: Path) -> Callable[..., NpuDevice]:
    """`make_npu(**options)`: a new device on the CPU's provider."""

    def make(**options: Any) -> NpuDevice:
        return NpuDevice(
            **{"provider": "cpu", "cache": npu_cache, "buckets": (16, 64), "threads": 1} | options
        )

    return make


@pytest.fixture(scope="session", autouse=True)
def _needs_the_extra() -> None:
    try:
        NpuDevice(provider="cpu").start()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def npu(make_npu: Callable[..., NpuDevice]) -> Iterator[NpuDevice]:
    """A device that has been started."""
    device = make_npu(activations="float32")
    device.start()
    yield device
    device.close()


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights, in Q4_1."""
    from tiny import Tiny

    return Tiny(form="Q4_1").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
