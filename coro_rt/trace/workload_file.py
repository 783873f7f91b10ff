"""Workloads that people write: TOML or JSON, groups of similar jobs with times, or tokens, and distributions.

The format is in docs/traces.md. The same file gives the same jobs: each group has random numbers of its own,
from the file's seed and the group's place, so that changing one group leaves the others as they are.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from importlib.resources import files
from math import inf
from random import Random
from typing import Any

from coro_rt.errors import SchedulerError, TraceFileError
from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.pace import CHUNK
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.soc.language_model import LanguageModel
from coro_rt.schedulers.soc.registry import get_model
from coro_rt.schedulers.workload import (
    DeviceTiming,
    PowerChange,
    Rows,
    Run,
    Step,
    Wait,
    Workload,
    WorkloadJob,
)

MOST_JOBS = 1_000_000
BUILT_IN = ("day", "reading", "writing")  # those that come with the package, in tokens
_FILE_KEYS = (
    "seed", "duration_s", "background_share", "max_wait_s", "shares", "devices", "power", "jobs",
    "model", "weights", "members",
)  # fmt: skip
_GROUP_KEYS = (
    "name", "qos", "tenant", "device", "at_s", "every_s", "from_s", "until_s", "count", "service_s", "pauses",
    "pause_s", "within_s", "predicted_s", "reads", "writes",
)  # fmt: skip

Draw = Callable[[], float]


def built_in(name: str) -> Workload:
    """One of those in BUILT_IN."""
    return make_workload(
        tomllib.loads((files(__package__) / "workloads" / f"{name}.toml").read_text("utf-8"))
    )


def read_workload(path: str | os.PathLike[str]) -> Workload:
    """The workload of a file. Raises TraceFileError for what it says wrongly, and OSError."""
    name = os.fspath(path)
    with open(path, "rb") as file:
        data = file.read()
    try:
        read = tomllib.loads(data.decode()) if name.endswith(".toml") else json.loads(data)
    except ValueError as error:  # both kinds of syntax error, and bytes that are no UTF-8
        raise TraceFileError(f"{name}: this is neither a trace nor a workload: {error}") from None
    try:
        return make_workload(read)
    except TraceFileError as error:
        raise TraceFileError(f"{name}: {error}") from None


def make_workload(read: object) -> Workload:
    """The workload that such a file's content describes. Raises TraceFileError."""
    top = _table(read, "the file", _FILE_KEYS)
    seed = _whole(top, "seed", "the file", 0)
    duration_s = _number(top, "duration_s", "the file", inf)
    groups = top.get("jobs")
    if not isinstance(groups, list) or not groups:
        raise TraceFileError(f"'jobs' is a list of at least one group of jobs, not {groups!r}")
    model = _model(top)
    jobs: list[WorkloadJob] = []
    for number, group in enumerate(groups):
        where = f"group {number + 1} of 'jobs'"
        table = _table(group, where, _GROUP_KEYS)
        for job in _group(table, where, Random(f"{seed}/{number}"), duration_s, in_tokens=model is not None):
            jobs.append(job)
            if len(jobs) > MOST_JOBS:
                raise TraceFileError(f"{where} comes to more than {MOST_JOBS:,} jobs: give it a 'count'")
    devices = {
        str(name): _timing(
            _table(device, f"device {name!r}", ("give_way_s", "overrun_s")), f"device {name!r}"
        )
        for name, device in _table(top.get("devices", {"cpu": {}}), "'devices'").items()
    }
    if model is not None:  # a chip has devices of its own, of which jobs may name one
        devices |= {job.device: DeviceTiming() for job in jobs}
    shares = _table(top.get("shares", {}), "'shares'")
    try:
        return Workload(
            jobs=tuple(jobs),
            devices=devices,
            shares={tenant: _number(shares, tenant, "'shares'", 1.0) for tenant in shares},
            background_share=_number(top, "background_share", "the file", 0.05),
            max_wait_s=_number(top, "max_wait_s", "the file", 10.0),
            batches=() if model is None else (model,),
            members=_whole(top, "members", "the file", Batch.members),
            power=tuple(_power_changes(top.get("power", []))),
        )
    except SchedulerError as error:
        raise TraceFileError(str(error)) from None


def _model(top: dict[str, Any]) -> LanguageModel | None:
    """The language model whose tokens the jobs are in; None: they are in seconds."""
    if "model" not in top:
        for key in ("weights", "members"):
            if key in top:
                raise TraceFileError(f"the file has {key!r}, which is of a 'model'; it has none")
        return None
    name, weights = (
        _text(top, key, "the file", default) for key, default in (("model", ""), ("weights", "int4"))
    )
    try:
        return get_model(name).quantized(weights)
    except SchedulerError as error:
        raise TraceFileError(str(error)) from None


def _timing(read: object, where: str) -> DeviceTiming:
    device = _table(read, where, ("give_way_s", "overrun_s"))
    usual = DeviceTiming()
    return DeviceTiming(
        (_number(device, "give_way_s", where, *usual.give_way_s),),
        (_number(device, "overrun_s", where, *usual.overrun_s),),
    )


def _power_changes(read: object) -> Iterator[PowerChange]:
    """Raises SchedulerError for a state that cannot be."""
    if not isinstance(read, list):
        raise TraceFileError(f"'power' is a list of states, each with its 'at_s', not {read!r}")
    for number, change in enumerate(read):
        where = f"state {number + 1} of 'power'"
        state = dict(_table(change, where, ("at_s", "battery", "charging", "thermal")))
        at_s = _seconds(state.pop("at_s", None), f"'at_s' of {where}")
        yield PowerChange(at_s, PowerState(**state))


