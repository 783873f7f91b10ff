"""All of it, in order: the sections, how much each measures in full and in a quick run, and the result.

A timeline of the scene comes last, from a short round of each driver that is watched: it is for the picture,
and no figure is taken from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any

from coro_rt.bench.machine import describe
from coro_rt.compare import (
    busy_host,
    decisions,
    formats,
    kernel_length,
    long_steps,
    roundtrip,
    scene,
    soc,
    starting,
    switch,
    tracing,
)
from coro_rt.compare.claim import Claim
from coro_rt.compare.claims import judge
from coro_rt.compare.drivers import DRIVERS, Driver
from coro_rt.compare.hosts import BACKENDS, placements, run_on
from coro_rt.compare.statistics import Figures, Noise, Probe
from coro_rt.compare.timeline import Timeline
from coro_rt.instruments import Instrument
from coro_rt.schedulers.outcome import Outcome
from coro_rt.trace.events import TraceEvents

Tick = Callable[[str], object]

TIMELINE_S = 1.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    repeat: int
    counts: tuple[int, ...]  # jobs that are ready, threads included where there can be so many
    crowds: tuple[int, ...]  # more of them, for growth; `rarely` repetitions
    rarely: int
    switches: int
    asks: int
    tasks: int
    waiting: dict[str, int]
    lengths_s: tuple[float, ...]
    rounds: int
    window_s: float
    busy_s: float
    large: int | None  # weights of the matrix that is in no cache


FULL = Extent(
    repeat=5,
    counts=(2, 100, 1_000),
    crowds=(10_000, 100_000),
    rarely=2,
    switches=10_000,
    asks=200,
    tasks=10_000,
    waiting={"coro_rt": 100_000, "threads": 5_000, "asyncio": 100_000, "trio": 100_000},
    lengths_s=(3e-6, 10e-6, 30e-6, 100e-6, 300e-6, 1e-3),
    rounds=3,
    window_s=4.0,
    busy_s=3.0,
    large=None,
)
QUICK = Extent(
    repeat=3,
    counts=(2, 1_000),
    crowds=(),
    rarely=1,
    switches=2_000,
    asks=50,
    tasks=1_000,
    waiting={"coro_rt": 20_000, "threads": 500, "asyncio": 20_000, "trio": 20_000},
    lengths_s=(10e-6, 100e-6, 1e-3),
    rounds=1,
    window_s=1.0,
    busy_s=0.6,
    large=8 << 20,
)


@dataclass(slots=True)
class Found:
    """What a run found."""

    machine: dict[str, Any]
    command: str
    figures: Figures
    claims: list[Claim]
    noise: Noise
    setting: scene.Setting
    timeline: list[tuple[str, Outcome]]

    @property
    def scenery(self) -> frozenset[str]:
        """What is measured with a model, by the scene and beside a busy host."""
        return frozenset(
            value
            for module in (scene, busy_host)
            for name, value in vars(module).items()
            if name.isupper() and isinstance(value, str)
        )

    def as_json(self) -> dict[str, Any]:
        rows = self.figures.as_json()
        return {
            "machine": self.machine,
            "command": self.command,
            "noise": self.noise.as_json(),
            "notes": self.figures.notes,
            "claims": [claim.as_json() for claim in self.claims],
            "micro": {"figures": [row for row in rows if row["what"] not in self.scenery]},
            "scene": {
                "setting": self.setting.as_json(),
                "drivers": {driver.key: driver.title for driver in DRIVERS},
                "figures": [row for row in rows if row["what"] in self.scenery],
            },
        }


class Comparison:
    """One run. `model` is a name or a file that is there; `only` names sections, all if empty.

    `trace`: a file for the schedule of the scene under `dynamic`, in the Trace Event format.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        extent: Extent,
        *,
        only: Iterable[str] = (),
        command: str = "",
        trace: str | None = None,
    ) -> None:
        self._extent, self._command = extent, command
        self._only = set(only)
        self._trace = trace
        self._setting = scene.Setting(model, rounds=extent.rounds, window_s=extent.window_s)
        self._figures, self._noise = Figures(), Noise()

    def run(self, tick: Tick) -> Found:
        """Measure. `tick` is called with the name of each measurement before it begins."""
        machine = describe()
        for name, section in SECTIONS.items():
            if not self._only or name in self._only:
                section(self, tick)
        timeline = []
        if self._trace is not None or not self._only or "scene" in self._only:
            timeline = self._timeline(tick)
        return Found(
            machine, self._command, self._figures, judge(self._figures), self._noise, self._setting, timeline
        )

    @property
    def ticks(self) -> int:
        """About how often `tick` will be called."""
        return sum(TICKS[name](self._extent) for name in SECTIONS if not self._only or name in self._only)

    def _take(self, probes: list[Probe], repeat: int, tick: Tick) -> None:
        self._figures.take(probes, repeat, tick, self._noise)

    def switch(self, tick: Tick) -> None:
        of = self._extent
        self._take(switch.probes(of.counts, of.switches), of.repeat, tick)
        self._take(switch.probes(of.crowds, of.switches)[1:], of.rarely, tick)  # the floor is there already

    def roundtrip(self, tick: Tick) -> None:
        roundtrip.measure(self._figures, self._extent.asks, self._extent.repeat, tick, self._noise)

    def starting(self, tick: Tick) -> None:
        of = self._extent
        self._take(starting.start_probes(of.tasks), of.repeat, tick)
        self._take(starting.memory_probes(of.waiting), of.rarely, tick)

    def kernels(self, tick: Tick) -> None:
        tick("kernels of several lengths")
        kernel_length.measure(self._figures, self._extent.lengths_s, self._extent.repeat, self._noise)

    def decisions(self, tick: Tick) -> None:
        of = self._extent
        self._take(
            decisions.probes(
                (decisions.FEWEST, *of.counts[1:], *of.crowds), min(of.switches, decisions.DECISIONS)
            ),
            of.rarely,
            tick,
        )
        for kind in (decisions.TURN, decisions.ARRIVAL):
            fitted = decisions.growth(self._figures, kind, "dynamic")
            if fitted is not None:
                once, each = fitted
                self._figures.note(
                    f"{kind}, dynamic: fitted {once:.2f} µs and {each:.2f} µs for each doubling"
                )

    def formats(self, tick: Tick) -> None:
        tick("weights in 4, 8 and 32 bits")
        formats.measure(self._figures, self._extent.repeat, self._noise, large=self._extent.large)

    def soc(self, tick: Tick) -> None:
        tick("a simulated phone")
        soc.measure(self._figures)

    def steps(self, tick: Tick) -> None:
        tick("long Python steps")
        long_steps.measure(self._figures, 5, self._extent.repeat, self._noise)

    def busy(self, tick: Tick) -> None:
        of = self._extent
        busy_host.measure(self._figures, self._setting.model, of.busy_s, of.rarely, tick, self._noise)

    def tracing(self, tick: Tick) -> None:
        of = self._extent
        self._take(tracing.probes(of.asks), of.repeat, tick)

    def scene(self, tick: Tick) -> None:
        scene.measure(self._figures, self._setting, tick, self._noise)

    def _timeline(self, tick: Tick) -> list[tuple[str, Outcome]]:
        found = []
        setting = scene.Setting(self._setting.model, rounds=1, window_s=TIMELINE_S)
        for driver in DRIVERS:
            if driver.key in ("threads", "fair", "dynamic"):
                tick(f"timeline: {driver.title}")
                timeline = Timeline()
                instruments: list[Instrument] = [timeline]
                if self._trace is not None and driver.key == "dynamic":
                    instruments.append(TraceEvents(self._trace))
                run_on("trio", _watched, scene.Round(setting, 0), driver, instruments)
                found.append((driver.title, timeline.outcome(driver.policy)))
        return found


