"""The battery: how full it is, whether it drains, and how much the whole machine draws from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coro_rt.energy.sysfs import read_int, read_text
from coro_rt.errors import EnergyError

ROOT = Path("/sys/class/power_supply")


@dataclass(frozen=True, slots=True)
class BatteryReading:
    """All batteries together. `watts` is of the whole machine, screen and all, while it drains; else what
    charges it. None: nobody knows."""

    level: float | None  # 0..1
    charging: bool  # on external power
    watts: float | None

    def __str__(self) -> str:
        level = "at an unknown level" if self.level is None else f"{self.level:.0%}"
        watts = "" if self.watts is None else f", {self.watts:.1f} W"
        return f"{level}, {'on external power' if self.charging else 'discharging'}{watts}"


class Battery:
    """Those of the machine; not those of its mouse. Raises EnergyError where there is none."""

    def __init__(self, root: Path = ROOT) -> None:
        supplies = sorted(root.glob("*"))
        self._batteries = [
            folder
            for folder in supplies
            if read_text(folder / "type") == "Battery" and read_text(folder / "scope") != "Device"
        ]
        self._mains = [folder for folder in supplies if read_text(folder / "type") not in ("Battery", None)]
        if not self._batteries:
            raise EnergyError(f"{root} has no battery")

    def read(self) -> BatteryReading:
        """How it is now. May take milliseconds: a battery is asked over a slow bus."""
        levels = [level for level in map(_level, self._batteries) if level is not None]
        watts = [power for power in map(_watts, self._batteries) if power is not None]
        return BatteryReading(
            sum(levels) / len(levels) if levels else None,
            self._charging(),
            sum(watts) if watts else None,
        )

    def _charging(self) -> bool:
        """A weak charger may be plugged in and the battery drain all the same: what it says itself counts."""
        states = {read_text(battery / "status") for battery in self._batteries}
        if "Discharging" in states:
            return False
        if states & {"Charging", "Full", "Not charging"}:
            return True
        return not self._mains or any(read_int(supply / "online") for supply in self._mains)


def _level(battery: Path) -> float | None:
    percent = read_int(battery / "capacity")
    return None if percent is None else min(1.0, max(0.0, percent / 100))


def _watts(battery: Path) -> float | None:
    """Drivers differ in the sign: some count what leaves the battery as negative."""
    power = read_int(battery / "power_now")
    if power is not None:
        return abs(power) / 1e6
    microvolts, microamperes = read_int(battery / "voltage_now"), read_int(battery / "current_now")
    if microvolts is None or microamperes is None:
        return None
    return abs(microvolts * microamperes) / 1e12
