"""Heat: how much of full speed it leaves.

Linux cools the processor by making it slower, through *cooling devices*, once a *thermal zone* is warmer than
its passive trip point. Where a cooling device of the processor says how far it has gone, that counts;
besides, a zone on its way from its passive to its critical trip point, at which the machine goes off.
"""

from __future__ import annotations

from pathlib import Path

from coro_rt.energy.sysfs import read_int, read_text
from coro_rt.errors import EnergyError

ROOT = Path("/sys/class/thermal")
_SLOWER = ("Processor", "cpufreq", "thermal-cpufreq", "intel_powerclamp")


class ThermalZones:
    """All zones and what cools the processor. Raises EnergyError where there is neither."""

    def __init__(self, root: Path = ROOT) -> None:
        zones = map(_trips, sorted(root.glob("thermal_zone*")))
        self._zones = [zone for zone in zones if zone is not None]
        self._coolers = [
            (cooler, most)
            for cooler in sorted(root.glob("cooling_device*"))
            if (read_text(cooler / "type") or "").startswith(_SLOWER)
            and (most := read_int(cooler / "max_state") or 0) > 0
        ]
        if not self._zones and not self._coolers:
            raise EnergyError(f"{root} has no zone or cooler that says when heat slows the machine")

    def read(self) -> float:
        """The part of full speed that heat leaves, in tenths, 1 is cool. May take milliseconds."""
        left = 1.0
        for cooler, most in self._coolers:
            state = read_int(cooler / "cur_state") or 0  # -1 of intel_powerclamp: it does nothing
            left = min(left, 1.0 - max(0, state) / (most + 1))  # at its last step it still runs
        for zone, passive, critical in self._zones:
            now = read_int(zone / "temp")
            if now is not None and now > passive:
                left = min(left, (critical - now) / (critical - passive))
        return round(max(0.0, left), 1)


def _trips(zone: Path) -> tuple[Path, int, int] | None:
    """A zone with its passive and its critical trip point, the lowest of each, in thousandths of a degree."""
    found: dict[str, int] = {}
    for kind in sorted(zone.glob("trip_point_*_type")):
        at = read_int(zone / f"{kind.name.removesuffix('_type')}_temp")
        name = read_text(kind)
        if name in ("passive", "critical") and at is not None and at > 0:  # else it is not set
            found[name] = min(at, found.get(name, at))
    if len(found) < 2 or found["critical"] <= found["passive"]:
        return None
    return zone, found["passive"], found["critical"]
