"""What `coro-rt simulate` shows of outcomes: tables for people, and the same for JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from coro_rt.schedulers.outcome import ChipOutcome, Outcome
from coro_rt.schedulers.soc import Chip


def waiting(shown: list[tuple[str, Outcome]]) -> Table:
    """For how long jobs waited, level by level."""
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


def sums(shown: list[tuple[str, Outcome]]) -> Table:
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


def tokens(chip: Chip, outcomes: list[Outcome]) -> Table:
    """What the whole chip did."""
    table = Table(
        "policy", "tokens/s", "J", "J of work", "J/token", "hottest", "slowed",
        title=f"{chip.title}, {outcomes[0].tokens:,} tokens, all modelled",
    )  # fmt: skip
    _figures_right(table, 1)
    for outcome in outcomes:
        done = outcome.chip
        assert done is not None
        found = _chip_figures(outcome, done)
        table.add_row(
            outcome.policy,
            f"{found['tokens_per_s']:,.1f}",
            f"{done.joules:,.0f}",
            f"{found['work_joules']:,.0f}",
            f"{found['joules_per_token']:.3g}",
            f"{done.hottest_c:.1f} °C",
            _time(done.throttled_s),
        )
    return table


def processors(outcomes: list[Outcome]) -> Table:
    """What each processor did."""
    table = Table("policy", "processor", "busy", "of the time awake", "J", title="processors, modelled")
    _figures_right(table, 2)
    for outcome in outcomes:
        done = outcome.chip
        assert done is not None
        title = outcome.policy
        for name, busy_s in done.busy_s.items():
            part = busy_s / done.awake_s if done.awake_s else 0.0
            table.add_row(title, name, _time(busy_s), f"{part:.0%}", f"{done.drawn_joules[name]:,.0f}")
            title = ""
        table.add_section()
    return table


def figures(outcome: Outcome) -> dict[str, Any]:
    """An outcome for JSON."""
    chip = {} if outcome.chip is None else {"chip": _chip_figures(outcome, outcome.chip)}
    return chip | {
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


def _chip_figures(outcome: Outcome, done: ChipOutcome) -> dict[str, Any]:
    """For JSON. A token's joules are of the work: without what the chip would have taken idle."""
    work_joules = done.joules - done.idle_joules
    return {
        "chip": done.chip,
        "modelled": True,
        "tokens": outcome.tokens,
        "tokens_per_s": outcome.tokens / done.awake_s if done.awake_s else 0.0,
        "joules": done.joules,
        "work_joules": work_joules,
        "joules_per_token": work_joules / outcome.tokens if outcome.tokens else 0.0,
        "awake_s": done.awake_s,
        "throttled_s": done.throttled_s,
        "hottest_c": done.hottest_c,
        "processors": {
            name: {"busy_s": busy_s, "joules": done.drawn_joules[name]}
            for name, busy_s in done.busy_s.items()
        },
    }


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
