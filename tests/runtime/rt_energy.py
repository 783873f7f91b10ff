"""Counters of joules in virtual time, for tests."""

from coro_rt.devices import Device
from coro_rt.energy import EnergySource
from coro_rt.testing import VirtualClock


class Counter(EnergySource):
    """Counts so many watts all the time, or, from a time on, others: `watts` is by the times from which they
    hold. Can be made to fail."""

    name = "counter"

    def __init__(self, watts: float | dict[float, float] = 10.0, *, device: str = "sim") -> None:
        self.watts = watts if isinstance(watts, dict) else {0.0: watts}
        self.device = device
        self.clock = VirtualClock()  # until it is given the runtime's
        self.readings: list[float] = []  # when it was read
        self.fails = False
        self.closed = False

    def measures(self, device: Device) -> bool:
        return device.name == self.device

    def joules(self) -> float:
        if self.fails:
            raise OSError("gone")
        now = self.clock.now()
        self.readings.append(now)
        return 100.0 + self.until(now)

    def until(self, now: float) -> float:
        """What has been used by a time."""
        ends = [*list(self.watts)[1:], float("inf")]
        return sum(
            watts * (min(now, end) - begin)
            for (begin, watts), end in zip(self.watts.items(), ends, strict=True)
            if begin < now
        )

    def close(self) -> None:
        self.closed = True