def _group(
    group: dict[str, Any], where: str, random: Random, duration_s: float, *, in_tokens: bool
) -> Iterator[WorkloadJob]:
    name, tenant, device = (
        _text(group, key, where, default)
        for key, default in (("name", where), ("tenant", "default"), ("device", "cpu"))
    )
    level = _text(group, "qos", where, "DEFAULT")
    if level not in QoS.__members__:
        raise TraceFileError(f"'qos' of {where} is one of {', '.join(QoS.__members__)}, not {level!r}")
    amount = _tokens(group, where, random) if in_tokens else _service(group, where, random)
    pauses = _whole(group, "pauses", where, 0)
    pause = _distribution(group.get("pause_s", 0.0), f"'pause_s' of {where}", random)
    predicted = group.get("predicted_s")
    predict = None if predicted is None else _distribution(predicted, f"'predicted_s' of {where}", random)
    within_s = _number(group, "within_s", where, inf)
    for arrives_s in _arrivals(group, where, random, duration_s):
        each = amount(pauses + 1)
        steps = list(each)
        for _ in range(pauses):
            steps += [Wait(pause()), *each]
        service_s = sum(step.seconds for step in steps if isinstance(step, Run))
        yield WorkloadJob(
            name=name,
            arrives_s=arrives_s,
            steps=tuple(steps),
            qos=QoS[level],
            tenant=tenant,
            device=device,
            deadline_s=arrives_s + within_s,
            predicted_s=service_s if predict is None else predict(),
            batch=0 if in_tokens else None,
        )


def _service(group: dict[str, Any], where: str, random: Random) -> Callable[[int], list[Step]]:
    """Draws a job's device time: one part of so many."""
    for key in ("reads", "writes"):
        if key in group:
            raise TraceFileError(f"{where} has {key!r}, tokens: of which 'model'? The file names none")
    if "service_s" not in group:
        raise TraceFileError(f"{where} has no 'service_s': the device seconds that each of its jobs takes")
    service = _distribution(group["service_s"], f"'service_s' of {where}", random)
    return lambda parts: [Run(service() / parts)]


def _tokens(group: dict[str, Any], where: str, random: Random) -> Callable[[int], list[Step]]:
    """Draws a job's tokens: one part of so many, read in chunks and then written one by one."""
    if "service_s" in group:
        raise TraceFileError(f"{where} has 'service_s', but the file has a 'model': say 'reads' and 'writes'")
    if "reads" not in group and "writes" not in group:
        raise TraceFileError(f"{where} has neither 'reads' nor 'writes': the tokens of each of its jobs")
    reads, writes = (
        _distribution(group.get(key, 0), f"{key!r} of {where}", random) for key in ("reads", "writes")
    )

    def draw(parts: int) -> list[Step]:
        read, write = round(reads() / parts), round(writes() / parts)
        steps: list[Step] = [Rows(0, read, CHUNK)] if read else []
        return [*steps, Rows(0, max(1, write), 1)]

    return draw


def _arrivals(group: dict[str, Any], where: str, random: Random, duration_s: float) -> Iterator[float]:
    count = _whole(group, "count", where, MOST_JOBS + 1)
    if "at_s" in group:
        if any(key in group for key in ("every_s", "from_s", "until_s")):
            raise TraceFileError(f"{where} has 'at_s', so it takes no 'every_s', 'from_s' or 'until_s'")
        at = group["at_s"] if isinstance(group["at_s"], list) else [group["at_s"]]
        for time in at:
            yield from [_seconds(time, f"'at_s' of {where}")] * (count if "count" in group else 1)
        return
    if "every_s" not in group:
        raise TraceFileError(f"{where} has neither 'at_s' nor 'every_s': when do its jobs come?")
    if group["every_s"] == 0:
        raise TraceFileError(f"'every_s' of {where} is 0: its jobs would all come at once, without end")
    gap = _distribution(group["every_s"], f"'every_s' of {where}", random)
    now = _number(group, "from_s", where, 0.0)
    until_s = _number(group, "until_s", where, duration_s)
    if until_s == inf and "count" not in group:
        raise TraceFileError(f"{where} has no end: give it 'count' or 'until_s', or the file 'duration_s'")
    now += gap()
    while now < until_s and count > 0:
        yield now
        now += gap()
        count -= 1


def _distribution(value: object, where: str, random: Random) -> Draw:
    """A number, or {exponential = mean}, or {uniform = [least, most]}."""
    if not isinstance(value, dict):
        fixed = _seconds(value, where)
        return lambda: fixed
    if len(value) == 1 and "exponential" in value:
        mean = _seconds(value["exponential"], where)
        if mean > 0:
            return lambda: random.expovariate(1 / mean)
    if len(value) == 1 and isinstance(between := value.get("uniform"), list) and len(between) == 2:
        least, most = (_seconds(bound, where) for bound in between)
        return lambda: random.uniform(least, most)
    raise TraceFileError(
        f"{where} is a number, {{exponential = mean > 0}} or {{uniform = [least, most]}}, not {value!r}"
    )


def _table(value: object, where: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TraceFileError(f"{where} is a table of keys and values, not {value!r}")
    for key in value:
        if keys is not None and key not in keys:
            raise TraceFileError(f"{where} has {key!r}; it takes {', '.join(keys)}")
    return value


def _text(table: dict[str, Any], key: str, where: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise TraceFileError(f"{key!r} of {where} is a text, not {value!r}")
    return value


def _whole(table: dict[str, Any], key: str, where: str, default: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TraceFileError(f"{key!r} of {where} is a whole number from 0 on, not {value!r}")
    return value


def _number(table: dict[str, Any], key: str, where: str, default: float) -> float:
    return default if key not in table else _seconds(table[key], f"{key!r} of {where}")


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise TraceFileError(f"{where} is a number from 0 on, not {value!r}")
    return float(value)
