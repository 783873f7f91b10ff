"""`coro-rt models` and `coro-rt pull`: what there is, and fetching it."""

from __future__ import annotations

from functools import partial

import click
from rich.table import Table

from coro_rt.cli.loop import run_async
from coro_rt.cli.opened import fetch
from coro_rt.cli.options import with_json
from coro_rt.cli.output import Output
from coro_rt.llm.catalog import CATALOG, installed


@click.command()
@with_json
def models(output: Output) -> None:
    """List the models that can be pulled by name."""
    here = installed()
    table = Table("name", "size", "licence", "installed")
    for entry in CATALOG.values():
        where = str(entry.path) if entry in here else "no"
        table.add_row(entry.name, f"{entry.size / 1e6:.0f} MB", entry.licence, where)
    output.table(table)
    output.json(
        {
            "models": [
                {
                    "name": entry.name,
                    "installed": entry in here,
                    "path": str(entry.path),
                    "size": entry.size,
                    "licence": entry.licence,
                }
                for entry in CATALOG.values()
            ]
        }
    )


@click.command()
@click.argument("name")
@with_json
def pull(output: Output, name: str) -> None:
    """Fetch the model NAME, unless it is there."""
    path = run_async(partial(fetch, name, output), "asyncio")
    output.line(str(path))
    output.json({"model": name, "path": str(path), "size": path.stat().st_size})
