"""How long the launches of a simulated batch take, and what decisions go by."""

from __future__ import annotations

from bisect import bisect_right

from coro_rt.schedulers.batch import Batch, KnownCosts
from coro_rt.schedulers.pace import Pace, size_of
from coro_rt.schedulers.workload import BatchTiming, SeenLaunch


class LaunchTimes:
    """Of one batch; `batch` is what the scheduler sees, and learns what was `learned` when it was."""

    def __init__(self, timing: BatchTiming) -> None:
        self.learned = timing.learned
        self._costs = KnownCosts(timing.costs, timing.members)
        self.batch: Batch = self._costs
        if timing.learned:
            self.batch = Pace()
            self.batch.rows, self.batch.members = len(timing.costs), timing.members
        self._seen: dict[int, list[SeenLaunch]] = {}  # by size
        for launch in sorted(timing.seen, key=_began):
            self._seen.setdefault(size_of(launch.rows), []).append(launch)
        expected_s = sum(self._costs.seconds(launch.rows) for launch in timing.seen)
        self._slowness = sum(launch.seconds for launch in timing.seen) / expected_s if timing.seen else 1.0

    def seconds(self, rows: int, now: float) -> float:
        """What a launch of so many rows takes that begins now."""
        cost_s = self._costs.seconds(rows)
        seen = self._seen.get(size_of(rows))
        if seen is None:
            return cost_s * self._slowness
        launch = seen[max(0, bisect_right(seen, now, key=_began) - 1)]
        return launch.seconds * cost_s / self._costs.seconds(launch.rows)


def _began(launch: SeenLaunch) -> float:
    return launch.at_s
