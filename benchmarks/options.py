"""What was asked for on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """For all benchmarks of this folder."""

    model: str
    threads: tuple[int, ...]
    repeat: int
    backends: tuple[str, ...]
    seconds: float
