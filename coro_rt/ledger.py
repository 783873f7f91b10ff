"""What a job has used. A job's own counters are plain attributes; this is the frozen sum that people get to
see."""

from dataclasses import astuple, dataclass
from operator import add
from typing import Any

Used = tuple[Any, ...]  # what a ledger says, in the order of its fields; made in a sixth of the time


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a job and its children have used so far, in seconds of the runtime's clock."""

    device_s: float = 0.0  # held the device: its kernels, and its own Python steps between them
    host_s: float = 0.0  # its `on_host` functions, from their start to their end
    waiting_s: float = 0.0  # ready, while others ran
    switches: int = 0  # times a worker went from another job to it
    quanta: int = 0  # calls of a kernel's implementation
    joules: float = 0.0
    modelled_joules: float = 0.0  # of those: not measured, but watts times seconds
    kernel_s: float = 0.0  # in kernels, as the device's own clock measured it if it has one

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            self.device_s + other.device_s,
            self.host_s + other.host_s,
            self.waiting_s + other.waiting_s,
            self.switches + other.switches,
            self.quanta + other.quanta,
            self.joules + other.joules,
            self.modelled_joules + other.modelled_joules,
            self.kernel_s + other.kernel_s,
        )


NOTHING: Used = astuple(Ledger())


def sum_up(one: Used, other: Used) -> Used:
    """What two have used together."""
    return tuple(map(add, one, other))
