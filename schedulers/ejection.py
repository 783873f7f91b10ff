"""What a policy must answer, and the report about one that did not."""

from dataclasses import dataclass

from coro_rt.schedulers.entry import Entry


@dataclass(frozen=True, slots=True)
class Ejection:
    """A policy broke its contract, and `dynamic` took over."""

    policy: str
    hook: str  # the method that failed
    entry: Entry  # for whom it was asked
    reason: str
    now: float


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
