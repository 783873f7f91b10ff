"""The device `npu`: layer groups as static ONNX graphs on an execution provider of ONNX Runtime. Needs
`coro-rt[npu]`.
"""

from .device import NpuDevice

__all__ = ["NpuDevice"]
