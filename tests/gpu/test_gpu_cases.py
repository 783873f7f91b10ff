"""Every WGSL kernel agrees with its NumPy reference within the named bound, over the CPU's list of cases."""

import pytest

from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.single import OnGpu
from coro_rt.kernels.cases import Case, cases

pytestmark = pytest.mark.gpu

ALL = [case for case in cases() if not case.needs]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_implementation_agrees_with_the_reference(case: Case, gpu: GpuDevice) -> None:
    assert case.worst(OnGpu(gpu)) <= case.bound
