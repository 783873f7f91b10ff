"""Devices, by name. One table says what there is; each is imported when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from coro_rt.devices.base import Device
from coro_rt.errors import DeviceError

__all__ = ["Device", "DeviceInfo", "available", "open_device"]

_NAMES = ("cpu", "gpu", "npu", "sim")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that could be opened, or why not. `missing`: what else could be behind it, and how to get
    that. `energy`: where its joules come from.
    """

    name: str
    kind: str
    available: bool
    detail: str
    missing: tuple[str, ...] = ()
    energy: str = ""


def open_device(device: str | Device, *, threads: int | None = None) -> Device:
    """The device of a name, or `device` itself. Raises DeviceError if there is no such name."""
    if isinstance(device, Device):
        return device
    if device == "cpu":
        from coro_rt.devices.cpu import CpuDevice

        return CpuDevice(threads=threads)
    if device == "gpu":
        from coro_rt.devices.gpu import GpuDevice

        return GpuDevice()
    if device == "npu" or device.startswith("npu:"):
        from coro_rt.devices.npu import NpuDevice

        return NpuDevice(provider=device[4:] or None)
    if device == "sim":
        from coro_rt.devices.sim import SimDevice

        return SimDevice()
    raise DeviceError(f"there is no device {device!r}; known are {', '.join(_NAMES)}, or give a Device")


def available() -> list[DeviceInfo]:
    """All devices that coro_rt knows, usable here or not."""
    found = []
    for name in _NAMES:
        device = open_device(name)
        try:
            found.append(
                DeviceInfo(
                    name, device.kind, True, device.detail, tuple(device.missing()), _describe_energy(device)
                )
            )
        except DeviceError as error:
            found.append(DeviceInfo(name, device.kind, False, str(error), tuple(device.missing())))
        finally:
            device.close()
    return found


def _describe_energy(device: Device) -> str:
    from coro_rt.energy.meter import Meter

    meter = Meter.find([device.kind])
    others_gpu = device.kind == "gpu" and "NVIDIA" not in device.hardware  # NVML would be of no use
    try:
        return "\n".join([meter.describe(device), *(() if others_gpu else meter.missing)])
    finally:
        meter.close()
