"""The command: run benchmarks, print tables, keep every sample as JSON.

python -m benchmarks.run all of them python -m benchmarks.run --only switch --json out.json
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from statistics import median

if not __package__:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "benchmarks"

import click
from rich.console import Console
from rich.table import Table

from benchmarks.hosts import BACKENDS
from benchmarks.machine import describe
from benchmarks.measure import Options, Report, spread

NAMES = ("decode_prefill", "respond", "lag", "switch")


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice(NAMES), help="Run only this one; may be given several times."
)
@click.option("--json", "json_file", type=click.File("w"), help="Write every sample to a file; - for stdout.")
@click.option("--repeat", default=7, show_default=True, help="Repetitions, interleaved with the peer's.")
@click.option("--threads", default="1,2", show_default=True, help="Thread counts for decode and prefill.")
@click.option("--asks", default=30, show_default=True, help="Urgent questions, idle and as many under load.")
@click.option("--backends", default=",".join(BACKENDS), show_default=True, help="Event loops to measure on.")
@click.option(
    "--seconds", default=10.0, show_default=True, help="How long each lag and idle measurement takes."
)
@click.option(
    "--model", default="smollm2-135m-instruct", show_default=True, help="A catalogue name or a GGUF file."
)
def main(
    only: tuple[str, ...], json_file: click.utils.LazyFile | None, repeat: int, threads: str, asks: int,
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
    options = Options(model, counts, repeat, asks, hosts, seconds)
    console = Console(stderr=json_file is not None and json_file.name == "-")
    console.width = max(console.width, 110)
    machine = describe()
    console.print(
        f"{machine['processor']}, {machine['cpus']} CPUs ({', '.join(machine['instruction_sets'])}), "
        f"{machine['system']}, Python {machine['python']}, load {machine['load_average'][0]:.2f}"
    )
    reports = []
    for name in only or NAMES:
        report: Report = import_module(f"benchmarks.{name}").run(options)
        show(console, report)
        reports.append(report)
    if json_file is not None:
        found = {"machine": machine, "reports": [report.as_json() for report in reports]}
        json.dump(found, json_file, indent=1)


def show(console: Console, report: Report) -> None:
    """The table, the claims and the notes of one benchmark."""
    table = Table(title=f"{report.name}: {report.title}", title_justify="left")
    beside = any(row.peer for row in report.rows)
    for heading in ("what", "unit", "coro_rt", "IQR"):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for heading in (report.peer, "IQR", "ratio", "pairwise") if beside else ():
        table.add_column(heading, justify="right")
    table.add_column("n", justify="right")
    for row in report.rows:
        cells = [row.what, row.unit, _figure(median(row.ours)), _range(row.ours)]
        if beside and row.peer:
            pairwise = median(row.pairwise)
            cells += [_figure(median(row.peer)), _range(row.peer), f"{row.ratio:.2f}", f"{pairwise:.2f}"]
        elif beside:
            cells += [""] * 4
        table.add_row(*cells, str(len(row.ours)))
    console.print(table)
    for claim in report.claims:
        console.print(f"[{'green' if claim.held else 'red'}]{claim}[/]")
    for note in report.notes:
        console.print(note, style="dim", markup=False)
    console.print()


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _range(samples: list[float]) -> str:
    low, high = spread(samples)
    return f"{_figure(low)} to {_figure(high)}"


if __name__ == "__main__":
    main()
