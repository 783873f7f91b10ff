"""The report's plots, as SVG that is put into its page: drawn narrow, so that they can be read on a phone.

Every plot shows medians, and the middle half of the samples as a bar or band. Colours belong to whom they
show.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, log2, log10
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from coro_rt.compare import decisions, kernel_length, roundtrip, scene, starting, switch, thread_switch
from coro_rt.compare.drivers import DRIVERS
from coro_rt.compare.hosts import BACKENDS, PINNED
from coro_rt.compare.statistics import Figure, Figures

WIDTH = 4.8  # inches; a phone shows about as many
OURS, OTHERS = "#2457d6", "#8a93a3"
COLOURS = {
    "coro_rt": OURS, "dynamic": OURS, kernel_length.JOB: OURS,
    "fair": "#7fa2f0", kernel_length.ASKED: "#7fa2f0",
    thread_switch.EVENT: "#d3541f", thread_switch.LOCK: "#e8a13a", thread_switch.POOL: "#8d5a3b",
    kernel_length.POOL: "#8d5a3b", "pool": "#8d5a3b", "threads": "#d3541f", "threads, nice": "#e8a13a",
    "asyncio": "#3b9c74", "uvloop": "#8fbf5a", "trio": "#8e6bbf", switch.FLOOR: "#555b66",
    "anyio.to_thread": "#d3541f", "trio.to_thread": "#e8a13a", "run_in_executor": "#8d5a3b",
}  # fmt: skip
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and to be searched
    "svg.hashsalt": "coro_rt",  # the same figures give the same file
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa3b0", "axes.grid": True,
    "grid.color": "#e6e9ee", "axes.axisbelow": True, "xtick.color": "#4a5260", "ytick.color": "#4a5260",
    "legend.frameon": False, "legend.fontsize": 8, "legend.handlelength": 1.4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture with its words."""

    title: str
    says: str
    svg: str


def all_plots(figures: Figures) -> Iterable[Plot]:
    """Those for which something was measured, in the report's order."""
    for draw in (_scene_delays, _scene_rates, _switches, _decisions, _roundtrips, _starting, _kernels):
        with mpl.rc_context(STYLE):
            plot = draw(figures)
        if plot is not None:
            yield plot


def _scene_delays(figures: Figures) -> Plot | None:
    svg = _panels(
        figures,
        [
            (scene.TTFT, "time to first token, median, ms"),
            (scene.TTFT_P99, "time to first token, P99, ms"),
            (scene.GAP_P99, "between an answer's tokens, P99, ms"),
        ],
        logarithmic=True,
    )
    return (
        None
        if svg is None
        else Plot(
            "How long somebody waits who asks while the background works",
            "Logarithmic; shorter is better. A bar is the median, the line across its end the middle half of "
            "the samples. All five run the same jobs.",
            svg,
        )
    )


def _scene_rates(figures: Figures) -> Plot | None:
    svg = _panels(
        figures,
        [
            (scene.WORKED, "tokens read and written per second"),
            (scene.BACKGROUND, "the background's tokens written per second"),
            (scene.INVOLUNTARY, "involuntary context switches per second"),
            (scene.VOLUNTARY, "voluntary context switches (wake-ups) per second"),
            (scene.CPU, "CPU time per token, ms"),
            (scene.MEMORY, "peak memory, MB"),
        ],
    )
    return (
        None
        if svg is None
        else Plot(
            "What the machine does meanwhile",
            "Of tokens more is better, of the others less. What urgent answers get, the background does not.",
            svg,
        )
    )


