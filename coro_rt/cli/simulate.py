"""`coro-rt simulate`: a recorded run, or a workload that somebody wrote, decided again in virtual time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from coro_rt import TraceFileError
from coro_rt.cli.options import with_json, with_policies
from coro_rt.cli.output import Output
from coro_rt.schedulers.outcome import Outcome
from coro_rt.schedulers.simulation import simulate as simulated
from coro_rt.schedulers.workload import Workload
from coro_rt.trace.gantt import draw
from coro_rt.trace.reader import Trace, is_trace
from coro_rt.trace.recorded import Recorded
from coro_rt.trace.replay import Differences, replay
from coro_rt.trace.workload_file import read_workload


@click.command()
@click.argument(
    "file", metavar="TRACE|WORKLOAD", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@with_policies
@click.option(
    "--replay", "only_replay", is_flag=True,
    help="Decide a trace again under its own policy, and compare every decision.",
)  # fmt: skip
@click.option("--gantt", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
              help="Draw the schedules.")  # fmt: skip
@click.option("--from", "from_s", type=click.FloatRange(0), default=0.0, metavar="S",
              help="Where the picture begins, in seconds.")  # fmt: skip
@click.option("--to", "to_s", type=click.FloatRange(0), default=math.inf, metavar="S",
              help="Where the picture ends.")  # fmt: skip
@with_json
def simulate(
    file: Path, policies: tuple[str, ...], only_replay: bool, gantt: Path | None, from_s: float, to_s: float,
    output: Output,
) -> int:  # fmt: skip
    """Decide a recorded run or a written workload again, under other policies, in virtual time.

    `--record FILE` of the other commands makes traces; docs/traces.md says how workloads are written. Waiting
    is a job's whole time ready, while others ran.
    """
    if only_replay:
        return _replay(file, policies, output)
    if to_s <= from_s:
        raise click.BadParameter(f"the picture would end at {to_s:g} s, before it begins", param_hint="--to")
    recorded: Outcome | None = None
    spans = gantt is not None
    if is_trace(file):
        trace = Trace(file)
        found = Recorded(trace, spans=spans)
        if not found.complete:
            output.note(f"{file} breaks off: it is simulated as far as it goes")
        workload, recorded = found.workload, found.outcome
        policies = policies or (trace.header.policy,)
    else:
        workload = read_workload(file)
        policies = policies or ("dynamic",)
    outcomes = [_simulate(workload, policy, output, spans=spans) for policy in policies]
    shown = [(outcome.policy, outcome) for outcome in outcomes]
    if recorded is not None:
        shown.insert(0, ("recorded", recorded))
    output.table(_waiting(shown))
    output.table(_sums(shown))
    for outcome in outcomes:
        if outcome.ejected is not None:
            output.note(f"policy {outcome.policy!r} was replaced by 'dynamic': {outcome.ejected}")
    if gantt is not None:
        try:
            picture = draw(shown, from_s=from_s, to_s=to_s)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--from") from None
        gantt.write_text(picture, encoding="utf-8")
    result: dict[str, Any] = {"file": str(file), "policies": [_figures(outcome) for outcome in outcomes]}
    if recorded is not None:
        result["recorded"] = _figures(recorded)
    output.json(result)
    return 0


def _simulate(workload: Workload, policy: str, output: Output, *, spans: bool) -> Outcome:
    """One simulation, with a bar for how far it is."""
    service_s: dict[str, float] = dict.fromkeys(workload.devices, 0.0)
    for job in workload.jobs:
        service_s[job.device] += job.service_s
    last_s = max((job.arrives_s for job in workload.jobs), default=0.0)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        console=output.notes, auto_refresh=False, transient=True, disable=not output.notes.is_terminal,
    )  # fmt: skip
    bar = progress.add_task(policy, total=max(last_s, *service_s.values()))
    with progress:
        return simulated(
            workload,
            policy,
            spans=spans,
            progress=lambda now: progress.update(bar, completed=now, refresh=True),
        )


def _waiting(shown: list[tuple[str, Outcome]]) -> Table:
    table = Table("policy", "level", "jobs", "median", "mean", "P99", "max", title="waiting")
    _figures_right(table, 2)
    for title, outcome in shown:
        name = title
        for qos, wait in outcome.waiting_s.items():
            times = (wait.median, wait.mean, wait.p99, wait.max)
            table.add_row(name, qos.name, f"{wait.jobs:,}", *(_time(seconds) for seconds in times))
            name = ""
        table.add_section()
    return table


def _sums(shown: list[tuple[str, Outcome]]) -> Table:
    """Deadlines, switches, and what each tenant was served."""
    tenants = sorted({tenant for _, outcome in shown for tenant in outcome.service_s})
    table = Table("policy", "missed", "switches", "preempted", "ended")
    for tenant in tenants:
        table.add_column(tenant)
    _figures_right(table, 1)
    for title, outcome in shown:
        table.add_row(
            title,
            f"{outcome.missed_deadlines:,}/{outcome.deadlines:,}",
            f"{outcome.switches:,}",
            f"{outcome.preemptions:,}",
            _time(outcome.ended_s),
            *(_time(outcome.service_s.get(tenant, 0.0)) for tenant in tenants),
        )
    return table


def _figures_right(table: Table, first: int) -> None:
    for number, column in enumerate(table.columns):
        column.no_wrap = True
        if number >= first:
            column.justify = "right"


def _time(seconds: float) -> str:
    """Three digits that count."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def _figures(outcome: Outcome) -> dict[str, Any]:
    """An outcome for JSON."""
    return {
        "policy": outcome.policy,
        "jobs": len(outcome.jobs),
        "waiting_s": {
            qos.name: {
                "jobs": wait.jobs, "median": wait.median, "mean": wait.mean, "p99": wait.p99, "max": wait.max
            }
            for qos, wait in outcome.waiting_s.items()
        },
        "deadlines": outcome.deadlines,
        "missed_deadlines": outcome.missed_deadlines,
        "switches": outcome.switches,
        "preemptions": outcome.preemptions,
        "decisions": outcome.decisions,
        "events": outcome.events,
        "service_s": outcome.service_s,
        "ended_s": outcome.ended_s,
        "ejected": outcome.ejected,
    }  # fmt: skip


def _replay(file: Path, policies: tuple[str, ...], output: Output) -> int:
    if not is_trace(file):
        raise TraceFileError(f"{file} is no trace, so it has no decisions to compare: leave --replay out")
    if len(policies) > 1:
        raise click.BadParameter("a replay takes one policy: the recorded one", param_hint="--policy")
    found = replay(Trace(file), policies[0] if policies else None)
    if not found.complete:
        output.note(f"{file} breaks off: it was compared as far as it goes")
    output.line(_verdict(found))
    for difference in found.first:
        output.line(str(difference))
    if found.broke_off is not None:
        output.line(found.broke_off)
    output.json(
        {
            "file": str(file),
            "calls": found.calls,
            "decisions": found.decisions,
            "differences": found.count,
            "first": [str(difference) for difference in found.first],
            "broke_off": found.broke_off,
            "complete": found.complete,
        }
    )
    return 1 if found else 0


def _verdict(found: Differences) -> str:
    what = f"{found.calls:,} calls, {found.decisions:,} decisions"
    if not found:
        return f"{what}: all as recorded"
    return f"{what}: {found.count:,} came out otherwise than recorded"
