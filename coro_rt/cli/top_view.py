"""What `coro-rt top` shows: one answer of the monitor as lines and tables."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from coro_rt.cli.output import plain
from coro_rt.memory import format_bytes

_KINDS = {
    "weights": "weights",
    "pages": "pages in use",
    "cached": "prefixes kept",
    "workspaces": "workspaces",
    "parking": "area for parked pages",
    "other": "other",
    "parked_in_area": "parked there",
    "parked_on_file": "parked on file",
}


def view(answer: dict[str, Any], before: dict[str, Any] | None, *, rows: int = 1000) -> Group:
    """All of it, with at most so many rows of jobs.

    `before` is the answer before this one: how busy devices were is counted since then, else since the
    runtime was opened.
    """
    now = answer["snapshot"]
    stats, ended = now["stats"], now["ended"]
    memory = format_bytes(stats["memory_used"])
    if stats["memory_budget"] is not None:
        memory += f" of {format_bytes(stats['memory_budget'])}"
    joules = f", {_joules(ended)}" if ended["joules"] else ""
    lines = [
        f"{answer['program']} ({answer['pid']}), open for {_seconds(now['open_s'])}, "
        f"policy {now['policy']}, memory {memory}{_power(now['power'])}",
        f"jobs: {stats['jobs_running']} running, {stats['jobs_ready']:,} ready, "
        f"{stats['jobs_waiting']:,} waiting, {stats['jobs_done']:,} ended",
        f"the ended ones used {_seconds(ended['device_s'])} of devices "
        f"({_seconds(ended['kernel_s'])} in {ended['quanta']:,} quanta of kernels), "
        f"{_seconds(ended['host_s'])} of the host, and waited {_seconds(ended['waiting_s'])}{joules}",
        f"{stats['switches']:,} switches of {stats['switch_cost_s'] * 1e6:.1f} µs, "
        f"{stats['preemptions']:,} within a slice, {stats['decisions']:,} decisions, "
        f"{stats['suspensions']:,} launches suspended, {stats['joint_launches']:,} shared",
        _memory(stats["memory"]),
    ]
    return Group(
        *map(_text, lines), _devices(now, None if before is None else before["snapshot"]), _jobs(now, rows)
    )


def _memory(use: dict[str, Any]) -> str:
    """What memory is held for, and what is parked; what is nothing is left out."""
    parts = [f"{name} {format_bytes(use[kind])}" for kind, name in _KINDS.items() if use[kind]]
    if use["shared"]:
        parts.append(f"saved by sharing {format_bytes(use['shared'])}")
    return f"memory held: {', '.join(parts) or 'none'}"


def _table(**columns: int) -> Table:
    """With columns of at least so many characters; where room is short, wider ones are cut."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column, width in columns.items():
        table.add_column(column, no_wrap=True, min_width=width)
    return table


def _devices(now: dict[str, Any], before: dict[str, Any] | None) -> Table:
    fences = {device["name"]: device.get("fenced") for device in now["devices"]}
    fenced = {"fenced": 10} if any(fences.values()) else {}
    table = _table(device=4, runs=10, since=8, busy=4, ready=5, energy=6, **fenced)
    names = {job["id"]: job["name"] for job in now["jobs"]}
    earlier = {device["name"]: device["busy_s"] for device in before["devices"]} if before else {}
    passed_s = now["open_s"] - before["open_s"] if before else 0.0
    for device in now["devices"]:
        running = device["running"]
        share = device["busy_share"]
        if passed_s > 0:
            share = min(1.0, max(0.0, device["busy_s"] - earlier.get(device["name"], 0.0)) / passed_s)
        table.add_row(
            _text(device["name"]),
            _text("" if running is None else f"{names[running]} #{running}"),
            "" if running is None else _seconds(device["running_for_s"]),
            f"{share:.0%}",
            f"{device['ready']:,}",
            _joules(device["energy"]),
            *([_text(fences[device["name"]] or "")] if fenced else []),
        )
    return table


def _jobs(now: dict[str, Any], rows: int) -> Table:
    table = _table(job=10, task=6, state=7, since=8, QoS=11, key=4, used=8, waited=8, why=10)
    for job in now["jobs"][:rows]:
        level = job["effective_qos"].removeprefix("USER_")
        key = job["key"]
        table.add_row(
            _text(f"{job['name']} #{job['id']}"),
            _text(job["task"].rpartition(".")[2]),
            "cancelled" if job["cancelled"] else job["state"],
            _seconds(job["since_s"]),
            level if job["effective_qos"] == job["qos"] else f"↑{level}",
            _text(f"{key:.3f}" if isinstance(key, float) else str(key)),
            _seconds(job["ledger"]["device_s"]),
            _seconds(job["ledger"]["waiting_s"]),
            _text(job["why"]),
        )
    more = now["jobs_left_out"] + len(now["jobs"][rows:])
    if more:
        table.add_row(f"{more:,} more")
    return table


def _joules(energy: dict[str, Any]) -> str:
    """With the mark where it is not measured, or in part."""
    joules, modelled = energy["joules"], energy["modelled_joules"]
    if not modelled:
        return f"{joules:.1f} J"
    return f"{joules:.1f} J ({'' if modelled == joules else f'{modelled:.1f} '}modelled)"


def _power(power: dict[str, Any] | None) -> str:
    """What the machine runs on, if that is worth a word."""
    if power is None:
        return ""
    text = "" if power["charging"] else ", on battery"
    if power["battery"] is not None:
        text += f", battery {power['battery']:.0%}"
    return text + (f", {power['thermal']:.0%} of full speed (heat)" if power["thermal"] < 1 else "")


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _text(text: str) -> Text:
    """As it is, without markup: names come from another process."""
    return Text(plain(text))
