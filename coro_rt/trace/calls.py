"""What a trace consists of: the scheduler's public calls, and how their arguments and answers are written.

One table says it all. A new public call of the scheduler is one more line here; a test compares the table
with the class, and recording, reading and replaying follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any

from coro_rt.schedulers.batch import Batch, KnownCosts
from coro_rt.schedulers.entry import Entry, Grant
from coro_rt.schedulers.pace import Pace
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.registry import POLICIES

FORMAT = "coro_rt trace"
VERSION = 1

CALLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "add_device": ("device",),
        "submit": ("entry", "now"),
        "next": ("device", "now"),
        "turn": ("entry", "seconds", "now"),
        "ran": ("entry", "seconds", "now"),
        "park": ("entry", "now", "on"),
        "wake": ("entry", "now"),
        "move": ("entry", "device", "now"),
        "offer": ("entry", "batch", "rows", "now"),
        "alight": ("entry", "now"),
        "leave": ("entry", "now"),
        "learn": ("batch", "rows", "seconds", "now"),
        "done": ("entry", "now"),
        "expedite": ("entry", "now"),
        "set_qos": ("entry", "now", "qos", "deadline"),
        "predict": ("entry", "seconds_left", "now"),
        "set_policy": ("policy", "now"),
        "set_power": ("state", "now"),
        "place": ("work", "among", "now", "qos", "deadline", "tenant", "without", "at", "moved_at"),
        "measured": ("work", "device", "seconds", "now", "joules"),
        "fence": ("device", "reason", "now"),
        "readmit": ("device", "now"),
    }
)
"""Every public call that changes something, and its parameters in their order."""

ASKING = frozenset(
    {"ready", "running", "explain", "upcoming", "policy", "power", "resumes_at", "lets_go_on_s", "backlog"}
)
"""Public, but they change nothing, so they are not written down."""

OPTIONAL = frozenset({"on", "qos", "deadline", "tenant", "without", "at", "moved_at", "joules"})
"""Parameters that are left out of a line when they are None, or not given."""

ENTRIES = frozenset({"entry", "on", "without"})
"""Parameters that are entries; a line has their numbers."""

NUMBERS = frozenset(
    {"now", "seconds", "seconds_left", "deadline", "predicted_seconds_left", "moved_at", "joules"}
)
"""Parameters that are numbers; "inf" and the like are written as strings, as JSON has no number for them."""

WORK, AMONG = "work", "among"
"""The parameter that is a `Work`, an object in a line; and the one that is a list of devices."""

COUNTS = frozenset({"batch", "rows"})
"""Parameters that are whole numbers from 1 on."""

POWER = "state"
"""The parameter that is a `PowerState`; a line has an object of its fields."""

BATCH = "batch"
"""The parameter that is a batch; a line has its number. So has `submit`, if the entry comes with one."""

ENTRY_FIELDS = ("name", "qos", "tenant", "device", "deadline", "predicted_seconds_left")
"""What `submit` says about its entry, besides the number."""

LAUNCHING = frozenset({"next", "turn", "offer"})
"""Calls that may begin a launch, or go on with one."""

Members = tuple[tuple[int, int], ...]
"""Who is in a launch, its leader first, and with how many rows."""

WORKER = "worker"
"""In place of an entry: a worker woke it, which knew when its sleep would be over."""


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a trace. `arguments` are as the scheduler takes them, but that entries are numbers."""

    line: int
    name: str
    arguments: Mapping[str, Any]
    answer: Any = None  # as written: the decision
    by: int | str | None = None  # the entry whose step made the call, if not the entry's own; or WORKER
    entry: Mapping[str, Any] = field(default_factory=dict)  # of a submit: ENTRY_FIELDS, perhaps BATCH
    slow: int | None = None  # the policy was ejected, as this one of its calls had taken too long
    kind: Mapping[str, Any] | None = None  # of a batch, where it is first named: see `describe`
    aboard: Members | None = None  # of the launch that the device goes on with: a decision, too
    after: int | None = None  # of a submit: the entry that the same task asked for before, which had ended


def aboard(arguments: Mapping[str, Any], answer: Any) -> Members | None:
    """Who is in the launch that a device goes on with after a call; None if it is none that is shared."""
    leader = answer.entry if isinstance(answer, Grant) else arguments["entry"] if answer is True else None
    if leader is None or not leader.aboard:
        return None
    return tuple([(entry.id, entry.aboard) for entry in (leader, *leader.riders)])


def describe(batch: Batch) -> dict[str, Any]:
    """What a trace says about a batch: its limits and, where they are not learned, its costs."""
    kind: dict[str, Any] = {"rows": batch.rows, "members": batch.members}
    if not isinstance(batch, Pace):
        kind["costs"] = [batch.seconds(rows) for rows in range(1, batch.rows + 1)]
    return kind


def make_batch(kind: Mapping[str, Any]) -> Batch:
    """A batch that was described, and has learned nothing yet."""
    if "costs" in kind:
        return KnownCosts(kind["costs"], kind["members"])
    pace = Pace()
    pace.rows, pace.members = kind["rows"], kind["members"]
    return pace


def written(value: Any) -> Any:
    """A value as it stands in a trace."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, QoS):
        return value.name
    if isinstance(value, int | float):
        return value if isfinite(value) else repr(float(value))
    if isinstance(value, Entry):
        return value.id
    if isinstance(value, Policy) or (isinstance(value, type) and issubclass(value, Policy)):
        return policy_path(value)
    if isinstance(value, BaseException):
        return {"raises": type(value).__name__}
    if isinstance(value, list | tuple):
        return [written(part) for part in value]
    if isinstance(value, Mapping):
        return {key: written(part) for key, part in value.items()}
    assert is_dataclass(value), f"a trace has no way to write {value!r}"
    return {part.name: written(getattr(value, part.name)) for part in fields(value)}


def policy_path(policy: Policy | type[Policy]) -> str:
    """What `get_policy` makes such a policy from: its name, or where its class is."""
    kind = policy if isinstance(policy, type) else type(policy)
    if POLICIES.get(kind.name) is kind:
        return kind.name
    return f"{kind.__module__}:{kind.__qualname__}"
