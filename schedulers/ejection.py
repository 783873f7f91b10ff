"""What a policy must answer and how soon, and the report about one that did not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coro_rt.schedulers.entry import Entry


@dataclass(frozen=True, slots=True)
class Ejection:
    """A policy broke its contract, and `dynamic` took over."""

    policy: str
    hook: str  # the method that failed
    entry: Entry | None  # for whom it was asked, if for anybody
    reason: str
    now: float  # since when `dynamic` decides

    @property
    def call(self) -> str:
        """For people: "key for 'summarise'", "on_power"."""
        return self.hook if self.entry is None else f"{self.hook} for {self.entry.name!r}"


def key_kind(key: object) -> type | None:
    """float for a number, tuple for a tuple of numbers, None for what cannot be a key."""
    if not isinstance(key, tuple):
        return float if _is_number(key) else None
    for part in key:
        if type(part) is not float and not _is_number(part):
            return None
        if part != part:
            return None
    return tuple if key else None


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value == value


class TooSlow(Exception):
    """A policy has used up the time that it is given."""


class Stopwatch:
    """Times the calls of one policy, and knows a slow policy from a slow moment of the machine."""

    TOLERATED = 3  # slow calls, and
    RARE = 0.01  # any number of them that are no larger part of all
    HOPELESS = 100  # budgets in one call

    def __init__(self, timer: Callable[[], float], budget_s: float) -> None:
        self._timer = timer
        self._budget_s = budget_s
        self._calls = 0
        self._slow = 0

    def timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook; raises TooSlow after a call that was one too many."""
        timer, budget_s = self._timer, self._budget_s

        def call(*args: Any) -> Any:
            began = timer()
            answer = hook(*args)
            took = timer() - began
            self._calls += 1
            if took > budget_s:
                self._note(took)
            return answer

        return call

    def _note(self, took: float) -> None:
        self._slow += 1
        many = self._slow > self.TOLERATED and self._slow > self.RARE * self._calls
        if many or took > self.HOPELESS * self._budget_s:
            raise TooSlow(
                f"took {took * 1e3:.3g} ms, more than the {self._budget_s * 1e3:g} ms that it is given, "
                f"as did {self._slow - 1} of {self._calls - 1} calls before"
            )
