"""Finding a GPU: the `wgpu` package, an adapter of its, and words for why there is none.

Only here is `wgpu` imported; nothing imports this file unless the device is asked for.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from coro_rt.errors import DeviceError

INSTALL = "pip install 'coro-rt[gpu]'"
_BETTER_FIRST = ("DiscreteGPU", "IntegratedGPU", "VirtualGPU", "Unknown", "CPU")
_BACKENDS = ("Vulkan", "Metal", "D3D12")  # OpenGL has neither timestamps nor large bindings everywhere


def find(part: str | None = None) -> Any:
    """The best adapter, or the best with `part` in its name. Raises DeviceError, saying how to get one."""
    if find_spec("wgpu") is None:
        raise DeviceError(f"the device 'gpu' needs the package wgpu, which is not installed: {INSTALL}")
    import wgpu
    from wgpu.backends.wgpu_native.extras import set_instance_extras

    with suppress(RuntimeError):  # somebody else has used wgpu already
        set_instance_extras(backends=["Primary"])
    try:
        found = [
            each for each in wgpu.gpu.enumerate_adapters_sync() if each.info["backend_type"] in _BACKENDS
        ]
    except Exception as error:  # whatever a driver makes of it
        raise DeviceError(f"the GPU's driver could not be asked: {error}") from error
    fitting = [each for each in found if part is None or part.lower() in describe(each).lower()]
    if not fitting:
        there = f"; there are: {', '.join(map(describe, found))}" if found else ""
        wanted = "" if part is None else f" with {part!r} in its name"
        raise DeviceError(
            f"no Vulkan, Metal or DirectX 12 adapter{wanted} was found{there}: install your GPU's driver, or "
            "a software adapter (Debian: apt-get install mesa-vulkan-drivers)"
        )
    return min(fitting, key=lambda each: _BETTER_FIRST.index(each.info["adapter_type"]))


def describe(adapter: Any) -> str:
    """Name, kind and back end: "llvmpipe (LLVM 15.0.6, 256 bits), CPU, Vulkan"."""
    info = adapter.info
    return f"{info['device']}, {info['adapter_type']}, {info['backend_type']}"
