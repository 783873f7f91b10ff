"""The report: one HTML file with everything in it, plots and raw numbers, that needs no network."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from coro_rt.compare.claims import by_source
from coro_rt.errors import CoroRtError
from coro_rt.trace.gantt import draw

if TYPE_CHECKING:
    from coro_rt.compare.comparison import Found
    from coro_rt.schedulers.outcome import Outcome

TIMELINE_S = 0.8  # of the schedule that is shown


def check() -> None:
    """Raise CoroRtError if what draws the plots is not installed."""
    if find_spec("matplotlib") is None:
        raise CoroRtError("a report needs matplotlib: pip install 'coro-rt[report]'")


def write(found: Found, path: Path) -> None:
    """Write the report. Raises OSError."""
    path.write_text(render(found), encoding="utf-8")


def render(found: Found) -> str:
    """The page."""
    from coro_rt.compare.plots import all_plots  # here: matplotlib is there for reports alone

    pages = Environment(
        loader=PackageLoader("coro_rt.compare", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters["figure"] = figure
    raw = json.dumps(found.as_json(), indent=1)
    return pages.get_template("report.html.jinja").render(
        found=found,
        today=datetime.now(UTC).date().isoformat(),
        sources=list(by_source(found.claims)),
        plots=list(all_plots(found.figures)),
        timelines=_timelines(found.timeline),
        rows=list(found.figures),
        raw=base64.b64encode(raw.encode()).decode(),
    )


def figure(value: Any) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _timelines(timeline: list[tuple[str, Outcome]]) -> list[str]:
    """Each schedule from its middle on."""
    pictures = []
    for title, outcome in timeline:
        begin = max(0.0, outcome.ended_s - 1.2 * TIMELINE_S)
        pictures.append(draw([(title, outcome)], from_s=begin, to_s=begin + TIMELINE_S))
    return pictures
