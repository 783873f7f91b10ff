"""`coro-rt compare`: threads against coroutines, measured here, with every claim judged."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from coro_rt import CoroRtError
from coro_rt.cli.loop import run_async
from coro_rt.cli.opened import fetch
from coro_rt.cli.options import DEFAULT_MODEL, with_json, with_model_name, with_report, with_trace
from coro_rt.cli.output import Output
from coro_rt.llm.catalog import CATALOG, resolve

if TYPE_CHECKING:
    from coro_rt.compare.claim import Claim
    from coro_rt.compare.comparison import Found

SECTIONS = (
    "scene", "switch", "roundtrip", "starting", "kernels", "decisions", "steps", "busy", "formats", "soc",
    "tracing",
)  # fmt: skip


@click.command()
@click.option("--quick", is_flag=True, help="Half a minute: fewer samples, smaller crowds.")
@click.option(
    "--only", multiple=True, type=click.Choice(SECTIONS), help="Only this part; may be given several times."
)
@with_model_name
@with_report
@with_trace
@with_json
def compare(
    quick: bool, only: tuple[str, ...], model: str, report: str | None, trace: str | None, output: Output
) -> None:  # fmt: skip
    """Threads against coroutines: what a thread per task costs an assistant, and what coro_rt saves.

    The same jobs run under a thread per task, a thread pool, and coro_rt with two policies; switches, round
    trips, starting and memory are measured beside threads, asyncio, uvloop and trio. About three minutes.
    """
    from coro_rt.compare.comparison import FULL, QUICK, Comparison  # here: it loads numba

    if report is not None:
        from coro_rt.compare.report import check, write

        check(Path(report))  # before minutes are spent
    path = _model(model, output)
    command = " ".join(["coro-rt compare", *["--quick"] * quick, *(f"--only {one}" for one in only)])
    if model != DEFAULT_MODEL:
        command += f" --model {shlex.quote(model)}"
    comparison = Comparison(path, QUICK if quick else FULL, only=only, command=command, trace=trace)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with output.progress(*columns) as progress:
        bar = progress.add_task("", total=comparison.ticks)
        found = comparison.run(lambda what: progress.update(bar, advance=1, description=what, refresh=True))
    _show(found, output)
    if report is not None:
        write(found, Path(report))
        output.note(f"the report is in {report}")
    output.json(found.as_json())


def _model(model: str, output: Output) -> Path:
    try:
        return resolve(model)
    except CoroRtError:
        if model not in CATALOG:
            raise
        return run_async(partial(fetch, model, output), "asyncio")


def _show(found: Found, output: Output) -> None:
    from coro_rt.bench.machine import line
    from coro_rt.compare.claims import by_source

    output.line(line(found.machine))
    for source, claims in by_source(found.claims):
        if claims:
            output.table(_table(source, claims))
    for note in found.figures.notes:
        output.note(note)
    if found.noise.warning:
        output.note(found.noise.warning)


def _table(source: str, claims: list[Claim]) -> Table:
    table = Table(source, "found", "holds", "", title_justify="left")
    table.columns[1].justify = "right"
    for claim in claims:
        figure = "" if claim.figure is None else f"{claim.figure:.3g} {claim.unit}"
        holds = "" if claim.holds is None else "yes" if claim.holds else "no"
        table.add_row(claim.claim, figure, holds, claim.kind if claim.kind == "modelled" else "")
    return table
