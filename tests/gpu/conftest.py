"""One GPU for all tests of this folder; where there is no adapter they are skipped, and say why."""

from collections.abc import Iterator

import pytest

from coro_rt.devices.gpu import GpuDevice
from coro_rt.errors import DeviceError


@pytest.fixture(scope="session")
def gpu() -> Iterator[GpuDevice]:
    device = GpuDevice()
    try:
        device.start()
    except DeviceError as error:
        pytest.skip(str(error))
    yield device
    device.close()
