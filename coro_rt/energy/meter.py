"""The meter: which sources there are, and the power state that the battery and the thermal zones make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from coro_rt.energy.battery import Battery
from coro_rt.energy.nvml import Nvml
from coro_rt.energy.rapl import Rapl
from coro_rt.energy.source import EnergySource
from coro_rt.energy.thermal import ThermalZones
from coro_rt.errors import EnergyError
from coro_rt.schedulers.power import PowerState

if TYPE_CHECKING:
    from coro_rt.devices.base import Device

T = TypeVar("T")

_BY_KIND: dict[str, Callable[[], EnergySource]] = {"cpu": Rapl, "gpu": Nvml}


class Meter:
    """What a runtime reads. `missing`: why nothing else counts joules, a line each.

    A device whose joules no source counts has them modelled. Without battery and thermal zones the power
    state is what `Runtime.set_power` says.
    """

    def __init__(
        self,
        sources: Iterable[EnergySource] = (),
        *,
        battery: Battery | None = None,
        thermal: ThermalZones | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        self.sources = tuple(sources)
        for source in self.sources:
            if not isinstance(source, EnergySource):
                raise EnergyError(f"sources are objects of subclasses of EnergySource, not {source!r}")
        self.battery = battery
        self.thermal = thermal
        self.watches_power = battery is not None or thermal is not None
        self.missing = tuple(missing)

    @classmethod
    def find(cls, kinds: Iterable[str]) -> Meter:
        """What there is here for devices of these kinds; nothing for simulated ones, which are not here."""
        here = set(kinds) - {"sim"}
        missing: list[str] = []
        sources = [_try(make, missing) for kind, make in _BY_KIND.items() if kind in here]
        return cls(
            [source for source in sources if source is not None],
            battery=_try(Battery, []) if here else None,  # that a machine has none is nothing to report
            thermal=_try(ThermalZones, []) if here else None,
            missing=missing,
        )

    def describe(self, device: Device) -> str:
        """For people: where the figures of an open device come from."""
        source = next((source for source in self.sources if source.measures(device)), None)
        if source is not None:
            return f"measured by {source.name}"
        return f"modelled, {device.watts:g} W while it works" if device.watts else "not known"

    def power_state(self) -> PowerState | None:
        """What the machine runs on and how warm it is; None if nobody knows. May take milliseconds."""
        if self.battery is None and self.thermal is None:
            return None
        thermal = 1.0 if self.thermal is None else self.thermal.read()
        if self.battery is None:
            return PowerState(thermal=thermal)
        reading = self.battery.read()
        return PowerState(reading.level, reading.charging, thermal)

    def close(self) -> None:
        """Nothing is read any more."""
        for source in self.sources:
            source.close()


def _try(make: Callable[[], T], missing: list[str]) -> T | None:
    try:
        return make()
    except EnergyError as error:
        missing.append(str(error))
        return None
