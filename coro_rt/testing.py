"""For tests, ours and yours: a virtual clock, a device that only takes its time, and devices that fail.

In the example nothing moves while the jobs are submitted; then they run, in no real time, and in the same
order every time::

    clock = VirtualClock()
    async with open_runtime(devices=["sim"], clock=clock) as runtime, create_task_group() as tg:
        with clock.hold():
            tg.start_soon(runtime.run, job)
            await wait_all_tasks_blocked()

And a device that fails at its third quantum, and at the first try to use it again::

    device = SimDevice(watchdog_s=1.0)
    faults = FaultInjection(device, Fault("hung", at=3, tries=1))
    async with open_runtime(devices=[device], clock=VirtualClock()) as runtime:
        ...
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from coro_rt.devices.sim import SimDevice, sim_work
from coro_rt.faults import Fault, FaultInjection
from coro_rt.parker import Parker

__all__ = ["Fault", "FaultInjection", "SimDevice", "VirtualClock", "sim_work"]


class VirtualClock:
    """A clock that jumps: to the next moment when something happens, as soon as all workers on it are
    waiting.

    One worker runs at a time, and of those due at the same moment the one that was opened first, so that the
    same jobs give the same schedule every time. Host code takes no virtual time.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self._asleep = threading.Condition(self._lock)  # told when nobody runs any more, while it is held
        self._holds = 0
        self._running: _VirtualParker | None = None
        self._parkers: list[_VirtualParker] = []

    def __call__(self) -> float:
        return self._now

    def now(self) -> float:
        """Seconds since its start."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move it by hand, and wake who is due; for when nothing else does."""
        if not seconds >= 0:
            raise ValueError(f"time goes forward, not by {seconds!r}")
        with self._lock:
            self._now += seconds
            self._move()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing moves in the block: no worker runs, no time passes. Do not await jobs in it.

        A worker that runs is waited for until it sleeps. (It would take what is submitted in the block.)
        """
        with self._lock:
            self._holds += 1
        try:
            with self._lock:
                while self._running is not None and self._running.thread != threading.get_ident():
                    self._asleep.wait()
            yield
        finally:
            with self._lock:
                self._holds -= 1
                self._move()

    def parker(self) -> Parker:
        """For a worker's thread."""
        parker = _VirtualParker(self)
        self._parkers.append(parker)
        return parker

    def _stop(self) -> None:
        """Under the lock: nobody runs."""
        self._running = None
        if self._holds:
            self._asleep.notify_all()

    def _move(self) -> None:
        """Under the lock: if nobody runs, let the one run that is due next, and be it then."""
        if self._holds or self._running is not None or not self._parkers:
            return
        following = min(self._parkers, key=lambda parker: parker.until)
        if following.until < math.inf:
            self._now = max(self._now, following.until)
            following.until = math.inf
            self._running = following
            following.gate.release()


class _VirtualParker:
    """Parked until a virtual time; an unpark makes it due now."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread: int | None = None  # once it has come
        self.until = math.inf  # when to go on; `-inf`: at once
        self._token = False  # unparked while it ran

    def start(self, thread: threading.Thread) -> None:
        with self._clock._lock:
            self.until = -math.inf  # from now on, however long the thread takes to come
        thread.start()

    def begin(self) -> None:
        with self._clock._lock:
            self.thread = threading.get_ident()
            self._clock._move()
        self.gate.acquire()

    def park(self, until: float) -> None:
        clock = self._clock
        with clock._lock:
            assert clock._running is self
            clock._stop()
            self.until = -math.inf if self._token else until
            self._token = False
            clock._move()
        self.gate.acquire()

    def unpark(self) -> None:
        clock = self._clock
        with clock._lock:
            if clock._running is self:
                self._token = True
            else:
                self.until = -math.inf
                clock._move()

    def hint(self) -> bool:
        return False  # waking takes no time here

    def close(self) -> None:
        clock = self._clock
        with clock._lock:
            if clock._running is self:
                clock._stop()
            clock._parkers.remove(self)
            clock._move()
