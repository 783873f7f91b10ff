"""What a stretch of time took of the machine: CPU time, context switches, memory, joules.

Counters are of the whole process, every thread included. A voluntary switch is a thread that went to sleep,
so there are as many wake-ups; an involuntary one is a thread that the system put aside.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coro_rt.devices.cpu import WATTS_PER_THREAD
from coro_rt.energy.rapl import Rapl
from coro_rt.errors import EnergyError


@dataclass(frozen=True, slots=True)
class Usage:
    """`joules` are measured where `counted`, else modelled: CPU seconds times WATTS_PER_THREAD."""

    wall_s: float
    cpu_s: float
    voluntary: int
    involuntary: int
    peak_bytes: int | None
    joules: float
    counted: bool


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """Seconds that a thread ran, and that it could have run while the system ran others in its place."""

    ran_s: float = 0.0
    ready_s: float = 0.0

    def __add__(self, other: ThreadTime) -> ThreadTime:
        return ThreadTime(self.ran_s + other.ran_s, self.ready_s + other.ready_s)

    def __sub__(self, other: ThreadTime) -> ThreadTime:
        return ThreadTime(self.ran_s - other.ran_s, self.ready_s - other.ready_s)


def thread_time(thread: threading.Thread) -> ThreadTime:
    """What a thread that runs has taken so far; nothing where the system does not say (only Linux does)."""
    try:
        ran_ns, ready_ns, _ = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()
    except (OSError, ValueError):
        return ThreadTime()
    return ThreadTime(int(ran_ns) / 1e9, int(ready_ns) / 1e9)


class Meter:
    """Started when it is made; `stop` says what has been used since."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._rapl = _rapl()
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._began = time.perf_counter()

    def stop(self) -> Usage:
        wall_s = time.perf_counter() - self._began
        now, before = resource.getrusage(resource.RUSAGE_SELF), self._before
        cpu_s = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
        used = None
        if self._rapl is not None:
            with suppress(OSError):
                used = self._rapl.joules()
        return Usage(
            wall_s=wall_s,
            cpu_s=cpu_s,
            voluntary=now.ru_nvcsw - before.ru_nvcsw,
            involuntary=now.ru_nivcsw - before.ru_nivcsw,
            peak_bytes=_peak(),
            joules=cpu_s * WATTS_PER_THREAD if used is None else used,
            counted=used is not None,
        )


def _rapl() -> Rapl | None:
    """Counts from now on; None where nothing does, or nobody may look."""
    try:
        return Rapl()
    except EnergyError:
        return None


def _peak() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return None


def forget_freed_memory() -> None:
    """Give the system back what was freed: one peak of memory is not to depend on what ran before."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def network_sockets() -> int:
    """How many sockets of the internet's families this process has open; 0 where /proc does not say."""
    found = 0
    with suppress(OSError):
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                    with socket.socket(fileno=os.dup(int(fd))) as one:
                        found += one.family in (socket.AF_INET, socket.AF_INET6)
    return found
