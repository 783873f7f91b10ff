"""What a benchmark hands back: rows of samples, and claims with their bounds. Medians, spreads and ratios
are made here.

One idea: keep every sample. A row holds the figures of all repetitions, ours and the peer's in the same
order, so that whoever doubts the ratio of the medians can look at the pairs.
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
    """One figure of one setting. `peer` is empty where nobody is beside us, `limit` None where none is known.

    `context`: tokens before the first that is timed. `limit`: what the machine could do at most, in `unit`.
    """

    what: str
    unit: str
    ours: list[float]
    peer: list[float] = field(default_factory=list)
    less_is_better: bool = False
    model: str | None = None
    format: str | None = None
    threads: int | None = None
    context: int | None = None
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's, of medians; above 1 we are better (of times: the peer's by ours)."""
        if not self.peer:
            return None
        ours, peer = median(self.ours), median(self.peer)
        return peer / ours if self.less_is_better else ours / peer

    @property
    def of_limit(self) -> float | None:
        """The share of `limit` that the median reaches."""
        return None if self.limit is None else median(self.ours) / self.limit

    def as_json(self) -> dict[str, Any]:
        """Medians, and with them the interquartile ranges (`spread`) and all samples, in order."""
        samples = {"ours": self.ours, "peer": self.peer or None}
        quartiles = {name: spread(values) if values else None for name, values in samples.items()}
        return {
            "what": self.what, "model": self.model, "format": self.format, "threads": self.threads,
            "context": self.context, "ours": median(self.ours),
            "peer": median(self.peer) if self.peer else None, "ratio": self.ratio, "unit": self.unit,
            "limit": self.limit, "of_limit": self.of_limit,
            "spread": {name: pair and pair[1] - pair[0] for name, pair in quartiles.items()},
            "samples": samples,
        }  # fmt: skip


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
