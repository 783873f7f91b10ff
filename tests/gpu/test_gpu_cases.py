"""Every WGSL kernel agrees with its NumPy reference within the named bound, over the CPU's list of cases."""

import numpy as np
import pytest

from coro_rt.devices.gpu import GpuDevice
from coro_rt.devices.gpu.single import OnGpu
from coro_rt.kernels import attention, launch
from coro_rt.kernels.cases import Case, cases
from coro_rt.kernels.kv import round_reference

pytestmark = pytest.mark.gpu

ALL = list(cases())


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_implementation_agrees_with_the_reference(case: Case, gpu: GpuDevice) -> None:
    assert case.worst(OnGpu(gpu)) <= case.bound


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [1e-2, 1.0, 300.0])
def test_keys_and_values_are_rounded_as_on_the_cpu(bits: int, size: float, gpu: GpuDevice) -> None:
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((70, heads, 64), dtype=np.float32) for heads in (4, 2, 2))
    k, v = k * np.float32(size), v * np.float32(size)
    v[5] = 0.0
    kept = tuple(round_reference(a, bits) for a in (k, v))
    got = launch.attention(q, k, v, bits=bits, on=OnGpu(gpu))
    off = np.abs(got - attention.causal_reference(q, *kept))
    assert off.max() <= attention.error_bound(q, *kept)
