"""Reads a trace, line by line, and believes nothing: every line is checked before anybody acts on it.

A trace that breaks off (its process was killed) is read up to its last whole line.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from coro_rt.errors import TraceFileError
from coro_rt.schedulers.choice import Work
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.trace.calls import (
    AMONG,
    BATCH,
    CALLS,
    COUNTS,
    ENTRIES,
    ENTRY_FIELDS,
    FORMAT,
    NUMBERS,
    OPTIONAL,
    POWER,
    VERSION,
    WORK,
    WORKER,
    Call,
    Members,
)

LONGEST_LINE = 1 << 20
MOST_ROWS = 100_000  # and members of a batch
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: under which settings the scheduler decided."""

    policy: str
    devices: tuple[str, ...]
    shares: Mapping[str, float]
    background_share: float
    max_wait_s: float
    now: float  # when the recording began
    placement: Any = None  # for `Placement.from_data`: what was known about devices then


class Trace:
    """A trace file. `calls()` reads it from its beginning each time, in bounded memory.

    Raises TraceFileError for a file that is no trace, and OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.complete = False  # known when all calls have been read: whether the recording was closed
        _, first = next(_lines(self.path), (1, b""))
        self.header = self._header(self._object(1, first))

    def calls(self) -> Iterator[Call]:
        """The calls, checked. Raises TraceFileError at a line that cannot be."""
        lines = _lines(self.path)
        next(lines, None)  # the header
        known: set[int] = set()
        batches: set[int] = set()
        count, ended = 0, False
        for number, line in lines:
            read = self._object(number, line)
            if ended:
                raise self.error(number, "comes after the end")
            if "end" in read:
                if read["end"] != count:
                    raise self.error(number, f"says that there are {read['end']!r} calls; {count} were read")
                ended = True
                continue
            call = self._call(number, read, known, batches)
            count += 1
            yield call
        self.complete = ended

    def error(self, line: int, problem: str) -> TraceFileError:
        """What to raise about a line."""
        return TraceFileError(f"{self.path}, line {line}: {problem}")

    def _header(self, read: dict[str, Any]) -> Header:
        if read.get("format") != FORMAT:
            raise self.error(1, f"this is no trace: it does not begin with a header, {FORMAT!r}")
        if read.get("version") != VERSION:
            raise self.error(
                1, f"the trace is of version {read.get('version')!r}, this is coro_rt for version {VERSION}"
            )
        values: dict[str, Any] = {}
        for name, kind, meant in (
            ("policy", str, "a policy's name or path"),
            ("devices", list, "a list of names"),
            ("shares", dict, "an object of numbers"),
            ("background_share", float, "a number"),
            ("max_wait_s", float, "a number of seconds"),
            ("now", float, "a time"),
        ):
            value = read.get(name)
            if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
                value = inf if value == "inf" else value if isinstance(value, str) else float(value)
            if not isinstance(value, kind):
                raise self.error(1, f"the header's {name!r} is {meant}, not {value!r}")
            values[name] = value
        if not all(isinstance(device, str) for device in values["devices"]):
            raise self.error(1, f"the header's 'devices' is a list of names, not {values['devices']!r}")
        for weight in values["shares"].values():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise self.error(1, f"the header's 'shares' has the weight {weight!r}, which is no number")
        values["devices"] = tuple(values["devices"])
        placement = read.get("placement")
        if placement is not None:
            try:
                Placement.from_data(placement)
            except SchedulerError as error:
                raise self.error(1, f"the header's 'placement' cannot be: {error}") from None
        return Header(**values, placement=placement)

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            read = json.loads(line)
        except ValueError:
            read = None
        if not isinstance(read, dict):
            raise self.error(number, f"a trace has a JSON object in each line, not {_shown(line)}")
        return read

    def _call(self, number: int, read: dict[str, Any], known: set[int], batches: set[int]) -> Call:
        name = read.get("call")
        if not isinstance(name, str) or name not in CALLS:
            raise self.error(number, f"there is no call {name!r}; there are {', '.join(CALLS)}")
        arguments: dict[str, Any] = {}
        for parameter in CALLS[name]:
            if parameter in read:
                arguments[parameter] = self._value(number, parameter, read[parameter])
            elif parameter not in OPTIONAL:
                raise self.error(number, f"{name} has no {parameter!r}")
        entry: dict[str, Any] = {}
        batch = arguments.get(BATCH)
        if name == "submit":
            if BATCH in read:
                batch = entry[BATCH] = self._value(number, BATCH, read[BATCH])
            for part in ENTRY_FIELDS:
                if part not in read:
                    raise self.error(number, f"submit has no {part!r}")
                entry[part] = self._value(number, part, read[part])
            if arguments["entry"] in known:
                raise self.error(number, f"entry {arguments['entry']} is submitted a second time")
            known.add(arguments["entry"])
        by = read.get("by")
        after = read.get("after")
        named = [None if by == WORKER else by, after, *(arguments.get(parameter) for parameter in ENTRIES)]
        for reference in named:
            if reference is not None and reference not in known:
                raise self.error(number, f"{name} is about entry {reference!r}, which was never submitted")
        slow = read.get("slow")
        if slow is not None and (isinstance(slow, bool) or not isinstance(slow, int) or slow < 1):
            raise self.error(number, f"'slow' is the number of a call of the policy, from 1 on, not {slow!r}")
        kind = None
        if batch is not None and batch not in batches:
            kind = self._kind(number, batch, read.get("kind"), len(batches) + 1)
            batches.add(batch)
        aboard = self._aboard(number, read.get("aboard"), known)
        return Call(number, name, arguments, read.get("answer"), by, entry, slow, kind, aboard, after)

    def _kind(self, number: int, batch: int, kind: Any, expected: int) -> dict[str, Any]:
        """What is said about a batch where it is first named."""
        if batch != expected:
            raise self.error(number, f"the next new batch is {expected}, not {batch}")
        if not isinstance(kind, dict):
            raise self.error(number, f"batch {batch} is named first here, so 'kind' says what it is")
        for part in ("rows", "members"):
            if not _is_count(kind.get(part)) or kind[part] > MOST_ROWS:
                raise self.error(
                    number, f"{part!r} of a batch is a number from 1 to {MOST_ROWS:,}, not {kind.get(part)!r}"
                )
        costs = kind.get("costs")
        if costs is not None and not (
            isinstance(costs, list)
            and len(costs) == kind["rows"]
            and all(isinstance(cost, int | float) and 0 < cost < inf for cost in costs)
        ):
            raise self.error(number, f"'costs' of a batch are the seconds of 1 to {kind['rows']} rows")
        return kind

    def _aboard(self, number: int, aboard: Any, known: set[int]) -> Members | None:
        if aboard is None:
            return None
        if not isinstance(aboard, list) or not all(
            isinstance(member, list)
            and len(member) == 2
            and all(_is_count(part) for part in member)
            and member[0] in known
            for member in aboard
        ):
            raise self.error(number, f"'aboard' is a list of entries and their rows, not {aboard!r}")
        return tuple((entry, rows) for entry, rows in aboard)

    def _value(self, number: int, parameter: str, value: Any) -> Any:
        """A value of a parameter, as the scheduler takes it."""
        if parameter in NUMBERS:
            if value in ("inf", "-inf", "nan"):
                value = float(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                if parameter == "seconds" and not 0 <= value < inf:
                    raise self.error(number, f"'seconds' is a number from 0 on, not {value!r}")
                if parameter == "now" and not isfinite(value):
                    raise self.error(number, f"'now' is a time, not {value!r}")
                return float(value)
            raise self.error(number, f"{parameter!r} is a number of seconds, not {value!r}")
        if parameter in ENTRIES:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            raise self.error(number, f"{parameter!r} is the number of an entry, not {value!r}")
        if parameter in COUNTS:
            if _is_count(value):
                return value
            raise self.error(number, f"{parameter!r} is a whole number from 1 on, not {value!r}")
        if parameter == POWER:
            try:
                return PowerState(**value)
            except (TypeError, SchedulerError):
                raise self.error(
                    number, f"{parameter!r} has 'battery', 'charging' and 'thermal', not {value!r}"
                ) from None
        if parameter == WORK:
            try:
                return Work(**value)
            except (TypeError, AttributeError, SchedulerError) as error:
                raise self.error(number, f"'work' cannot be: {error}") from None
        if parameter == AMONG:
            if isinstance(value, list) and all(isinstance(device, str) for device in value):
                return tuple(value)
            raise self.error(number, f"'among' is a list of devices, not {value!r}")
        if parameter == "qos":
            if isinstance(value, str) and value in QoS.__members__:
                return QoS[value]
            raise self.error(number, f"'qos' is one of {', '.join(QoS.__members__)}, not {value!r}")
        if isinstance(value, str):
            return value
        raise self.error(number, f"{parameter!r} is a text, not {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_trace(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as traces do. Raises OSError."""
    try:
        _, first = next(_lines(os.fspath(path)), (1, b""))
        read = json.loads(first)
    except (TraceFileError, ValueError):
        return False
    return isinstance(read, dict) and read.get("format") == FORMAT


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file and their numbers, from 1; what comes after the last newline is left out."""
    rest, number = b"", 0
    for chunk in _chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            yield number, line
        if len(rest) > LONGEST_LINE:
            raise TraceFileError(f"{path}, line {number + 1}: it is longer than {LONGEST_LINE:,} bytes")


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        unzip = zlib.decompressobj(wbits=31) if file.read(2) == b"\x1f\x8b" else None
        file.seek(0)
        while chunk := file.read(_CHUNK):
            if unzip is None:
                yield chunk
                continue
            try:
                while chunk and not unzip.eof:
                    yield unzip.decompress(chunk, _CHUNK)
                    chunk = unzip.unconsumed_tail
            except zlib.error as error:
                raise TraceFileError(f"{path}: its compressed data is damaged ({error})") from None


def _shown(line: bytes) -> str:
    text = line[:40].decode(errors="replace")
    return repr(text + "…" if len(line) > 40 else text)
