"""A claim, judged by its bound, and how one is made of figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coro_rt.compare.statistics import Figures

ARTICLE, OURS, LOSES = "The article says", "coro_rt promises", "Where others win"
BETTER_PLACED = "threads at the better of pinned and unpinned"


@dataclass(frozen=True, slots=True)
class Claim:
    """`figure` is None where there is nothing to measure. `kind`: "measured" or "modelled"."""

    source: str
    claim: str
    figure: float | None
    unit: str
    holds: bool | None
    section: str
    kind: str = "measured"
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "claim": self.claim,
            "figure": self.figure,
            "unit": self.unit,
            "holds": self.holds,
            "command": self.command,
            "kind": self.kind,
            "note": self.note,
        }

    @property
    def command(self) -> str:
        return f"coro-rt compare --only {self.section}"


class Judge:
    """Makes claims of figures; a claim whose figures were not measured is left out."""

    def __init__(self, figures: Figures) -> None:
        self.of = figures
        self.claims: list[Claim] = []

    def say(
        self,
        source: str,
        claim: str,
        figure: float | None,
        unit: str,
        section: str,
        *,
        least: float | None = None,
        most: float | None = None,
        kind: str = "measured",
        note: str = "",
    ) -> None:
        """One claim: the figure is to be at least, or at most, so much."""
        if figure is None:
            return
        holds = (least is None or figure >= least) and (most is None or figure <= most)
        self.claims.append(Claim(source, claim, figure, unit, holds, section, kind, note))

    def less(self, ours: float | None, theirs: float | None) -> float | None:
        """How much less than theirs ours is, in percent."""
        return None if ours is None or not theirs else 100 * (1 - ours / theirs)

    def times(self, above: float | None, below: float | None) -> float | None:
        """One by the other."""
        return None if above is None or not below else above / below

    def scene(self, what: str, driver: str) -> float | None:
        """A figure of the scene under a driver."""
        return self.of.median(what, driver)
