"""The CPU: the worker's own thread, and the gang's helpers for kernels that share their rows."""

from __future__ import annotations

import math
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coro_rt.devices.base import Device, checked_watchdog
from coro_rt.errors import DeviceError

if TYPE_CHECKING:
    from coro_rt.kernels.gang import Gang


WATTS_PER_THREAD = 5.0
"""Of the model, while a kernel runs: a laptop's processor of 15 to 28 W has four to six cores."""


class CpuDevice(Device):
    """`threads`: the size of the gang, the worker's thread included; None: as many as there are to use.

    `watchdog_s` is off, because a kernel may be any function, and compile first. Set it only where what a
    kernel works on outlives it: one that hangs may still write there. For that reason a CPU that hung comes
    back only when its kernel has.
    """

    kind = "cpu"
    remembers = True

    def __init__(
        self, *, name: str = "cpu", threads: int | None = None, watchdog_s: float = math.inf
    ) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise DeviceError(f"threads is a whole number, at least 1, not {threads!r}")
        self.name, self.watchdog_s = name, checked_watchdog(watchdog_s)
        self.threads = usable_cpus() if threads is None else threads
        self.watts = WATTS_PER_THREAD * self.threads
        # A line of the cache for itself: kernels read it without the GIL after every chunk of work.
        self._flag = np.zeros(8, np.int64)
        self._gang: Gang | None = None
        self._making = threading.Lock()

    @property
    def detail(self) -> str:
        return f"{platform.machine()}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def gang(self) -> Gang:
        """The gang, started at the first use. Its preempt flag is the device's."""
        with self._making:
            if self._gang is None:
                from coro_rt.kernels.gang import Gang  # here: it loads numba

                gang = Gang(self.threads, preempt=self._flag)
                gang.start()
                self._gang = gang
            return self._gang

    def close(self) -> None:
        with self._making:
            gang, self._gang = self._gang, None
        if gang is not None:
            gang.close()

    def reopen(self) -> None:
        """Nothing: there is nothing on it that is not in memory."""

    def sound(self) -> bool:
        from .known_answer import answers_rightly  # here: it loads numba

        return self._gang is None or answers_rightly(None)

    def preempt(self) -> None:
        self._flag[0] = 1

    def preempt_requested(self) -> bool:
        return bool(self._flag[0])

    def clear_preempt(self) -> None:
        self._flag[0] = 0


def usable_cpus() -> int:
    """How many CPUs this process may use: its affinity, and the quota of its control group (whole CPUs,
    rounded up)."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cpus = os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, cgroup_quota())))


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """The CPU quota in CPUs: the smallest on the way from this process's group to the root; `inf` without
    one. v1 and v2."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root  # v1 has a tree for each controller
        group = base / path.lstrip("/")
        for place in (group, *group.parents):
            quota = min(quota, _quota_at(place))
            if place == base:
                break
    return quota


def _quota_at(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else math.inf
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
