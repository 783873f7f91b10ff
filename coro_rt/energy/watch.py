"""Watching battery and heat, now and then while something runs.

In a thread of its own, since a battery may take a hundredth of a second to answer, which is many quanta. It
sleeps until a worker asks it to look; it is started with the first time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from coro_rt.schedulers.power import PowerState

logger = logging.getLogger("coro_rt")

EVERY_S = 5.0


class PowerWatch:
    """Calls `tell` with what `read` says, at most every EVERY_S seconds, and only if asked to `look`."""

    def __init__(self, read: Callable[[], PowerState | None], tell: Callable[[PowerState], None]) -> None:
        self._read = read
        self._tell = tell
        self._due_at = float("-inf")
        self._wanted = threading.Event()
        self._closing = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def look(self, now: float) -> None:
        """By any worker, while it works. Returns at once."""
        if now < self._due_at:
            return
        self._due_at = now + EVERY_S
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="coro_rt-power", daemon=True)
                    self._thread.start()
        self._wanted.set()

    def close(self) -> None:
        """End and join the thread. No worker looks any more."""
        self._closing = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing:
                return
            try:
                state = self._read()
            except Exception:  # somebody's own: this one is not worth a runtime
                logger.exception("the power state cannot be read, and is not read again")
                return
            if state is not None:
                self._tell(state)