async def _watched(one: scene.Round, driver: Driver, instruments: list[Instrument]) -> None:
    await scene.play(None, one, driver, instruments=instruments)


SECTIONS: dict[str, Callable[[Comparison, Tick], None]] = {
    "scene": Comparison.scene,
    "switch": Comparison.switch,
    "roundtrip": Comparison.roundtrip,
    "starting": Comparison.starting,
    "kernels": Comparison.kernels,
    "decisions": Comparison.decisions,
    "steps": Comparison.steps,
    "busy": Comparison.busy,
    "formats": Comparison.formats,
    "soc": Comparison.soc,
    "tracing": Comparison.tracing,
}

TICKS: dict[str, Callable[[Extent], int]] = {
    "switch": lambda of: (
        len(switch.probes(of.counts, 2)) * of.repeat + len(switch.probes(of.crowds, 2)) * of.rarely
    ),
    "roundtrip": lambda of: len(BACKENDS) * len(placements("")),
    "starting": lambda of: 5 * of.repeat + len(of.waiting) * of.rarely,
    "kernels": lambda of: 1,
    "decisions": lambda of: len(decisions.probes((decisions.FEWEST, *of.counts[1:], *of.crowds))) * of.rarely,
    "formats": lambda of: 1,
    "soc": lambda of: 1,
    "tracing": lambda of: 2 * of.repeat,
    "steps": lambda of: 1,
    "busy": lambda of: 2 * of.rarely,
    "scene": lambda of: len(DRIVERS) * of.rounds + 3,
}