def _switches(figures: Figures) -> Plot | None:
    ready, dependent = figures.of(switch.READY), figures.of(switch.DEPENDENT)
    if not ready:
        return None
    canvas, axes = _canvas(2, 2.7)
    for panel, found, title in (
        (axes[0], ready, "all tasks are ready, each gives way in turn"),
        (axes[1], dependent, "each waits for the one before it"),
    ):
        for who in dict.fromkeys(figure.who for figure in found):
            lines = [figure for figure in found if figure.who == who and figure.at is not None]
            if lines:
                _line(panel, lines, who)
        floor = figures.get(switch.READY, switch.FLOOR)
        if floor is not None:
            panel.axhline(floor.median, color=COLOURS[switch.FLOOR], linestyle=":", linewidth=1)
            panel.annotate(
                switch.FLOOR, (1, floor.median), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=7.5, color=COLOURS[switch.FLOOR],
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(title, loc="left", fontsize=9)
        panel.set_ylabel("µs per switch")
        _plain_numbers(panel.xaxis, panel.yaxis)
    axes[1].set_xlabel("tasks")
    both = [panel.get_legend_handles_labels() for panel in axes]
    _legend(canvas, *both)
    return Plot(
        "What a switch costs",
        "Both axes logarithmic. (time with the runtime - time inline) / N; bands are the middle half of the "
        "samples; dashed: all threads kept on one core. Event loops have no priorities and no ledger: the "
        "difference to them is what those cost.",
        _svg(canvas),
    )


def _decisions(figures: Figures) -> Plot | None:
    there = [kind for kind in (decisions.TURN, decisions.ARRIVAL) if figures.of(kind)]
    if not there:
        return None
    canvas, axes = _canvas(len(there), 2.3)
    for panel, kind in zip(axes, there, strict=True):
        found = figures.of(kind)
        for who in dict.fromkeys(figure.who for figure in found):
            label = who if who in COLOURS else "the other policies"
            _line(panel, [figure for figure in found if figure.who == who], who, label=label)
        fitted = decisions.growth(figures, kind, "dynamic")
        if fitted is not None:
            once, each = fitted
            at = sorted(figure.at for figure in found if figure.who == "dynamic" and figure.at)
            panel.plot(at, [once + each * log2(ready) for ready in at], color="#20242b", linestyle=":")
            panel.annotate(
                f"dynamic, fitted: {once:.2f} {'+-'[each < 0]} {abs(each):.2f} log₂ n", (0.02, 0.96),
                xycoords="axes fraction", va="top", fontsize=8,
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_title(kind, loc="left", fontsize=9)
        panel.set_ylabel("µs")
        _plain_numbers(panel.xaxis)
    axes[-1].set_xlabel("ready jobs")
    _legend(canvas, *(panel.get_legend_handles_labels() for panel in axes))
    return Plot(
        "What a decision costs",
        "Of the scheduler alone, by policy; the lower axis is logarithmic, so log n is a straight line: the "
        "dotted one is fitted to dynamic; beyond what fits into the caches it is somewhat more.",
        _svg(canvas),
    )


def _roundtrips(figures: Figures) -> Plot | None:
    found = figures.of(roundtrip.WHAT)
    if not found:
        return None
    canvas, axes = _canvas(len(BACKENDS), 1.5)
    for panel, backend in zip(axes, BACKENDS, strict=True):
        on = f", {backend}"
        _bars(panel, [(one.who.replace(on, ""), one) for one in found if on in one.who])
        panel.set_title(f"on {backend}, µs", loc="left", fontsize=9)
    return Plot(
        "Host → device → host",
        f"A task asks for one kernel of {roundtrip.KERNEL_S * 1e6:.0f} µs and waits for it: two "
        "hand-overs between threads, whatever the way; with the threads where the system places them, and "
        "all on one core. Shorter is better; ours is a whole job, with deadline, ledger and cancelling.",
        _svg(canvas),
    )


def _starting(figures: Figures) -> Plot | None:
    start, memory = figures.of(starting.START), figures.of(starting.MEMORY)
    if not start:
        return None
    canvas, axes = _canvas(2, 1.25)
    _bars(axes[0], [(one.who, one) for one in start], logarithmic=True)
    axes[0].set_title(f"start and join, each of {start[0].at:,.0f}, µs", loc="left", fontsize=9)
    _bars(axes[1], [(one.who, one) for one in memory], logarithmic=True)
    axes[1].set_title("memory of one that waits, bytes", loc="left", fontsize=9)
    return Plot(
        "Starting tasks, and keeping them",
        "Logarithmic; less is better. Memory is the growth of a process of its own while all of them wait.",
        _svg(canvas),
    )


def _kernels(figures: Figures) -> Plot | None:
    found = figures.of(kernel_length.WHAT)
    if not found:
        return None
    canvas, (panel,) = _canvas(1, 2.8)
    for who in dict.fromkeys(figure.who for figure in found):
        _line(panel, [figure for figure in found if figure.who == who], who, least=0.1)
    panel.axhline(100 * kernel_length.WORTH, color="#555b66", linestyle=":", linewidth=1)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("length of the kernel, µs")
    panel.set_ylabel("overhead, % of the kernel")
    _plain_numbers(panel.xaxis, panel.yaxis)
    _legend(canvas, panel.get_legend_handles_labels())
    return Plot(
        "How long a kernel must be",
        "Both axes logarithmic. Where a line crosses the dotted one, dispatching costs 5 % of the kernel.",
        _svg(canvas),
    )


# How things are drawn.


def _canvas(panels: int, height: float) -> tuple[Canvas, list[Any]]:
    canvas = Canvas(figsize=(WIDTH, panels * height + 0.15), layout="constrained")
    return canvas, list(canvas.subplots(panels, 1, squeeze=False)[:, 0])


def _svg(canvas: Canvas) -> str:
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def _panels(figures: Figures, wanted: list[tuple[str, str]], *, logarithmic: bool = False) -> str | None:
    """Small bars of all drivers, one panel below the other."""
    there = [(what, title) for what, title in wanted if figures.of(what)]
    if not there:
        return None
    canvas, axes = _canvas(len(there), 1.3)
    names = {driver.key: driver.short for driver in DRIVERS}
    for panel, (what, title) in zip(axes, there, strict=True):
        _bars(
            panel,
            [(names[one.who], one) for one in figures.of(what)],
            logarithmic=logarithmic,
        )
        panel.set_title(title, loc="left", fontsize=9)
    return _svg(canvas)


def _bars(panel: Any, some: list[tuple[str, Figure]], *, logarithmic: bool = False) -> None:
    """Horizontal bars, the first on top, each with its figure beside it."""
    values = [one.median for _, one in some]
    top = max(one.quartiles[1] for _, one in some) or 1.0
    for at, (_, one) in enumerate(some):
        low, high = one.quartiles
        colour = COLOURS.get(one.who) or COLOURS.get(one.who.partition(", ")[0], OTHERS)
        panel.barh(at, one.median, color=colour, height=0.62)
        panel.plot([low, high], [at, at], color="#20242b", linewidth=1, solid_capstyle="butt")
        panel.annotate(
            _short(one.median), (max(one.median, high), at), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    panel.set_yticks(range(len(some)), [name for name, _ in some])
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    if logarithmic and min(values) > 0:
        panel.set_xscale("log")
        panel.set_xlim(10 ** floor(log10(min(values) / 1.5)), top * 4)
        _plain_numbers(panel.xaxis)
    else:
        panel.set_xlim(0, top * 1.2)


def _line(panel: Any, lines: list[Figure], who: str, *, label: str | None = None, least: float = 0.0) -> None:
    lines = sorted(lines, key=lambda figure: figure.at or 0.0)
    pinned = who.endswith(PINNED)
    colour = COLOURS.get(who.removesuffix(PINNED), OTHERS)
    at = [figure.at for figure in lines]
    panel.plot(
        at, [max(least, figure.median) for figure in lines], marker="o", markersize=3, color=colour,
        linewidth=2 if colour == OURS else 1.3, linestyle="--" if pinned else "-",
        label="_" if pinned else label or who, zorder=3 if colour == OURS else 2,
    )  # fmt: skip
    panel.fill_between(
        at, [max(least, figure.quartiles[0]) for figure in lines],
        [max(least, figure.quartiles[1]) for figure in lines], color=colour, alpha=0.15, linewidth=0,
    )  # fmt: skip


def _plain_numbers(*axes: Any) -> None:
    """1,000 in place of a power of ten."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())


def _legend(canvas: Canvas, *of_panels: tuple[list[Any], list[str]]) -> None:
    """Below everything else; each name once."""
    found = {name: line for lines, names in of_panels for line, name in zip(lines, names, strict=True)}
    canvas.legend(found.values(), found.keys(), loc="outside lower center", ncols=2 if len(found) == 3 else 3)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
