"""What a benchmark hands back: rows of samples, and claims with their bounds. Medians, spreads and ratios
are made here.

One idea: keep every sample. A row holds the figures of all repetitions, ours and the peer's in the same
order, so that whoever doubts the ratio of the medians can look at the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np


def spread(samples: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    low, high = np.percentile(samples, [25, 75])
    return float(low), float(high)


def p99(samples: Sequence[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(samples, 99))


@dataclass
class Row:
    """One figure of one setting. `peer` is empty where nobody is beside us, `limit` None where none is known.

    `context`: tokens before the first that is timed. `limit`: what the machine could do at most, in `unit`.
    `statistic`: what the figure is of its samples; `what` says so where it is not the median.
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
    statistic: Callable[[Sequence[float]], float] = median

    @property
    def our_figure(self) -> float:
        """Of our samples."""
        return self.statistic(self.ours)

    @property
    def peer_figure(self) -> float | None:
        """Of the peer's samples, if there are any."""
        return self.statistic(self.peer) if self.peer else None

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's figure; above 1 we are better (of times: the peer's by ours).

        None without a peer, or where either figure is 0.
        """
        ours, peer = self.our_figure, self.peer_figure
        if not ours or not peer:
            return None
        return peer / ours if self.less_is_better else ours / peer

    @property
    def of_limit(self) -> float | None:
        """The share of `limit` that our figure reaches."""
        return None if self.limit is None else self.our_figure / self.limit

    def as_json(self) -> dict[str, Any]:
        """The figures, and with them the interquartile ranges (`spread`) and all samples, in order."""
        samples = {"ours": self.ours, "peer": self.peer or None}
        quartiles = {name: spread(values) if values else None for name, values in samples.items()}
        return {
            "what": self.what, "model": self.model, "format": self.format, "threads": self.threads,
            "context": self.context, "ours": self.our_figure, "peer": self.peer_figure, "ratio": self.ratio,
            "unit": self.unit, "limit": self.limit, "of_limit": self.of_limit,
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
