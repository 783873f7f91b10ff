"""`coro-rt top`: a live view of a running runtime: devices, queues, jobs, memory and what was used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import click
from rich.live import Live

from coro_rt import MonitorError
from coro_rt.cli.options import with_json
from coro_rt.cli.output import Output, plain
from coro_rt.cli.top_view import view
from coro_rt.monitor.client import Connection, Watchable, find
from coro_rt.monitor.protocol import MAX_LIMIT

HOW = "open one with open_runtime(monitor=True) or CORO_RT_MONITOR=1, or run a coro-rt command with --monitor"
_WIDTH = 140  # where there is no terminal
_LINES_BESIDE_JOBS = 11


def _pause(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0.1 <= value <= 3600:  # nor is NaN
        raise click.BadParameter(f"{value:g} is not a number of seconds from 0.1 to 3600")
    return value


@click.command()
@click.argument("target", metavar="[PID|NAME]", required=False)
@click.option("--job", metavar="NAME|ID", help="Explain this job instead: why it runs or waits.")
@click.option(
    "--every", type=float, callback=_pause, default=1.0, show_default=True, metavar="SECONDS",
    help="How often it is drawn again.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Show it once and end.")
@with_json
def top(target: str | None, job: str | None, every: float, once: bool, output: Output) -> None:
    """Watch a runtime of a running process of yours, by the process's id or its program's name.

    Without either, the only one that there is. It must have been opened with open_runtime(monitor=True),
    with CORO_RT_MONITOR=1 in its environment, or by a coro-rt command with --monitor. With --json and
    without --once there is a line of JSON each time.
    """
    if not output.results.is_terminal:
        output.results.width = max(output.results.width, _WIDTH)
    watched = _chosen(find(), target)
    try:
        with Connection(watched.path) as connection:
            if job is not None:
                _explain(connection, job, output)
            elif once:
                _once(connection, output)
            else:
                _watch(connection, every, output)
    except ConnectionError:
        raise MonitorError(f"{watched} has closed") from None


def _chosen(found: list[Watchable], target: str | None) -> Watchable:
    """The one that is meant. Raises UsageError."""
    if not found:
        raise click.UsageError(f"no runtime of yours can be watched: {HOW}")
    fitting = [one for one in found if target in (None, one.name, str(one.pid), one.program)]
    listed = plain(", ".join(map(str, fitting or found)))
    if not fitting:
        raise click.UsageError(f"no runtime of {target!r} can be watched; there are: {listed}")
    if len(fitting) > 1:
        raise click.UsageError(f"which of these? {listed}")
    return fitting[0]


def _explain(connection: Connection, job: str, output: Output) -> None:
    explanations = connection.ask(get="explain", job=job)["explanations"]
    if not explanations:
        raise MonitorError(f"no job {job!r} runs or waits there: `coro-rt top --once` lists them")
    for explanation in explanations:
        output.line(explanation["text"])
    output.json({"explanations": explanations})


def _once(connection: Connection, output: Output) -> None:
    answer = connection.ask(get="snapshot", limit=_limit(output))
    output.table(view(answer, None))
    output.json(answer)


def _answers(connection: Connection, every: float, output: Output) -> Iterator[dict[str, Any]]:
    """A snapshot again and again, until the runtime has closed."""
    while True:
        try:
            yield connection.ask(get="snapshot", limit=_limit(output))
        except ConnectionError:
            output.note("the runtime has closed")
            return
        time.sleep(every)


def _watch(connection: Connection, every: float, output: Output) -> None:
    """The view again and again, on a screen of its own where there is a terminal."""
    if output.is_json:
        for answer in _answers(connection, every, output):
            output.json_line(answer)
        return
    console = output.results
    before: dict[str, Any] | None = None
    with (
        Live(console=console, screen=True, auto_refresh=False)
        if console.is_terminal
        else nullcontext() as live
    ):
        for answer in _answers(connection, every, output):
            if live is None:
                output.table(view(answer, before))
            else:
                rows = max(3, console.height - _LINES_BESIDE_JOBS - len(answer["snapshot"]["devices"]))
                live.update(view(answer, before, rows=rows), refresh=True)
            before = answer


def _limit(output: Output) -> int:
    return min(MAX_LIMIT, max(16, output.results.height)) if output.results.is_terminal else 64
