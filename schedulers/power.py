"""What the machine runs on and how warm it is, as far as a policy has use for it."""

from __future__ import annotations

from dataclasses import dataclass

from coro_rt.schedulers.errors import SchedulerError


@dataclass(frozen=True, slots=True)
class PowerState:
    """Battery, power supply and heat at one moment. By default: external power, and cool.

    Raises SchedulerError for what cannot be.
    """

    battery: float | None = None  # how full, 0..1; None: there is none, or nobody knows
    charging: bool = True  # on external power, whether the battery is full or not
    thermal: float = 1.0  # the part of full speed that heat leaves: 1 is cool

    def __post_init__(self) -> None:
        if self.battery is not None and not _is_part(self.battery):
            raise SchedulerError(f"battery is a number from 0 to 1, or None, not {self.battery!r}")
        if not isinstance(self.charging, bool):
            raise SchedulerError(f"charging is True or False, not {self.charging!r}")
        if not _is_part(self.thermal):
            raise SchedulerError(f"thermal is a number from 0 to 1, not {self.thermal!r}")


def _is_part(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
