"""What a benchmark hands back: rows of samples, and claims with their bounds. Medians, spreads and ratios
are made here.

One idea: keep every sample. A row holds the figures of all repetitions, ours and the peer's in the same
order, so that the ratio of medians and the median of the pairwise ratios can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np


def spread(samples: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    low, high = np.percentile(samples, [25, 75])
    return float(low), float(high)


@dataclass
class Row:
    """One figure of one setting. `peer` is empty where nobody is beside us."""

    what: str
    unit: str
    ours: list[float]
    peer: list[float] = field(default_factory=list)
    less_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's, of medians; above 1 we are better (of times: the peer's by ours)."""
        if not self.peer:
            return None
        ours, peer = median(self.ours), median(self.peer)
        return peer / ours if self.less_is_better else ours / peer

    @property
    def pairwise(self) -> list[float]:
        """The same, repetition by repetition."""
        pairs = zip(self.ours, self.peer, strict=False)
        return [theirs / own if self.less_is_better else own / theirs for own, theirs in pairs]

    def as_json(self) -> dict[str, Any]:
        """All samples, and what was made of them."""
        found: dict[str, Any] = {"what": self.what, "unit": self.unit, "less_is_better": self.less_is_better}
        for name, samples in (("ours", self.ours), ("peer", self.peer)):
            if samples:
                low, high = spread(samples)
                found[name] = {"median": median(samples), "q1": low, "q3": high, "samples": samples}
        if self.peer:
            found["ratio"] = self.ratio
            found["pairwise_ratio"] = median(self.pairwise)
        return found


@dataclass(frozen=True)
class Claim:
    """Something promised, and what was found. A claim that does not hold is printed, and fails nothing."""

    what: str
    found: float
    bound: float
    at_least: bool
    unit: str = ""

    @property
    def held(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        verdict = "holds" if self.held else "DOES NOT HOLD"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what}: {self.found:.4g}{unit} ({sign} {self.bound:g}{unit}) {verdict}"

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what, "found": self.found, "bound": self.bound, "at_least": self.at_least,
            "unit": self.unit, "held": self.held,
        }  # fmt: skip


@dataclass
class Report:
    """What one benchmark found. `notes` are lines for people, `details` go into the JSON as they are."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    peer: str = "peer"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "title": self.title, "peer": self.peer, "notes": self.notes,
            "rows": [row.as_json() for row in self.rows],
            "claims": [claim.as_json() for claim in self.claims],
            "details": self.details,
        }  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    model: str
    threads: tuple[int, ...]
    repeat: int
    asks: int
    backends: tuple[str, ...]
    seconds: float
