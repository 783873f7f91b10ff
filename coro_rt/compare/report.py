"""The report: one HTML file with plots and raw numbers, that needs no network; or tables in Markdown."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from coro_rt.compare.claims import by_source
from coro_rt.compare.drivers import DRIVERS
from coro_rt.errors import CoroRtError
from coro_rt.trace.gantt import draw

if TYPE_CHECKING:
    from coro_rt.compare.comparison import Found
    from coro_rt.schedulers.outcome import Outcome

TIMELINE_S = 0.8  # of the schedule that is shown


def check(path: Path) -> None:
    """Raise CoroRtError if what draws the plots is not installed, and needed."""
    if path.suffix != ".md" and find_spec("matplotlib") is None:
        raise CoroRtError("a report needs matplotlib: pip install 'coro-rt[report]'")


def write(found: Found, path: Path) -> None:
    """Write the report: the tables alone, in Markdown, if the file's name ends in ".md". Raises OSError."""
    path.write_text(tables(found) if path.suffix == ".md" else page(found), encoding="utf-8")


def page(found: Found) -> str:
    """HTML with everything in it."""
    from coro_rt.compare.plots import all_plots  # here: matplotlib is there for reports alone

    raw = json.dumps(found.as_json(), indent=1)
    return _render(
        "report.html.jinja",
        found,
        plots=list(all_plots(found.figures)),
        timelines=_timelines(found.timeline),
        rows=list(found.figures),
        raw=base64.b64encode(raw.encode()).decode(),
    )


def tables(found: Found) -> str:
    """Markdown: claims, the scene, and all other figures."""
    scenery = dict.fromkeys(row.what for row in found.figures if row.what in found.scenery)
    scene = [
        (what, found.figures.of(what)[0].unit, [found.figures.get(what, driver.key) for driver in DRIVERS])
        for what in scenery
    ]
    micro = [row for row in found.figures if row.what not in scenery]
    return _render("report.md.jinja", found, drivers=DRIVERS, scene=scene, micro=micro)


def _render(template: str, found: Found, **more: Any) -> str:
    pages = Environment(
        loader=PackageLoader("coro_rt.compare", "."),
        autoescape="html" in template,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["figure"] = figure
    return pages.get_template(template).render(
        found=found,
        today=datetime.now(UTC).date().isoformat(),
        sources=list(by_source(found.claims)),
        **more,
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
