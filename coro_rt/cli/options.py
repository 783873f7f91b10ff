"""Options that several commands have, checked before anything is loaded."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from coro_rt import SchedulerError
from coro_rt.cli.output import Output
from coro_rt.llm.catalog import CATALOG
from coro_rt.schedulers.registry import POLICIES, get_policy

DEFAULT_MODEL = next(iter(CATALOG))

Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the shared options say."""

    model: str
    devices: tuple[str, ...]
    policy: str
    threads: int | None
    monitor: bool | None
    backend: str
    max_tokens: int
    temperature: float
    seed: int
    record: str | None
    trace: str | None

    @property
    def generation(self) -> dict[str, Any]:
        """Those that `LLM.generate` takes."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}


def _policies(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_policy(context, parameter, value) for value in values)


def _policy(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if ":" in value:
        sys.path.insert(0, "")  # a policy of one's own is most often a file in the current folder
    try:
        get_policy(value)
    except SchedulerError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _temperature(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{value} is not a finite number from 0 on")
    return value


def _writable(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """For a file that is written at the end, or all along: it can be."""
    if value is not None:
        path = Path(value)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise click.BadParameter(
                f"{value!r} cannot be written: it is a folder, or in a folder that is not there"
            )
    return value


def _json(context: click.Context, parameter: click.Parameter, value: str | None) -> Output:
    return Output(value if value == "-" else _writable(context, parameter, value))


def text(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """For arguments that go to a model: there must be something, and it must be characters."""
    if value is not None and not value.strip():
        raise click.BadParameter("there is no text in it")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8") from None
    return value


with_json = click.option(
    "--json",
    "output",
    metavar="FILE",
    is_flag=False,
    flag_value="-",
    callback=_json,
    help="Write the result as JSON; '-', or no FILE: to standard output.",
)
"""Gives the command its `output`."""

_POLICIES = f"{', '.join(POLICIES)}, an installed one, or 'package.module:Class' for one of your own."

with_policy = click.option(
    "--policy", default="dynamic", show_default=True, callback=_policy, metavar="NAME",
    help=_POLICIES,
)  # fmt: skip
"""Gives the command its `policy`."""

with_policies = click.option(
    "--policy", "policies", multiple=True, callback=_policies, metavar="NAME",
    help=f"{_POLICIES} May be given several times.",
)  # fmt: skip
"""Gives the command its `policies`."""

with_record = click.option(
    "--record", callback=_writable, metavar="FILE",
    help="Write a trace of what is scheduled, for `coro-rt simulate`; compressed if it ends in .gz.",
)  # fmt: skip
"""Gives the command its `record`, for `open_runtime`."""

with_monitor = click.option(
    "--monitor/--no-monitor", default=None,
    help="Whether `coro-rt top` may look into it.  [default: as CORO_RT_MONITOR says, 1 or 0]",
)  # fmt: skip
"""Gives the command its `monitor`, for `open_runtime`."""

with_trace = click.option(
    "--trace", callback=_writable, metavar="FILE",
    help="Write what happened when, for https://ui.perfetto.dev or chrome://tracing.",
)  # fmt: skip
"""Gives the command its `trace`; `opened.traced` makes instruments of it."""

with_model_name = click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME|FILE",
    help="A name that `coro-rt models` lists, or a GGUF file.",
)  # fmt: skip

with_threads = click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N",
    help="Threads for the kernels.  [default: all that this process may use]",
)  # fmt: skip

with_report = click.option(
    "--report",
    callback=_writable,
    metavar="FILE.html",
    help="Write a report, one file for a browser; tables alone if it ends in .md.",
)
"""Gives the command its `report`."""


def with_model(*, max_tokens: int) -> Callable[[Command], Command]:
    """Gives the command its `settings`; `max_tokens` is that option's default."""
    options = [
        with_model_name,
        click.option(
            "--device", "devices", multiple=True, default=("cpu",), show_default=True, metavar="NAME",
            help="Where it runs, as in `coro-rt devices`; given several times, where it is done first.",
        ),
        with_policy,
        with_threads,
        click.option(
            "--backend", type=click.Choice(["trio", "asyncio", "uvloop"]), default="trio", show_default=True,
            help="The event loop.",
        ),
        click.option(
            "--max-tokens", type=click.IntRange(1), default=max_tokens, show_default=True, metavar="N",
            help="The longest answer.",
        ),
        click.option(
            "--temperature", type=float, default=0.0, show_default=True, callback=_temperature, metavar="T",
            help="0: always the likeliest token.",
        ),
        click.option(
            "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, metavar="N",
            help="The same seed gives the same answer.",
        ),
        with_monitor,
        with_record,
        with_trace,
    ]  # fmt: skip

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            settings = Settings(**{field.name: given.pop(field.name) for field in fields(Settings)})
            command(settings=settings, **given)

        for option in reversed(options):
            called = option(called)
        return called

    return decorate
