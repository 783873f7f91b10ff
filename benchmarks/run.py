"""The command: run benchmarks, print tables, keep every sample as JSON.

python -m benchmarks.run --json out.json
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

if not __package__:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "benchmarks"

import click
from rich.console import Console

from benchmarks.options import Options
from coro_rt.bench.machine import describe, line
from coro_rt.bench.measure import Report
from coro_rt.bench.table import show
from coro_rt.compare.hosts import BACKENDS

NAMES = ("lag",)


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice(NAMES), help="Run only this one; may be given several times."
)
@click.option("--json", "json_file", type=click.File("w"), help="Write every sample to a file; - for stdout.")
@click.option(
    "--repeat", default=7, show_default=True, help="Repetitions, interleaved with the peer's (switch)."
)
@click.option("--threads", default="1,2", show_default=True, help="The largest is what lag uses.")
@click.option("--backends", default=",".join(BACKENDS), show_default=True, help="Event loops to measure on.")
@click.option(
    "--seconds", default=10.0, show_default=True, help="How long each lag and idle measurement takes."
)
@click.option(
    "--model", default="smollm2-135m-instruct", show_default=True, help="A catalogue name or a GGUF file."
)
def main(
    only: tuple[str, ...], json_file: click.utils.LazyFile | None, repeat: int, threads: str,
    backends: str, seconds: float, model: str,
) -> None:  # fmt: skip
    """Benchmarks of coro_rt, side by side with its peers. They print what they find and fail nothing."""
    hosts = tuple(backends.split(","))
    unknown = sorted(set(hosts) - set(BACKENDS))
    if unknown:
        raise click.BadParameter(
            f"{', '.join(unknown)}: there are {', '.join(BACKENDS)}", param_hint="--backends"
        )
    try:
        counts = tuple(int(one) for one in threads.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{threads!r}: numbers with commas, like 1,2", param_hint="--threads"
        ) from None
    options = Options(model, counts, repeat, hosts, seconds)
    console = Console(stderr=json_file is not None and json_file.name == "-")
    console.width = max(console.width, 110)
    machine = describe()
    console.print(line(machine))
    reports = []
    for name in only or NAMES:
        report: Report = import_module(f"benchmarks.{name}").run(options)
        show(console, report)
        reports.append(report)
    if json_file is not None:
        found = {"machine": machine, "reports": [report.as_json() for report in reports]}
        json.dump(found, json_file, indent=1)


if __name__ == "__main__":
    main()
