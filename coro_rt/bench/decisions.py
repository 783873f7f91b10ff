"""How long the scheduler takes, watched from outside: the runtime itself reads no clock for it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from coro_rt.runtime import Runtime
from coro_rt.schedulers.scheduler import Scheduler


class Decisions:
    """Puts a clock around every public method of a scheduler.

    They are called under the engine's lock, so no two at once. Their seconds are those of the wall: what the
    GIL or the system took away in the middle of a call counts.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._inside = False  # one that another one calls is part of that
        for name in dir(Scheduler):
            if not name.startswith("_") and callable(getattr(Scheduler, name)):
                # on the object, not in front of it: workers may hold on to the scheduler
                setattr(scheduler, name, self._timed(getattr(scheduler, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if self._inside:
                return call(*args, **options)
            self._inside = True
            began = perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.seconds += perf_counter() - began
                self.calls += 1
                self._inside = False

        return timed


def watch(runtime: Runtime) -> Decisions:
    """Time a runtime's decisions from now on."""
    engine = runtime._engine  # the bench is no application: it looks inside
    with engine.lock:
        return Decisions(engine.scheduler)
