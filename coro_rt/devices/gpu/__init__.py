"""The device `gpu`: WGSL kernels on what `wgpu` finds (Vulkan, Metal, DirectX 12). Needs `coro-rt[gpu]`."""

from .device import GpuDevice

__all__ = ["GpuDevice"]
