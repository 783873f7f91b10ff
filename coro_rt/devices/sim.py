"""The simulated device: its kernels only take time, real or virtual, and modelled joules."""

from __future__ import annotations

import math
import time

from coro_rt.devices.base import Device, checked_watchdog
from coro_rt.errors import KernelError
from coro_rt.kernel import Kernel, Launch
from coro_rt.parker import Clock, LockParker, Parker


class SimDevice(Device):
    """Takes the time that launches ask for, in quanta of `quantum_s`; on a VirtualClock, no real time passes.

    `watts` times seconds of work go into the ledger's joules.
    """

    kind = "sim"
    remembers = True

    def __init__(
        self, name: str = "sim", *, watts: float = 0.0, quantum_s: float = 0.002, watchdog_s: float = math.inf
    ) -> None:
        if not quantum_s > 0:
            raise ValueError(f"quantum_s is a positive number of seconds, not {quantum_s!r}")
        self.name = name
        self.watts = watts
        self.watchdog_s = checked_watchdog(watchdog_s)
        self.quantum_s = quantum_s
        self._preempt = False
        self._clock: Clock = time.perf_counter
        self._parker: Parker = LockParker(self._clock)

    @property
    def detail(self) -> str:
        return f"takes time only, quanta of {self.quantum_s * 1e3:g} ms"

    def attach(self, parker: Parker, clock: Clock) -> None:
        self._parker = parker
        self._clock = clock

    def reopen(self) -> None:
        """There is nothing to open."""

    def preempt(self) -> None:
        self._preempt = True
        self._parker.unpark()

    def preempt_requested(self) -> bool:
        return self._preempt

    def clear_preempt(self) -> None:
        self._preempt = False

    def spend(self, seconds: float, slice_s: float) -> float:
        """Take `seconds`, or less: to the end of a quantum when `slice_s` is over or it is preempted. Returns
        what is left."""
        began = now = self._clock()
        end = began + seconds
        stop = min(end, began + self._whole_quanta(slice_s))
        while now < stop:
            if self._preempt:
                stop = min(stop, began + self._whole_quanta(now - began))
            if now < stop:
                self._parker.park(stop)
                now = self._clock()
        return max(0.0, end - now)

    def _whole_quanta(self, seconds: float) -> float:
        """Rounded up, but for an error of rounding; at least one."""
        return max(1, math.ceil(seconds / self.quantum_s - 1e-6)) * self.quantum_s


sim_work: Kernel[[float], None] = Kernel("sim_work", size=lambda seconds: seconds)


@sim_work.on("sim")
def _spend(device: SimDevice, launch: Launch[None], slice_s: float) -> bool:
    left = launch.args[0] if launch.state is None else launch.state
    if not 0 <= left < math.inf:
        raise KernelError(f"sim_work takes a number of seconds, zero or more, not {left!r}")
    launch.state = device.spend(left, slice_s)
    return bool(launch.state < 1e-9)
