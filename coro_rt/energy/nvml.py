"""NVML: NVIDIA's driver counts the millijoules of its GPUs (since Volta). Needs the extra `coro-rt[nvml]`.

The package is imported when a GPU is to be measured, and only if it is installed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from coro_rt.energy.source import EnergySource
from coro_rt.errors import EnergyError

if TYPE_CHECKING:
    from coro_rt.devices.base import Device


class Nvml(EnergySource):
    """The joules of the GPU that has the device's name, whoever works there. Raises EnergyError where NVML
    is not to be had. `library`: what to call in the package's place.
    """

    name = "NVML"
    least_s = 0.1  # the driver brings the counter up to date every 20 to 100 ms

    def __init__(self, library: Any = None) -> None:
        self._library = _library() if library is None else library
        self._gpu: Any = None
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            raise EnergyError(f"NVML: {error}: it comes with NVIDIA's driver") from error

    def measures(self, device: Device) -> bool:
        """Whether there is exactly one GPU of its name, and that counts."""
        if device.kind != "gpu":
            return False
        nvml = self._library
        try:
            gpus = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
            fitting = [gpu for gpu in gpus if _text(nvml.nvmlDeviceGetName(gpu)) == device.hardware]
            if len(fitting) != 1:
                return False
            nvml.nvmlDeviceGetTotalEnergyConsumption(fitting[0])
        except nvml.NVMLError:
            return False
        self._gpu = fitting[0]
        return True

    def joules(self) -> float:
        assert self._gpu is not None, "it measures no device"
        try:
            millijoules = self._library.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
        except self._library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        return float(millijoules) / 1e3

    def close(self) -> None:
        self._library.nvmlShutdown()


def _library() -> Any:
    if find_spec("pynvml") is None:
        raise EnergyError("NVML: the package nvidia-ml-py is missing: pip install 'coro-rt[nvml]'")
    return import_module("pynvml")


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
