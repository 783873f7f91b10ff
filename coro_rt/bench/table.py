"""A report as a table for people: only the columns that say something."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .measure import Report, Row, spread


def show(console: Console, report: Report) -> None:
    """The table, the claims and the notes of one benchmark."""
    names = ["what", "unit", "format", "threads", "context", "coro_rt", "IQR"]
    names += [report.peer, "peer's IQR", "ratio", "limit", "of limit", "n"]
    cells = [_cells(row) for row in report.rows]
    kept = [at for at in range(len(names)) if any(row[at] for row in cells)]
    table = Table(title=f"{report.name}: {report.title}", title_justify="left")
    for at in kept:
        table.add_column(names[at], justify="left" if at < 4 else "right")
    for row in cells:
        table.add_row(*(row[at] for at in kept))
    console.print(table, soft_wrap=False)
    for claim in report.claims:
        console.print(str(claim), style="green" if claim.held else "red", markup=False)
    for note in report.notes:
        console.print(note, style="dim", markup=False)
    console.print()


def _cells(row: Row) -> list[str]:
    """One for each column, empty where there is nothing to say."""
    about = [row.what, row.unit, row.format, row.threads, row.context]
    found = ["" if one is None else str(one) for one in about]
    found += [figure(row.our_figure), _range(row.ours)]
    if row.peer_figure is not None:
        found += [figure(row.peer_figure), _range(row.peer), "" if row.ratio is None else f"{row.ratio:.2f}"]
    else:
        found += [""] * 3
    if row.limit is not None:
        found += [figure(row.limit), f"{row.of_limit:.0%}"]
    else:
        found += [""] * 2
    return [*found, str(len(row.ours))]


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _range(samples: list[float]) -> str:
    low, high = spread(samples)
    return f"{figure(low)} to {figure(high)}"
