"""Instruments: what watches a runtime from inside, in trio's manner.

`open_runtime(instruments=[...])` takes objects whose classes say which hooks they have; a hook that a class
does not write costs nothing, and a runtime without instruments has none of this in its way: the tap stands in
the scheduler's place, and in that of the worker's call of a kernel, only where somebody watches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.entry import Entry, Grant, State
from coro_rt.schedulers.scheduler import Scheduler

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.errors import DeviceLost
    from coro_rt.job import Job
    from coro_rt.kernel import Launch
    from coro_rt.runtime import Runtime

logger = logging.getLogger("coro_rt")


class Instrument:
    """Subclass it and write the hooks that you need; each does nothing by default.

    Hooks about jobs and devices are called under the runtime's lock, by whichever thread decides: note what
    you see and return; do not call the runtime. `now` is of the runtime's clock. Hooks about launches are
    called by the device's worker. A hook that raises takes its instrument out, with an error in the log;
    nothing else comes of it.
    """

    def runtime_opened(self, runtime: Runtime) -> None:
        """Before any job. What it raises is raised by `open_runtime`."""

    def runtime_closed(self) -> None:
        """All jobs have ended."""

    def job_submitted(self, job: Job[Any], now: float) -> None:
        """It is ready, and waits for its first turn."""

    def job_runs(self, job: Job[Any], now: float) -> None:
        """It has got its device."""

    def job_gives_way(self, job: Job[Any], now: float) -> None:
        """It had the device, and is ready again: somebody else goes before it."""

    def job_waits(self, job: Job[Any], now: float) -> None:
        """It has left the device to wait for something."""

    def job_rides(self, job: Job[Any], leader: Job[Any], now: float) -> None:
        """It was ready, and waits now while its launch runs as a part of another job's."""

    def job_wakes(self, job: Job[Any], now: float) -> None:
        """What it waited for has come, its ride is over, or it is cancelled: it is ready."""

    def job_ended(self, job: Job[Any], now: float) -> None:
        """Well, or with `job.error`. Perhaps it never ran."""

    def device_fenced(self, device: Device, error: DeviceLost, now: float) -> None:
        """It has failed, and runs no kernels."""

    def device_readmitted(self, device: Device, now: float) -> None:
        """It was tried, and runs kernels again."""

    def launch_began(self, job: Job[Any], launch: Launch[Any], now: float) -> None:
        """A kernel is started, or goes on after its job had given way."""

    def launch_left(self, job: Job[Any], launch: Launch[Any], now: float) -> None:
        """The kernel is done, or has stopped where its job will go on."""


HOOKS = tuple(name for name in vars(Instrument) if not name.startswith("_"))


class Instruments:
    """Those of one runtime. `hooks[name]` are the calls to make; a hook that nobody wrote has none."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self.hooks: dict[str, list[Callable[..., None]]] = {name: [] for name in HOOKS}
        for instrument in instruments:
            if not isinstance(instrument, Instrument):
                raise TypeError(
                    f"instruments are objects of subclasses of coro_rt.Instrument, not {instrument!r}"
                )
            for name in HOOKS:
                if getattr(type(instrument), name) is not getattr(Instrument, name):
                    self.hooks[name].append(getattr(instrument, name))

    def call(self, name: str, *args: Any) -> None:
        """Tell all who want to know."""
        for hook in self.hooks[name]:
            try:
                hook(*args)
            except Exception:
                self._take_out(hook)

    def _take_out(self, hook: Any) -> None:
        instrument = hook.__self__
        logger.exception("the instrument %r is taken out: its hook %s failed", instrument, hook.__name__)
        for name, hooks in self.hooks.items():  # new lists: somebody may be walking one of them
            self.hooks[name] = [one for one in hooks if getattr(one, "__self__", None) is not instrument]


class Watched:
    """Stands in a scheduler's place: hands every call on, and tells the instruments what came of it."""

    def __init__(self, scheduler: Scheduler, instruments: Instruments) -> None:
        self._scheduler = scheduler
        self._tell = instruments.call
        self._riding: set[Entry] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def __len__(self) -> int:
        return len(self._scheduler)

    def submit(self, entry: Entry, now: float) -> bool:
        gives_way = self._scheduler.submit(entry, now)
        self._tell("job_submitted", _job(entry), now)
        return gives_way

    def next(self, device: str, now: float) -> Grant | None:
        grant = self._scheduler.next(device, now)
        if grant is not None:
            self._runs(grant.entry, now)
        return grant

    def turn(self, entry: Entry, seconds: float, now: float) -> Grant | None:
        grant = self._scheduler.turn(entry, seconds, now)
        if grant is not None and grant.entry is not entry:
            self._tell("job_gives_way", _job(entry), now)
            self._runs(grant.entry, now)
        return grant

    def offer(self, entry: Entry, batch: Batch, rows: int, now: float) -> bool:
        alone = self._scheduler.offer(entry, batch, rows, now)
        if not alone:
            self._tell("job_gives_way", _job(entry), now)
        return alone

    def alight(self, entry: Entry, now: float) -> tuple[Entry, ...]:
        riders = self._scheduler.alight(entry, now)
        for rider in riders:
            self._wakes(rider, now)
        return riders

    def leave(self, entry: Entry, now: float) -> Entry | None:
        leader = self._scheduler.leave(entry, now)
        if leader is not None:
            self._wakes(leader, now)
        return leader

    def park(self, entry: Entry, now: float, *, on: Entry | None = None) -> Entry | None:
        ran = entry.state is State.RUNNING  # else it waits already, and now for somebody else
        last = self._scheduler.park(entry, now, on=on)
        if ran:
            self._tell("job_waits", _job(entry), now)
        return last

    def wake(self, entry: Entry, now: float) -> bool:
        gives_way = self._scheduler.wake(entry, now)
        self._wakes(entry, now)
        return gives_way

    def expedite(self, entry: Entry, now: float) -> bool:
        waited = entry.state is State.WAITING
        gives_way = self._scheduler.expedite(entry, now)
        if waited:
            self._wakes(entry, now)
        return gives_way

    def done(self, entry: Entry, now: float) -> None:
        self._scheduler.done(entry, now)
        self._tell("job_ended", _job(entry), now)

    def _runs(self, entry: Entry, now: float) -> None:
        self._tell("job_runs", _job(entry), now)
        for rider in entry.riders:
            if rider not in self._riding:  # else it was put aside together with the one that leads
                self._riding.add(rider)
                self._tell("job_rides", _job(rider), _job(entry), now)

    def _wakes(self, entry: Entry, now: float) -> None:
        self._riding.discard(entry)
        self._tell("job_wakes", _job(entry), now)


def watched(scheduler: Scheduler, instruments: Instruments) -> Scheduler:
    """A scheduler whose decisions the instruments see."""
    return cast(Scheduler, Watched(scheduler, instruments))


Run = Callable[["Job[Any]", "Launch[Any]"], "Launch[Any] | None"]


def watched_launches(run: Run, instruments: Instruments, clock: Callable[[], float]) -> Run:
    """A worker's way to run a launch, seen by the instruments."""

    def launch(job: Job[Any], launch: Launch[Any]) -> Launch[Any] | None:
        instruments.call("launch_began", job, launch, clock())
        left = run(job, launch)
        instruments.call("launch_left", job, launch, clock())
        return left

    return launch


def _job(entry: Entry) -> Job[Any]:
    job: Job[Any] = cast(Any, entry).job
    return job
