"""What a runtime with several devices does about placement: where a launch goes, and what it took.

A job that was asked for without `device=` is free: before each launch of a kernel that several kinds of
device have an implementation of, the scheduler is asked where (`Sent`), and the job goes there with it. All
other launches run where the job is; a job with a device of its own goes back there after a launch with `on=`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from coro_rt.devices.base import Device
from coro_rt.errors import DeviceError, KernelError
from coro_rt.kernel import Launch
from coro_rt.profiles import ProfileStore
from coro_rt.schedulers.choice import Work
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.placement import Placement, Traits
from coro_rt.trap import Trap
from coro_rt.traps import CHECKPOINT, Move

if TYPE_CHECKING:
    from coro_rt.engine import Engine
    from coro_rt.job import Job


class Placing:
    """For one engine. `folder`: where profiles are kept; None: nowhere."""

    def __init__(self, devices: list[Device], folder: str | os.PathLike[str] | None) -> None:
        self._devices = devices
        self._kinds = {device.name: device.kind for device in devices}
        self._folder = folder
        self.several = len(devices) > 1
        self._store: ProfileStore | None = None

    def open(self) -> Placement:
        """What is known from before, for the scheduler."""
        traits = {device.name: Traits(watts=device.watts) for device in self._devices if device.watts}
        if self.several and self._folder is not None:
            with suppress(DeviceError):  # of a device that is not there: starting it says so
                self._store = ProfileStore(self._folder, self._devices)
        return Placement(traits, profile=None if self._store is None else self._store.load())

    def close(self, placement: Placement) -> None:
        """Keep what was learned. By the host, when all jobs have ended."""
        if self._store is not None:
            self._store.save(placement.profile)

    def among(self, launch: Launch[Any]) -> tuple[str, ...]:
        """The devices that a launch could run on."""
        kinds = launch.kernel.kinds
        return tuple([name for name, kind in self._kinds.items() if kind in kinds])

    def sent(self, job: Job[Any], launch: Launch[Any]) -> Trap | None:
        """How a job's new launch comes to its device; None: it is there. Called by the job's worker."""
        if launch.batch is not None:  # it works with what is on its job's device
            return None
        here = job.worker.name
        if launch.device is not None:
            return None if launch.device == here else Sent(launch, (launch.device,), None)
        if job.home is not None:
            return None if job.home == here else Sent(launch, (job.home,), None)
        among = self.among(launch)
        if not self._differ(among):
            return None if here in among or not among else Sent(launch, among[:1], None)
        try:
            return Sent(launch, among, _work(launch))
        except KernelError as error:
            job.inbox_error = error
            return CHECKPOINT

    def again(self, job: Job[Any], launch: Launch[Any]) -> Trap | None:
        """How a launch comes to another device whose own is fenced; None: it does not, and its job is told.

        Called by the job's worker. What was pinned goes nowhere, nor what may have left something half-done,
        or still be at it.
        """
        if launch.batch is not None or launch.device is not None or job.home is not None:
            return None
        if launch.begun:
            device, fence = job.worker.device, job.worker.fence
            writes = device.remembers and fence is not None and fence.lost.reason == "hung"
            if writes or not launch.kernel.idempotent:
                return None
        return self.sent(job, Launch(launch.kernel, launch.args))  # a thread that hangs has the other one

    def measured(self, engine: Engine, device: str, launch: Launch[Any], now: float) -> None:
        """Under the lock: a launch that ran alone is done."""
        if self._differ(self.among(launch)):
            with suppress(KernelError):  # its size: whoever launched it got that
                engine.scheduler.measured(_work(launch), device, launch.spent_s, now)

    def _differ(self, among: tuple[str, ...]) -> bool:
        """Whether there is something to choose: devices of one kind are not told apart."""
        return len({self._kinds[device] for device in among}) > 1


def _work(launch: Launch[Any]) -> Work:
    """What a launch is to placement. Raises KernelError if its kernel does not know how much it is."""
    kernel = launch.kernel
    if kernel.size is None:
        return Work(kernel.name)
    try:
        return Work(kernel.name, float(kernel.size(*launch.args)))
    except Exception as error:
        raise KernelError(f"the size of {kernel.name!r} cannot be found: {error}") from error


class Sent(Move):
    """A launch on its way to a device, with its job: chosen when it is awaited, or given."""

    __slots__ = ("_among", "_launch", "_work")

    def __init__(self, launch: Launch[Any], among: tuple[str, ...], work: Work | None) -> None:
        super().__init__(among[0])
        self._launch = launch
        self._among = among
        self._work = work

    def arrive(self, job: Job[Any]) -> bool:
        if self._work is not None:
            try:
                self._choose(job, self._work)
            except SchedulerError as error:
                fences = [job.engine.workers[device].fence for device in self._among]
                lost = next((fence.error() for fence in fences if fence is not None), None)
                job.inbox_error = lost or DeviceError(str(error))
                return True
        return super().arrive(job)

    def turned_away(self, job: Job[Any]) -> bool:
        if self._work is None:
            return False
        try:
            self._choose(job, self._work)
        except SchedulerError:
            return False
        return True

    def _choose(self, job: Job[Any], work: Work) -> None:
        entry = job.entry
        job.placed = choice = job.engine.scheduler.place(
            work,
            self._among,
            job.engine.clock(),
            qos=entry.effective_qos,
            deadline=entry.deadline,
            tenant=entry.tenant,
            without=entry,
        )
        self.device = choice.device

    def arrived(self, job: Job[Any]) -> None:
        job.launch = self._launch
