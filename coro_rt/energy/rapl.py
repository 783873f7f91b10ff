"""RAPL: the processor counts the microjoules of its packages itself (Intel since 2011, AMD since 2017).

Linux shows a folder for each domain, `intel-rapl:0` and so on, on AMD too. A package's name is `package-0`;
`psys` is the whole board, and what lies inside a package (`intel-rapl:0:0`) is counted in it already. The
same package may come a second time as `intel-rapl-mmio:0`. A counter begins anew behind
`max_energy_range_uj`, on a laptop after some hours. Since 2020 only root may read it, because what a
processor uses tells others what it works on (CVE-2020-8694).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coro_rt.energy.source import EnergySource
from coro_rt.energy.sysfs import read_int, read_text
from coro_rt.errors import EnergyError

if TYPE_CHECKING:
    from coro_rt.devices.base import Device

ROOT = Path("/sys/class/powercap")


class Rapl(EnergySource):
    """The joules of all packages, whoever works there. Raises EnergyError where they cannot be read."""

    name = "RAPL"

    def __init__(self, root: Path = ROOT) -> None:
        self._packages = _packages(root)
        if not self._packages:
            raise EnergyError(
                f"RAPL: {root} has no package: the processor or the virtual machine counts none"
            )
        self._joules = 0.0
        try:
            self._last = [package.read() for package in self._packages]
        except PermissionError as error:
            raise EnergyError(
                f"RAPL: only root may read {error.filename}: until the next start of the machine, "
                f"`sudo chmod a+r {root}/intel-rapl:*/energy_uj` changes that"
            ) from error
        except (OSError, ValueError) as error:
            raise EnergyError(f"RAPL: {error}") from error

    def measures(self, device: Device) -> bool:
        return device.kind == "cpu"

    def joules(self) -> float:
        for number, package in enumerate(self._packages):
            try:
                now = package.read()
            except ValueError as error:
                raise OSError(str(error)) from error
            used = now - self._last[number]
            if used < 0:
                used += package.turn_uj
            self._last[number] = now
            self._joules += max(0, used) / 1e6  # still less than before: it was set back, as by a suspend
        return self._joules


class _Package:
    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self.turn_uj = read_int(folder / "max_energy_range_uj") or 0

    def read(self) -> int:
        """Microjoules. Raises OSError, ValueError."""
        text = self._counter.read_text()
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{self._counter} says {text[:40]!r}, which is no number") from None


def _packages(root: Path) -> list[_Package]:
    """One for each name; `intel-rapl:` comes before `intel-rapl-mmio:`, which counts the same."""
    found: dict[str, _Package] = {}
    for interface in ("intel-rapl:", "intel-rapl-mmio:"):
        for folder in sorted(root.glob(f"{interface}*")):
            name = read_text(folder / "name")
            if folder.name.count(":") == 1 and name is not None and name.startswith("package"):
                found.setdefault(name, _Package(folder))
    return list(found.values())
