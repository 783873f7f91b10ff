"""`coro-rt bench`: how fast kernels and models are here, beside the machine's limits and llama.cpp, and how
soon somebody is answered beside background work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coro_rt import CoroRtError
from coro_rt.cli.loop import run_async
from coro_rt.cli.opened import fetch
from coro_rt.cli.options import (
    Command,
    with_json,
    with_model_name,
    with_monitor,
    with_policy,
    with_record,
    with_threads,
    with_trace,
)
from coro_rt.cli.output import Output
from coro_rt.llm.catalog import CATALOG, resolve

if TYPE_CHECKING:
    from coro_rt.bench.measure import Report

FORMATS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


class Numbers(click.ParamType[tuple[int, ...]]):
    """Numbers with commas, like 1,2; each in the range."""

    name = "N,…"

    def __init__(self, least: int, most: int) -> None:
        self._range = click.IntRange(least, most)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self._range.convert(one.strip(), param, ctx) for one in value.split(","))


def _common(command: Command) -> Command:
    """Options that all of them have, and what is the same in the end: a report as a table and as JSON."""
    options = [
        click.option(
            "--threads", type=Numbers(1, 1024), default="1,2", show_default=True, metavar="N,…",
            help="Numbers of threads to measure with.",
        ),
        click.option(
            "--repeat", type=click.IntRange(1), default=7, show_default=True, metavar="N",
            help="Samples of each figure, in turns.",
        ),
        with_json,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _model(command: Command) -> Command:
    options = [
        with_model_name,
        click.option(
            "--peer", type=click.Choice(["llama.cpp"]),
            help="Measure it side by side: the xllamacpp wheel, and one compiled here by `make bench-peer`.",
        ),
        click.option(
            "--peer-python", type=click.Path(path_type=Path), default=".venv-peer/bin/python",
            show_default=True, metavar="FILE",
            help="The Python that has the compiled one.",
        ),
        with_monitor,
        with_trace,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def bench() -> None:
    """Measure kernels and models beside the machine's limits, and beside llama.cpp.

    Figures are medians, unless they say otherwise. Sides that are compared take turns, and one rests while
    the other is timed.
    """


@bench.command()
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FORMATS, case_sensitive=False),
    help="Only this one; may be given several times.",
)  # fmt: skip
@click.option(
    "--large", type=click.IntRange(1), metavar="MB",
    help="Size of the matrix that is to be in no cache.  [default: 4 times the largest cache]",
)  # fmt: skip
@_common
def kernels(
    formats: tuple[str, ...], large: int | None, threads: tuple[int, ...], repeat: int, output: Output
) -> None:
    """Matrix products: GB/s and GMAC/s of each format, beside what this machine can do at most.

    CORO_RT_ISA chooses other kernels, as `coro-rt devices` shows.
    """
    from coro_rt.bench.matrices import measure  # here: it loads numba
    from coro_rt.bench.measure import Report

    report = Report("kernels", "matrix products; bytes as in the file format")
    for count in threads:
        nbytes = None if large is None else large * 1_000_000
        report.rows += measure(count, formats or FORMATS, repeat, large=nbytes)
    _finish(report, output)


@bench.command()
@_model
@click.option(
    "--context", "contexts", type=Numbers(1, 2**24), default="16,1024", show_default=True, metavar="N,…",
    help="Tokens before those that are timed.",
)  # fmt: skip
@click.option(
    "--tokens", type=click.IntRange(2), default=64, show_default=True, metavar="N",
    help="Tokens in one sample.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(2, 1024), metavar="N",
    help="Also N generations at once, which share steps.",
)  # fmt: skip
@click.option("--beside-busy", is_flag=True, help="Also beside one busy loop pinned to one core.")
@_common
def decode(
    model: str, peer: str | None, peer_python: Path, contexts: tuple[int, ...], tokens: int,
    batch: int | None, beside_busy: bool, monitor: bool | None, trace: str | None, threads: tuple[int, ...],
    repeat: int, output: Output,
) -> None:  # fmt: skip
    """Tokens per second that a model writes, after prompts of some lengths.

    A trace shows a sample of each that is made after the figures, with the last number of threads.
    """
    more = {"batch": batch or 0, "beside_busy": beside_busy, "monitor": monitor, "trace": trace}
    _measure(model, threads, contexts, tokens, repeat, peer, peer_python, output, more)


@bench.command()
@_model
@click.option(
    "--context", "contexts", type=Numbers(1, 2**24), default="512", show_default=True, metavar="N,…",
    help="Tokens of the prompt.",
)  # fmt: skip
@_common
def prefill(
    model: str, peer: str | None, peer_python: Path, contexts: tuple[int, ...], monitor: bool | None,
    trace: str | None, threads: tuple[int, ...], repeat: int, output: Output,
) -> None:  # fmt: skip
    """Tokens per second of a prompt that a model reads, until the first token of its answer.

    A trace shows a sample of each that is made after the figures, with the last number of threads.
    """
    more = {"monitor": monitor, "trace": trace}
    _measure(model, threads, contexts, 0, repeat, peer, peer_python, output, more)


@bench.command()
@with_model_name
@click.option(
    "--peer", type=click.Choice(["llama.cpp"]),
    help="Its server as well, twice: with its own batch and with one of 64 tokens.",
)  # fmt: skip
@with_policy
@click.option(
    "--asks", type=click.IntRange(1), default=300, show_default=True, metavar="N",
    help="Questions on each side beside the background, and as many without.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N",
    help="Threads for the kernels, on every side.  [default: all that this process may use]",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, metavar="N",
    help="For the prompts and the pauses.",
)  # fmt: skip
@with_monitor
@with_record
@with_trace
@with_json
def respond(
    model: str, peer: str | None, policy: str, asks: int, threads: int | None, seed: int,
    monitor: bool | None, record: str | None, trace: str | None, output: Output,
) -> None:  # fmt: skip
    """How long a short question waits while three background jobs read and write.

    The background reads prompts of 600 tokens and writes 200 after each. Each question is asked a while
    (0.4 s on average) after the answer to the one before.
    """
    from coro_rt.bench.respond import Wanted, measure  # here: it loads numba

    bar = _counting(output)
    task = bar.add_task("asks", total=None)

    async def all_of_it() -> Report:
        path = await _found(model, output)
        wanted = Wanted(path, asks, policy, threads, peer is not None, seed, monitor, record, trace)
        with bar:
            return await measure(
                wanted,
                say=output.note,
                progress=lambda done, total: bar.update(task, completed=done, total=total, refresh=True),
            )

    _finish(run_async(all_of_it, "asyncio"), output)


@bench.command()
@with_model_name
@click.option(
    "--length", "lengths", type=Numbers(2, 2**24), default="16,48,100,200,400,800", show_default=True,
    metavar="N,…", help="Tokens of the prompts.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1), default=8, show_default=True, metavar="N",
    help="How often each length comes; the first 20 samples only train.",
)  # fmt: skip
@click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Of the simulated states, only each N-th.",
)  # fmt: skip
@with_threads
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, metavar="N",
    help="For the prompts, their order, and the noise in the simulator.",
)  # fmt: skip
@with_json
def placement(
    model: str, lengths: tuple[int, ...], rounds: int, every: int, threads: int | None, seed: int,
    output: Output,
) -> None:  # fmt: skip
    """How well placement predicts what a model takes here, what a choice costs, and how urgent jobs fare.

    Prompts are read and tokens written behind them; what placement would have said is compared with what it
    took. Then urgent jobs come to devices in all small states, in the simulator: each is sent where placement
    says, and to all other devices.
    """
    from coro_rt.bench.placement import Wanted, measure  # here: it loads numba

    bar = _counting(output)
    task = bar.add_task("samples", total=None)

    async def all_of_it() -> Report:
        wanted = Wanted(await _found(model, output), threads, lengths, rounds, seed, every)
        with bar:
            return await measure(
                wanted, lambda done, total: bar.update(task, completed=done, total=total, refresh=True)
            )

    _finish(run_async(all_of_it, "asyncio"), output)


def _counting(output: Output) -> Progress:
    return output.progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


def _measure(
    model: str, threads: tuple[int, ...], contexts: tuple[int, ...], tokens: int, repeat: int,
    peer: str | None, peer_python: Path, output: Output, more: dict[str, Any],
) -> None:  # fmt: skip
    from coro_rt.bench import models, peers  # here: they load numba

    async def all_of_it() -> Report:
        wanted = models.Wanted(await _found(model, output), threads, contexts, tokens, repeat, **more)
        with peers.installed(peer, peer_python) as found:
            return await models.measure(wanted, found)

    _finish(run_async(all_of_it, "asyncio"), output)


async def _found(model: str, output: Output) -> Path:
    """The model's file, fetched if it is one of the catalogue's and missing."""
    try:
        return resolve(model)
    except CoroRtError:
        if model not in CATALOG:
            raise
        return await fetch(model, output)


def _finish(report: Report, output: Output) -> None:
    from coro_rt.bench.machine import describe, line
    from coro_rt.bench.table import show

    machine = describe()
    output.line(line(machine))
    output.results.width = max(output.results.width, 140)
    show(output.results, report)
    rows = [row.as_json() for row in report.rows]
    claims = [claim.as_json() for claim in report.claims]
    output.json({"machine": machine, "rows": rows, "claims": claims, "notes": report.notes})
