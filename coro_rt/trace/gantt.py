"""A schedule as a picture: an SVG with a panel for each outcome, a lane for each device and each job.

A lane is cut into columns, and a column has the colour of the level that had the device longest in it, so
that a picture stays small however many slices there were. What is narrower than a column may not be seen:
look closer with a shorter window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from math import floor, inf, log10

from coro_rt.schedulers.outcome import JobOutcome, Outcome, Span
from coro_rt.schedulers.qos import QoS

MOST_JOBS = 40  # lanes in a panel; the device's lanes show all jobs
COLUMNS = 1000
_LEFT, _LANE, _GAP, _TITLE, _AXIS = 200, 16, 4, 26, 34
_COLOURS = dict(zip(QoS, ("#9aa5b1", "#5b8def", "#3fa76a", "#e8a33d", "#d64545"), strict=True))

Bars = dict[int, dict[QoS, float]]  # by column: seconds of each level


def draw(outcomes: Sequence[tuple[str, Outcome]], *, from_s: float = 0.0, to_s: float = inf) -> str:
    """The SVG of some outcomes, with their titles, between two times. They were simulated with `spans`."""
    to_s = min(to_s, max(outcome.ended_s for _, outcome in outcomes))
    if not to_s > from_s:
        raise ValueError(f"there is nothing between {from_s:g} s and {to_s:g} s: the schedule is over")
    parts: list[str] = []
    top = 40
    for title, outcome in outcomes:
        top = _panel(parts, top, title, outcome, from_s, to_s)
    legend = "".join(
        f'<rect x="{_LEFT + 150 * i}" y="12" width="12" height="12" fill="{_COLOURS[qos]}"/>'
        f'<text x="{_LEFT + 150 * i + 18}" y="22">{qos.name}</text>'
        for i, qos in enumerate(reversed(QoS))
    )
    width = _LEFT + COLUMNS + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}"'
        f' font-family="sans-serif" font-size="11">\n<rect width="{width}" height="{top}" fill="white"/>\n'
        f"{legend}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(parts: list[str], top: int, title: str, outcome: Outcome, from_s: float, to_s: float) -> int:
    """Draws one outcome below `top`; returns where the next goes."""
    scale = COLUMNS / (to_s - from_s)
    devices: dict[str, Bars] = {job.device: {} for job in outcome.jobs}
    jobs: dict[int, Bars] = {}
    for span in outcome.spans:
        if span.end_s > from_s and span.begin_s < to_s:
            qos = outcome.jobs[span.job].qos
            for bars in (devices[span.device], jobs.setdefault(span.job, {})):
                _add(bars, span, qos, from_s, to_s, scale)
    shown = [
        job for job in outcome.jobs if job.number in jobs or (job.arrived_s < to_s and job.ended_s > from_s)
    ]
    left_out = len(shown) - MOST_JOBS
    parts.append(f'<text x="8" y="{top + 16}" font-size="14" font-weight="bold">{escape(title)}</text>')
    if left_out > 0:
        parts.append(
            f'<text x="{_LEFT}" y="{top + 16}">the first {MOST_JOBS} jobs, and {left_out} more</text>'
        )
    top += _TITLE
    ticks = list(_ticks(from_s, to_s))
    lanes = len(devices) + min(len(shown), MOST_JOBS)
    bottom = top + lanes * (_LANE + _GAP)
    for time, text in ticks:
        x = _LEFT + (time - from_s) * scale
        parts.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{text}</text>')
    for device, bars in devices.items():
        _lane(parts, top, device, bars)
        top += _LANE + _GAP
    for job in shown[:MOST_JOBS]:
        _life(parts, top, job, from_s, to_s, scale)
        _lane(parts, top, job.name, jobs.get(job.number, {}))
        top += _LANE + _GAP
    return bottom + _AXIS


def _add(bars: Bars, span: Span, qos: QoS, from_s: float, to_s: float, scale: float) -> None:
    """Shares a span out to the columns that it touches."""
    begin = (max(span.begin_s, from_s) - from_s) * scale
    end = (min(span.end_s, to_s) - from_s) * scale
    for column in range(floor(begin), min(COLUMNS, floor(end) + 1)):
        part = min(end, column + 1) - max(begin, column)
        levels = bars.setdefault(column, {})
        levels[qos] = levels.get(qos, 0.0) + part


def _lane(parts: list[str], top: int, name: str, bars: Bars) -> None:
    short = name if len(name) <= 28 else name[:27] + "…"
    parts.append(f'<text x="{_LEFT - 8}" y="{top + 12}" text-anchor="end">{escape(short)}</text>')
    for begin, end, qos in _runs(bars):
        parts.append(
            f'<rect x="{_LEFT + begin}" y="{top}" width="{end - begin}" height="{_LANE}"'
            f' fill="{_COLOURS[qos]}"/>'
        )


def _life(parts: list[str], top: int, job: JobOutcome, from_s: float, to_s: float, scale: float) -> None:
    """A thin line from a job's coming to its end, and a mark at its deadline."""
    begin, end = max(job.arrived_s, from_s), min(job.ended_s, to_s)
    if end > begin:
        x, y = _LEFT + (begin - from_s) * scale, top + _LANE / 2 - 1
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{(end - begin) * scale:.1f}" height="2" fill="#bbbbbb"/>'
        )
    if from_s <= job.deadline_s <= to_s:
        x = _LEFT + (job.deadline_s - from_s) * scale
        colour = "#d64545" if job.missed else "#444444"
        parts.append(f'<path d="M{x:.1f} {top - 1}v{_LANE + 2}" stroke="{colour}" stroke-width="2"/>')


def _runs(bars: Bars) -> Iterator[tuple[int, int, QoS]]:
    """Neighbouring columns of one colour, as one."""
    run: tuple[int, int, QoS] | None = None
    for column in sorted(bars):
        levels = bars[column]
        qos = max(levels, key=lambda level: (levels[level], level))
        if run is not None and run[1] == column and run[2] is qos:
            run = (run[0], column + 1, qos)
            continue
        if run is not None:
            yield run
        run = (column, column + 1, qos)
    if run is not None:
        yield run


def _ticks(from_s: float, to_s: float) -> Iterable[tuple[float, str]]:
    """Some ten round times, with their labels."""
    rough = (to_s - from_s) / 10
    if rough < 30:
        power = 10.0 ** floor(log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        digits = max(0, -floor(log10(step)))
        label = "{:." + str(digits) + "f} s"
    else:
        step = next(s for s in (60, 300, 600, 1800, 3600, 7200, 14400, inf) if s >= rough)
        step = step if step < inf else 86400.0 * (1 + floor(rough / 86400))
        label = ""
    first = floor(from_s / step) + (from_s % step > 0)
    for i in range(first, floor(to_s / step) + 1):
        time = i * step
        yield time, label.format(time) if label else f"{int(time) // 3600}:{int(time) // 60 % 60:02}"
