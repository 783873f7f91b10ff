"""The watchdog: a thread that notices a quantum which does not end, and has another thread take over.

A thread that waits for a device cannot be stopped from inside the process. It is *given up*: from then on a
new thread is the worker, and the old one, should it come back, ends where it waited, before it touches
anything. Which of the two is right is decided in one place, under the watch's lock.

There is one watchdog for a runtime, and only if a device has a limit. Beginning and ending a quantum costs a
comparison; a wake at most once in the shortest limit.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from coro_rt.parker import Clock, make_parker

if TYPE_CHECKING:
    from coro_rt.guard import Guard

GRACE = 0.25
"""Of a quantum's limit: for a device to come back after it was interrupted."""


class GivenUp(BaseException):
    """Raised in a thread that comes back from a device after another one has taken over: it ends."""


class Watch:
    """`with watch:` around one quantum, by the worker's thread. Deadlines count only while `armed`.

    `slack_s`: what a call may take beside that, if it consists of many quanta.
    """

    def __init__(self, watchdog: Watchdog | None, limit_s: float, clock: Clock) -> None:
        self.armed = False  # in a launch, or in a try: where another thread can take over
        self.slack_s = 0.0
        self.until = math.inf
        self.given_up = False
        self.interrupted = False
        self.limit_s = limit_s
        self._watchdog, self._clock = watchdog, clock
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        watchdog = self._watchdog
        if self.armed and watchdog is not None:
            self.interrupted = False
            self.until = until = self._clock() + self.limit_s + self.slack_s
            if until < watchdog.until:
                watchdog.wake()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.until = math.inf
            if self.given_up:
                raise GivenUp
        if self._watchdog is not None and self._watchdog.exact:
            self._watchdog.wake()

    def expire(self) -> None:
        """The time is over, says a test. Inside the block."""
        with self._lock:
            self.until = self._clock()
        if self._watchdog is not None:
            self._watchdog.wake()

    def extend(self, now: float) -> bool:
        """The quantum was interrupted: wait a little longer. False: it has ended."""
        with self._lock:
            if self.until > now:
                return False
            self.interrupted = True
            self.until = now + self.limit_s * GRACE
            return True

    def give_up(self, now: float) -> bool:
        """The thread inside is not to come out. False: it has."""
        with self._lock:
            if self.until > now:
                return False
            self.given_up = True
            return True


class Watchdog:
    """Of one runtime, whose clock it is. Calls `Guard.overdue` for a quantum that takes too long."""

    def __init__(self, clock: Clock) -> None:
        self.until = math.inf  # it sleeps until then; read without a lock
        self.guards: list[Guard] = []
        self.exact = hasattr(clock, "parker")  # of its own: time passes when somebody sleeps, so not in vain
        self._clock = clock
        self._parker = make_parker(clock)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="coro_rt-watchdog", daemon=True)

    def start(self) -> None:
        self._parker.start(self._thread)

    def stop(self) -> None:
        """No quantum is under way any more."""
        self._stopping = True
        if self._thread.ident is None:
            self._parker.close()
            return
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """A quantum has begun that ends before the watchdog would look again. From any thread."""
        self._parker.unpark()

    def _run(self) -> None:
        self._parker.begin()
        try:
            while not self._stopping:
                # In this order: whoever begins a quantum is either seen here, or sees that it must wake us.
                self.until = math.inf
                self.until = until = min(guard.watch.until for guard in self.guards)
                self._parker.park(until)
                now = self._clock()
                for guard in self.guards:
                    if guard.watch.until <= now:
                        guard.overdue()
        finally:
            self._parker.close()
