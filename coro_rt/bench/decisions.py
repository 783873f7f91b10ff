"""How long the scheduler takes, watched from outside: the runtime itself reads no clock for it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from coro_rt.runtime import Runtime

CALLS = (
    "submit", "next", "ran", "should_yield", "requeue", "park", "wake", "done", "expedite", "set_qos",
)  # fmt: skip


class Decisions:
    """In the place of a runtime's scheduler: the same calls, timed, and everything else as it was.

    Calls are made under the engine's lock, so no two at once. Their seconds are those of the wall: what the
    GIL or the system took away in the middle of a call counts.
    """

    def __init__(self, scheduler: Any) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._scheduler = scheduler
        for name in CALLS:
            setattr(self, name, self._timed(getattr(scheduler, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            began = perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.seconds += perf_counter() - began
                self.calls += 1

        return timed


def watch(runtime: Runtime) -> Decisions:
    """Time a runtime's decisions from now on."""
    engine: Any = runtime._engine  # the bench is no application: it looks inside
    with engine.lock:
        engine.scheduler = decisions = Decisions(engine.scheduler)
    return decisions
