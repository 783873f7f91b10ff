"""Samples, taken in turns, and what is said about them: medians and quartiles, never a figure alone.

One idea: all that are compared are measured once, then all a second time, and so on, so that a machine that
gets slower for a while gets slower for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

NOISY = (
    0.10  # of its time that a loop was kept from running, or of the median that the loops' middle half spans
)
_SPIN = 200_000  # turns of the loop: some milliseconds


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to measure: `what` of whom, at which number of jobs (or the like); gives a sample."""

    what: str
    who: str
    unit: str
    measure: Callable[[], float]
    at: float | None = None


@dataclass(slots=True)
class Figure:
    """The samples of one probe. `less`: less is better."""

    what: str
    who: str
    unit: str
    at: float | None = None
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.samples, [25, 75])
        return float(low), float(high)

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what, "who": self.who, "at": self.at, "unit": self.unit, "median": self.median,
            "quartiles": self.quartiles, "samples": self.samples,
        }  # fmt: skip


class Figures:
    """What has been measured so far, to be asked for by name."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.joules_counted = False  # by the machine; else they are modelled
        self._found: dict[tuple[str, str, float | None], Figure] = {}

    def add(self, what: str, who: str, unit: str, sample: float, at: float | None = None) -> None:
        """One sample more."""
        key = what, who, at
        if key not in self._found:
            self._found[key] = Figure(what, who, unit, at)
        self._found[key].samples.append(sample)

    def note(self, text: str) -> None:
        """A line for people, once."""
        if text not in self.notes:
            self.notes.append(text)

    def take(self, probes: Iterable[Probe], repeat: int, tick: Callable[[str], object], noise: Noise) -> None:
        """Measure all of them, in turns. One that the machine refuses (threads, memory) is noted."""
        left = list(probes)
        for _ in range(repeat):
            for probe in list(left):
                tick(f"{probe.what}: {probe.who}")
                noise.look()
                try:
                    sample = probe.measure()
                except (RuntimeError, MemoryError, OSError) as error:
                    left.remove(probe)
                    where = "" if probe.at is None else f" at {probe.at:,.0f}"
                    self.note(f"{probe.what}, {probe.who}{where}: not possible here ({error})")
                else:
                    self.add(probe.what, probe.who, probe.unit, sample, probe.at)

    def __iter__(self) -> Iterator[Figure]:
        return iter(self._found.values())

    def of(self, what: str) -> list[Figure]:
        """All of one measurement, in the order in which they were taken first."""
        return [figure for figure in self._found.values() if figure.what == what]

    def get(self, what: str, who: str, at: float | None = None) -> Figure | None:
        """One of them; None if it was not measured."""
        return self._found.get((what, who, at))

    def median(self, what: str, who: str, at: float | None = None) -> float | None:
        """Its median; None if it was not measured."""
        found = self.get(what, who, at)
        return None if found is None else found.median

    def best(self, what: str, whos: Iterable[str], at: float | None = None) -> float | None:
        """The smallest of some medians."""
        found = [value for who in whos if (value := self.median(what, who, at)) is not None]
        return min(found, default=None)

    def as_json(self) -> list[dict[str, Any]]:
        return [figure.as_json() for figure in self._found.values()]


class Noise:
    """How quiet the machine was: the same loop, again and again between the measurements."""

    def __init__(self) -> None:
        self._took: list[float] = []
        self._kept: list[float] = []

    def look(self) -> None:
        """Time the loop once more."""
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(_SPIN):
            pass
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        self._took.append(wall)
        self._kept.append(max(0.0, 1 - cpu / wall))

    @property
    def kept_waiting(self) -> float:
        """The mean share of its time in which the loop could have run and did not."""
        return float(np.mean(self._kept)) if self._kept else 0.0

    @property
    def spread(self) -> float:
        """What the middle half of the loops spans, by their median."""
        if not self._took:
            return 0.0
        low, high = np.percentile(self._took, [25, 75])
        return float((high - low) / median(self._took))

    @property
    def warning(self) -> str | None:
        """What to say where the machine was too noisy for the figures to be believed."""
        if self.kept_waiting < NOISY and self.spread < NOISY:
            return None
        return (
            "this machine was noisy: a loop between the measurements was kept waiting for "
            f"{self.kept_waiting:.0%} of its time, and its times spread by {self.spread:.0%}. "
            "Ratios may hold, times do not"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "kept_waiting": self.kept_waiting, "spread": self.spread, "looks": len(self._took),
            "warning": self.warning,
        }  # fmt: skip
