"""Which of a runtime's devices a model may use, and for what: checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coro_rt.devices.base import Device
from coro_rt.devices.cpu import CpuDevice
from coro_rt.errors import DeviceError

__all__ = ["Devices", "choose_devices"]

PLACES = ("cpu", "gpu")
"""Kinds of device that models run on."""


@dataclass(frozen=True, slots=True)
class Devices:
    """`places`: where it may run, where it is loaded first. `readers`: NPUs and GPUs that may read its
    prompts for a CPU; `prefill`: the one that reads all of them. `borrowers`: see `Places`.
    """

    places: tuple[Device, ...]
    readers: tuple[Device, ...] = ()
    prefill: Device | None = None
    borrowers: tuple[Device, ...] = ()


def choose_devices(
    opened: Sequence[Device], device: str | None, devices: Sequence[str] | None, prefill_on: str | None
) -> Devices:
    """What the arguments of `load_model` name, of what is open.

    Without any: the first that models run on, and all others that have a memory of their own; further CPU
    devices are the same processor again. Raises DeviceError for what is not open or of no use, ValueError for
    names that contradict each other.
    """
    if device is not None and devices is not None:
        raise ValueError("device= is for one place, devices= for several: give one of them")
    if isinstance(devices, str) or (devices is not None and not devices):
        raise ValueError(f"devices is a list of at least one name, such as ['cpu', 'gpu'], not {devices!r}")
    if devices is not None:
        named = [_named(opened, name, (*PLACES, "npu")) for name in dict.fromkeys(devices)]
        places = [each for each in named if each.kind in PLACES]
        readers = [each for each in named if each.kind == "npu"]
        if not places:
            raise _unusable(opened, f"no model can run on {', '.join(map(repr, devices))} alone")
    elif device is not None:
        places, readers = [_named(opened, device, PLACES)], []
    else:
        usable = [each for each in opened if each.kind in PLACES]
        if not usable:
            raise _unusable(opened, "models run on the devices 'cpu' and 'gpu'")
        first, *others = usable
        places = [first]
        for each in others:
            again = each.kind == "cpu" and any(place.kind == "cpu" for place in places)
            if not again:
                places.append(each)
        readers = [each for each in opened if each.kind == "npu"]
    if any(each.kind == "cpu" for each in places):
        readers += [each for each in places if each.kind == "gpu"]
    prefill = None if prefill_on is None else _reading(opened, prefill_on, places[0])
    if prefill is not None and prefill not in readers:
        readers.append(prefill)
    return Devices(tuple(places), tuple(readers), prefill, _borrowers(opened, places))


def _named(opened: Sequence[Device], name: str, kinds: Sequence[str]) -> Device:
    for device in opened:
        if device.name == name and device.kind in kinds:
            return device
    raise _unusable(opened, f"no model can run on {name!r}")


def _reading(opened: Sequence[Device], name: str, first: Device) -> Device:
    for device in opened:
        if device.name == name and device.kind in ("npu", "gpu") and first.kind == "cpu":
            return device
    raise DeviceError(
        f"prompts cannot be read on {name!r} for {first.name!r}: that takes an 'npu' or a 'gpu', and a "
        f"'cpu', and open are: {_names(opened)}; see open_runtime(devices=...)"
    )


def _borrowers(opened: Sequence[Device], places: Sequence[Device]) -> tuple[Device, ...]:
    """CPU devices whose gangs are no larger than what the first place's buffers are made for."""
    first = places[0]
    if not isinstance(first, CpuDevice):
        return ()
    return tuple(
        each
        for each in opened
        if isinstance(each, CpuDevice) and each not in places and each.threads <= first.threads
    )


def _unusable(opened: Sequence[Device], what: str) -> DeviceError:
    return DeviceError(f"{what}, and open are: {_names(opened)}; see open_runtime(devices=...)")


def _names(opened: Sequence[Device]) -> str:
    return ", ".join(device.name for device in opened)
