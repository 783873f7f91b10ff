"""A worker: the thread that takes jobs for one device, steps them and runs their launches.

The loop is: take a job from the scheduler; step its coroutine, or go on with its launch; under the lock, book
the time, see what became of it, and decide who goes on. Only the worker changes the fields of the job that it
runs.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any, cast

from coro_rt.errors import Cancelled, JobCancelled
from coro_rt.job import CancelReason, Job, JobEntry, explain_host_object, foreign_await
from coro_rt.kernel import BatchKernel, BatchLaunch, Launch
from coro_rt.parker import make_parker
from coro_rt.schedulers.errors import DeadlockError
from coro_rt.sleepers import Sleepers
from coro_rt.traps import Join, Trap, local

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.engine import Engine

logger = logging.getLogger("coro_rt")

LONG_STEP_S = 0.002  # nobody else can run meanwhile: worth a line in the log
ALONE_S = 0.1  # the longest slice of a job that nobody waits behind; a newcomer ends it early
_END: Any = object()  # in place of a trap: the coroutine has ended


class Worker:
    """One device's thread. `idle`, `sleepers` and what is counted are touched under the engine's lock."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self.engine = engine
        self.device = device
        self.name = device.name
        self.parker = make_parker(engine.clock)
        self.sleepers = Sleepers()
        self.job: Job[Any] | None = None  # whom it steps; read by that job's own code
        self.idle = False  # about to park: whoever makes a job ready clears this and unparks
        self.deciding = False  # it is about to choose, so needs no preempt flag; under the lock
        self.failure: BaseException | None = None
        self.busy_s = 0.0
        self.switches = 0
        self.switching_s = 0.0
        self.suspensions = 0  # launches that gave way half-done
        self._until = -math.inf  # when the first sleeper wakes, as far as was known when it became idle
        self._stopping = False
        self._ended = False
        self.alone = False  # nobody else was ready, so a newcomer is a reason to ask again; under the lock
        self._granted_s = 0.0
        self._slice_s = 0.0
        self._since = 0.0  # when the running job was taken up, or its time was last booked
        self._thread = threading.Thread(target=self._run, name=f"coro_rt-{self.name}", daemon=True)

    def start(self) -> None:
        """Start the device and the thread."""
        self.device.start()
        self.device.attach(self.parker, self.engine.clock)
        self._thread.start()

    def stop(self) -> None:
        """End and join the thread, then close the device. No jobs are left."""
        with self.engine.lock:
            self._stopping = True
        self.parker.unpark()
        if self._thread.ident is not None:
            self._thread.join()
        self.device.close()

    def _run(self) -> None:
        local.worker = self
        try:
            self.parker.start()
            job: Job[Any] | None = None
            while not self._ended:
                if job is None:
                    self.parker.park(self._until)
                    job = self._take()
                else:
                    job = self._serve(job)
        except BaseException as exc:
            self.engine.worker_failed(self, exc)
        finally:
            self.job = None
            self.parker.close()

    def _take(self) -> Job[Any] | None:
        """After a sleep: the next job; None if nobody is ready after all."""
        engine = self.engine
        with engine.deciding():
            self.idle = False
            self.deciding = True
            job = self._next(engine.clock())
            self.deciding = False
        return job

    def _next(self, now: float) -> Job[Any] | None:
        """Under the lock: whom the scheduler grants the device, taken up. None: sleep until `_until`."""
        if self.sleepers.until <= now:
            self._wake_sleepers(now)
        self.device.clear_preempt()  # under the lock: what it was raised for is seen by the decision below
        grant = self.engine.scheduler.next(self.name, now)
        if grant is None:
            self.job = None
            self._ended = self._stopping
            self.idle = not self._ended
            self._until = self.sleepers.until
            return None
        self.job = job = cast(JobEntry, grant.entry).job
        if job.entry.aboard:
            self._take_along(job)
        self._granted_s = grant.slice_s
        self._measure_out()
        self._since = now
        return job

    def _measure_out(self) -> None:
        """Under the lock: how long the job may run. While nobody waits, long: coming back takes the GIL."""
        self.alone = not self.engine.scheduler.ready(self.name)
        self._slice_s = max(self._granted_s, ALONE_S) if self.alone else self._granted_s

    def _wake_sleepers(self, now: float) -> None:
        for sleep in self.sleepers.due(now):
            job, sleep.job = sleep.job, None
            assert job is not None
            self.engine.wake_locked(job)

    def _serve(self, job: Job[Any]) -> Job[Any] | None:
        """Run `job` to its next switch point. Returns who goes on: the same job, another, or None if nobody
        is ready."""
        engine = self.engine
        if job.launch is not None and job.cancelled is not None:
            with engine.lock:
                self._give_up(job, engine.clock())
        trap = job.launch or self._step(job)
        offers = False
        if isinstance(trap, Launch):
            if trap.batch is not None and self._begins_jointly(trap):
                job.launch, offers = trap, True
            else:
                job.launch = self._launch(job, trap)

        scheduler, entry = engine.scheduler, job.entry
        with engine.lock:
            now = engine.clock()
            seconds, self._since = now - self._since, now
            self.busy_s += seconds
            scheduler.ran(entry, seconds, now)
            self.deciding = True
            if self.sleepers.until <= now:
                self._wake_sleepers(now)
            if entry.aboard and job.launch is None:
                self._alight(job, now)
            following: Job[Any] | None = job
            if not self._goes_on(job, trap, now) or (offers and not self._offer(job, now)):
                following = self._next(now)
            elif scheduler.should_yield(entry, now):
                scheduler.requeue(entry, now)
                following = self._next(now)
            else:
                self.device.clear_preempt()
                self._measure_out()
            self.deciding = False
            if following is not job and following is not None:
                self._since = after = engine.clock()
                self.suspensions += job.launch is not None and not offers
                self.switches += 1
                self.switching_s += after - now
            effects = engine.take_effects()
        for effect in effects:
            effect()
        return following

    def _step(self, job: Job[Any]) -> Any:
        """Run the coroutine to its next trap, or to its end."""
        error, value = job.inbox_error, job.inbox
        job.inbox_error = job.inbox = None
        if job.cancelled is not None and error is None and not job.winding_up:
            error = Cancelled(job.cancelled.value)
        trap: Any = _END
        try:
            if error is None:
                trap = job.context.run(job.coro.send, value)
            else:
                trap = job.context.run(job.coro.throw, error)
        except StopIteration as stop:
            if not job.winding_up:
                job.value = stop.value
        except BaseException as exc:
            # Without this frame, which is not the user's, and would tie the error to the job.
            job.error = explain_host_object(
                exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next), job
            )
        finally:
            del error
        took = self.engine.clock() - self._since
        if took > LONG_STEP_S:
            logger.debug("%s ran %.1f ms of Python without a switch point", job.name, took * 1e3)
        return trap

    def _launch(self, job: Job[Any], launch: Launch[Any]) -> Launch[Any] | None:
        """Run quanta of a launch. Returns it if it is not done yet."""
        device, clock = self.device, self.engine.clock
        joint = launch.joint if isinstance(launch, BatchLaunch) else None
        began = clock()
        slice_s = max(0.0, min(self._slice_s, self.sleepers.until - began))
        try:
            if joint is None:
                done = launch.kernel.implementation(device.kind)(device, launch, slice_s)
            else:
                done = joint.run(device, slice_s)
        except BaseException as exc:
            job.inbox_error = exc
            done = True
        else:
            if done:
                job.inbox = launch.result
        if done and joint is not None:
            joint.close()
        job.quanta += 1
        job.joules += (clock() - began) * device.watts
        return None if done else launch

    def _goes_on(self, job: Job[Any], trap: Any, now: float) -> bool:
        """Under the lock: what became of a job. True: it can go on at once. False: it left the device."""
        engine = self.engine
        if trap is _END:
            if job.children and not job.winding_up:
                job.winding_up = True
                job.coro = _wind_up(job)
                return True
            engine.finish_locked(job, now)
            return False
        if job.cancelled is not None and not job.winding_up:
            if job.launch is not None:
                self._give_up(job, now)
            return True  # and Cancelled is raised at the next step
        if isinstance(trap, Launch):
            return True
        if not isinstance(trap, Trap):
            job.inbox_error = foreign_await(trap, job)
            return True
        if trap.arrive(job):
            return True
        try:
            engine.scheduler.park(job.entry, now, on=trap.on)
        except DeadlockError as exc:
            trap.leave(job)
            job.inbox_error = exc
            return True
        job.trap = trap
        return False

    # Launches that run as one.

    def _begins_jointly(self, launch: Launch[Any]) -> bool:
        """Whether others may ride in a launch that has not begun."""
        return (
            isinstance(launch, BatchLaunch)
            and launch.joint is None
            and isinstance(launch.kernel, BatchKernel)
            and self.device.kind in launch.kernel.joints
        )

    def _offer(self, job: Job[Any], now: float) -> bool:
        """Under the lock: a job has a launch that others may ride in. True: it goes on with it, alone."""
        launch = job.launch
        if launch is None:  # given up: the job is cancelled
            return True
        assert isinstance(launch, BatchLaunch)
        assert launch.batch is not None
        if not self.engine.scheduler.offer(job.entry, launch.batch, launch.rows, now):
            return False
        self._take_along(job)
        return True

    def _take_along(self, job: Job[Any]) -> None:
        """Under the lock: the launch that a granted job leads, if it begins now, gets its members."""
        launch = job.launch
        assert isinstance(launch, BatchLaunch)
        job.trap = None  # it may have ridden in this launch before it came to lead it
        if launch.joint is not None:
            return
        members: list[BatchLaunch[Any]] = []
        for entry in (job.entry, *job.entry.riders):
            member = cast(JobEntry, entry).job
            own = member.launch
            assert isinstance(own, BatchLaunch)
            if own.joint is not None:
                own.joint.leave(own)
            own.granted = entry.aboard
            if member is not job:
                member.trap = own
            members.append(own)
        assert isinstance(launch.kernel, BatchKernel)
        launch.kernel.joints[self.device.kind](members)

    def _alight(self, job: Job[Any], now: float) -> None:
        """Under the lock: the launch that a job led is done; whoever rode in it gets what the job got."""
        for entry in self.engine.scheduler.alight(job.entry, now):
            rider = cast(JobEntry, entry).job
            launch = rider.launch
            assert launch is not None
            rider.launch = rider.trap = None
            rider.inbox, rider.inbox_error = launch.result, job.inbox_error

    def _give_up(self, job: Job[Any], now: float) -> None:
        """Under the lock: a cancelled job's launch goes no further, before the job's own code runs again."""
        launch, job.launch = job.launch, None
        if isinstance(launch, BatchLaunch):
            if launch.joint is not None:
                launch.joint.leave(launch)
            self.engine.scheduler.leave(job.entry, now)


async def _wind_up(job: Job[Any]) -> None:
    """Runs in place of a job that has ended while it had children: ends them, and takes over an error that
    nobody got."""
    for child in list(job.children):
        job.engine.cancel(child, CancelReason.PARENT)
    for child in list(job.children):
        try:
            await Join(child)
        except JobCancelled:
            pass
        except BaseException as exc:
            if job.error is None:
                job.error = exc
