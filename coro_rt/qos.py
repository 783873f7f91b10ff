"""The QoS scope: how urgent the work started inside it is. A context variable, so tasks started in it inherit
it."""

import math
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Self

from coro_rt.schedulers.qos import QoS

# The clock of the innermost runtime that is open here; deadlines are kept as points on it.
runtime_clock: ContextVar[Callable[[], float]] = ContextVar("coro_rt_clock", default=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Urgency:
    """What a scope says."""

    level: QoS = QoS.DEFAULT
    tenant: str = "default"
    deadline: float = math.inf  # on `clock`
    clock: Callable[[], float] = time.perf_counter

    def within_s(self) -> float:
        """Seconds until the deadline; negative when it has passed, `inf` without one."""
        return self.deadline if self.deadline == math.inf else self.deadline - self.clock()


current_urgency: ContextVar[Urgency] = ContextVar("coro_rt_urgency", default=Urgency())  # noqa: B039 (frozen)


class qos:
    """`with qos(QoS.BACKGROUND): ...`: jobs asked for in the block, and by tasks started in it, are this
    urgent.

    `within_s` is a deadline, relative to the moment of entering; of nested scopes and of the enclosing cancel
    scope the earliest wins. It only orders work: nothing is cancelled by it. `tenant` names on whose behalf
    the work is done; without one the enclosing scope's stays. May be entered again, after it was left.
    """

    __slots__ = ("_level", "_tenant", "_token", "_within_s")

    def __init__(self, level: QoS, *, within_s: float | None = None, tenant: str | None = None) -> None:
        if not isinstance(level, QoS):
            names = ", ".join(f"QoS.{one.name}" for one in QoS)
            raise TypeError(f"qos() takes one of {names}, not {level!r}")
        if within_s is not None and math.isnan(within_s):
            raise ValueError("within_s is a number of seconds, not NaN")
        if tenant is not None and not isinstance(tenant, str):
            raise TypeError(f"a tenant is named by a str, not {tenant!r}")
        self._level = level
        self._within_s = within_s
        self._tenant = tenant
        self._token: Token[Urgency] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this qos() scope is entered already: make another one")
        outer, clock = current_urgency.get(), runtime_clock.get()
        now = clock()
        left = min(outer.within_s(), math.inf if self._within_s is None else self._within_s)
        tenant = outer.tenant if self._tenant is None else self._tenant
        self._token = current_urgency.set(Urgency(self._level, tenant, now + left, clock))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        current_urgency.reset(self._token)
        self._token = None
