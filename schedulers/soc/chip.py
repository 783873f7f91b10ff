"""What a chip is, as far as time and joules depend on it: processors that share memory, heat and a battery.

Only numbers, each from somewhere: a chip's own file says where (copy `snapdragon_8_gen_3.py` to describe
another one). What they mean together is roofline.py's, and what becomes of them in time is silicon.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from coro_rt.schedulers.errors import SchedulerError


@dataclass(frozen=True, slots=True)
class Frequency:
    """A state of a processor: its speed as a part of the full one, and the watts that it takes computing."""

    speed: float
    watts: float


def frequencies(watts: float, exponent: float) -> tuple[Frequency, ...]:
    """States whose power grows like speed ** exponent, from `watts` at full speed downwards."""
    return tuple(Frequency(speed, watts * speed**exponent) for speed in (1.0, 0.75, 0.5, 0.25))


@dataclass(frozen=True, slots=True)
class Processor:
    """One device of a chip.

    `operations` are those that products of matrices reach (not those of a data sheet), per second at full
    speed, by the format of the weights: a multiplication and an addition are two. `bandwidth`: bytes a second
    that it draws from memory when it is alone. `step_s`: what a step of a model takes besides, whatever its
    size (launches, synchronising). `states`: the fastest first; its watts are those of computing all the
    time, and while it waits for memory it takes the part `stalled` of them. `idle_w` it always takes.
    `give_way_s`: how long it goes on when it is asked to stop.
    """

    name: str
    title: str
    operations: Mapping[str, float]
    bandwidth: float
    states: tuple[Frequency, ...]
    step_s: float = 0.0
    stalled: float = 0.5
    idle_w: float = 0.0
    give_way_s: float = 0.0002

    def __post_init__(self) -> None:
        where = f"processor {self.name!r}"
        if not self.name or not self.operations or not self.states:
            raise SchedulerError(f"{where} has a name, a rate for some format, and at least one state")
        _check(where, "operations and bandwidth", (*self.operations.values(), self.bandwidth), least=1.0)
        _check(where, "seconds and watts", (self.step_s, self.idle_w, self.give_way_s))
        if not 0 <= self.stalled <= 1:
            raise SchedulerError(f"{where} has stalled = {self.stalled!r}; it is a part, from 0 to 1")
        speeds = [state.speed for state in self.states]
        watts = [state.watts for state in self.states]
        if speeds[0] != 1.0 or speeds != sorted(speeds, reverse=True) or not speeds[-1] > 0:
            raise SchedulerError(
                f"{where} has speeds {speeds}; the first is 1, and each is lower than the last"
            )
        if watts != sorted(watts, reverse=True) or not 0 <= watts[-1] <= watts[0] < inf:
            raise SchedulerError(f"{where} has states of {watts} W; a slower one takes no more")


@dataclass(frozen=True, slots=True)
class Memory:
    """What all processors share: bytes a second that can be had at most, and joules for each of them."""

    bandwidth: float
    joules_per_byte: float

    def __post_init__(self) -> None:
        _check("the memory", "bandwidth", (self.bandwidth,), least=1.0)
        _check("the memory", "joules a byte", (self.joules_per_byte,))


@dataclass(frozen=True, slots=True)
class Heat:
    """How warm the case gets, as one body: in the end `kelvin_per_watt` above `ambient_c` for each watt, with
    the time constant `settles_s`; `limit_c` is not to be exceeded."""

    limit_c: float
    kelvin_per_watt: float
    settles_s: float
    ambient_c: float = 25.0

    def __post_init__(self) -> None:
        _check("the case", "K/W and seconds", (self.kelvin_per_watt, self.settles_s), least=1e-6)
        if not self.ambient_c < self.limit_c < inf:
            raise SchedulerError(
                f"the case has a limit of {self.limit_c!r} °C; it is above the ambient {self.ambient_c!r} °C"
            )

    @property
    def sustained_w(self) -> float:
        """What it gets rid of for ever."""
        return (self.limit_c - self.ambient_c) / self.kelvin_per_watt


@dataclass(frozen=True, slots=True)
class Chip:
    """A system on a chip. `idle_w` it always takes, asleep; `awake_w` besides while anything runs.

    `battery_j`: what the battery of such a machine holds; None: it is always on external power. Raises
    SchedulerError for what cannot be.
    """

    name: str
    title: str
    processors: tuple[Processor, ...]
    memory: Memory
    heat: Heat
    idle_w: float = 0.0
    awake_w: float = 0.0
    battery_j: float | None = None

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) < len(names):
            raise SchedulerError(f"chip {self.name!r} has processors of different names, not {list(names)}")
        _check(f"chip {self.name!r}", "watts", (self.idle_w, self.awake_w))
        if self.battery_j is not None:
            _check(f"chip {self.name!r}", "battery_j", (self.battery_j,), least=1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Its processors'."""
        return tuple(processor.name for processor in self.processors)

    def processor(self, name: str) -> Processor:
        """One of them. Raises SchedulerError with the names that there are."""
        for processor in self.processors:
            if processor.name == name:
                return processor
        raise SchedulerError(f"{self.name} has no processor {name!r}; it has {', '.join(self.names)}")


def _check(where: str, what: str, values: tuple[float, ...], *, least: float = 0.0) -> None:
    if not all(least <= value < inf for value in values):
        raise SchedulerError(f"{where}: {what} are numbers from {least:g} on, not {list(values)}")
