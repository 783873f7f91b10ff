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

WATTS_PER_CORE = 5.0  # where nothing counts joules: a busy core of a laptop, say


@dataclass(frozen=True, slots=True)
class Usage:
    """`joules` are measured where `counted`, else modelled: CPU seconds times WATTS_PER_CORE."""

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
        self._uj = _microjoules()
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._began = time.perf_counter()

    def stop(self) -> Usage:
        wall_s = time.perf_counter() - self._began
        now, before = resource.getrusage(resource.RUSAGE_SELF), self._before
        cpu_s = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
        uj, used = _microjoules(), None
        if uj is not None and self._uj is not None and uj >= self._uj:  # the counters wrap around
            used = (uj - self._uj) / 1e6
        return Usage(
            wall_s=wall_s,
            cpu_s=cpu_s,
            voluntary=now.ru_nvcsw - before.ru_nvcsw,
            involuntary=now.ru_nivcsw - before.ru_nivcsw,
            peak_bytes=_peak(),
            joules=cpu_s * WATTS_PER_CORE if used is None else used,
            counted=used is not None,
        )


def _microjoules() -> int | None:
    """Of all CPU packages (RAPL), since some time; None where nothing counts them, or nobody may look."""
    try:
        counters = list(Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj"))
        return sum(int(counter.read_text()) for counter in counters) if counters else None
    except OSError:
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
