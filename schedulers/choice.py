"""What placement is asked, and what it answers: work, the options there are, and the choice with its why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from coro_rt.schedulers.errors import SchedulerError


@dataclass(frozen=True, slots=True)
class Work:
    """What is to run somewhere: a kernel on so much.

    `size` is in the unit in which the time would grow in proportion at best: rows, bytes, multiply-adds. Of
    it `behind` is done already (a prompt whose beginning is in memory). It runs `times` times, one after the
    other (tokens to be written). `transfer`: device seconds that it takes on a device until it can begin
    there, none where nothing is said. `expected_s`: what the caller thinks that it takes, where nothing has
    been measured; 0: nobody knows. Raises SchedulerError for what cannot be.
    """

    kernel: str
    size: float = 1.0
    behind: float = 0.0
    times: float = 1.0
    transfer: Mapping[str, float] = field(default_factory=dict, hash=False)
    expected_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.behind <= self.size < inf and 0.0 <= self.times < inf):
            raise SchedulerError(
                f"work for {self.kernel} of size {self.size!r} behind {self.behind!r}, {self.times!r} times: "
                "these are numbers from 0 on, and what is done already is no more than the whole"
            )
        for seconds in (self.expected_s, *self.transfer.values()):
            if not 0.0 <= seconds < inf:
                raise SchedulerError(
                    f"work for {self.kernel} is to take {seconds!r} s; seconds are a number from 0 on"
                )


class Reason(StrEnum):
    """Why a device was chosen."""

    ONLY = "it is the only one"
    EARLIEST = "it is done there first"
    FRUGAL = "it takes less energy there, and is done soon enough"
    UNMEASURED = "nothing has been measured yet"
    TRIED = "it has not been measured there, and has time"
    STAYS = "it is there, and a move would not pay"


class Option(NamedTuple):
    """What is expected of one device. Seconds from now; `joules`: 0 where nobody knows."""

    device: str
    measured: bool  # else `run_s` is only what the caller expects
    wait_s: float
    transfer_s: float
    run_s: float
    finish_s: float  # the sum of these
    joules: float

    def __str__(self) -> str:
        if not self.measured:
            return f"{self.device}: not measured"
        parts = [f"{self.run_s:.4g} s"]
        if self.wait_s:
            parts.append(f"{self.wait_s:.4g} s waiting")
        if self.transfer_s:
            parts.append(f"{self.transfer_s:.4g} s to get there")
        if self.joules:
            parts.append(f"{self.joules:.3g} J")
        return f"{self.device}: {' + '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where something is to run, and why; `str()` of it is a sentence. `options`: all that were weighed."""

    kernel: str
    option: Option
    reason: Reason
    options: tuple[Option, ...]

    @property
    def device(self) -> str:
        """The device that was chosen."""
        return self.option.device

    @property
    def finish_s(self) -> float:
        """In how many seconds it is expected to be done."""
        return self.option.finish_s

    def __str__(self) -> str:
        weighed = "; ".join(str(option) for option in self.options)
        return f"{self.kernel} goes to {self.device}: {self.reason.value} ({weighed})"
