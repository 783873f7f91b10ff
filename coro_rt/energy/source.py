"""What a source of energy figures is: a counter of the joules that one device has used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coro_rt.devices.base import Device


class EnergySource(ABC):
    """Subclass it for a counter of your own. `measures` is called when a runtime opens, `joules` by the
    worker of that device, outside all locks."""

    name: str  # for people: "RAPL"
    least_s: float = 0.02  # of an interval: what it would say of a shorter one is not worth reading it

    @abstractmethod
    def measures(self, device: Device) -> bool:
        """Whether it is this device's joules that it counts. The device is open."""

    @abstractmethod
    def joules(self) -> float:
        """How many since some time; never less than before. Raises OSError if it can be read no more."""

    def close(self) -> None:  # noqa: B027 (optional)
        """It is not read any more."""
