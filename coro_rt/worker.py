"""A worker: the thread that takes jobs for one device, steps them and runs their launches.

The loop is: take a job from the scheduler; step its coroutine, or go on with its launch; under the lock, book
the time, see what became of it, and decide who goes on. Only the worker changes the fields of the job that it
runs.

While its device is fenced it goes on to step its jobs' own code; what they launch there is DeviceLost. When
it has nothing else to do, and the device has rested, it tries it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from coro_rt.energy.account import Account, DeviceEnergy, Tally
from coro_rt.errors import Cancelled, DeviceLost, JobCancelled
from coro_rt.fence import Fence
from coro_rt.guard import Guard
from coro_rt.instruments import Run, watched_launches
from coro_rt.job import CancelReason, Job, JobEntry, Join, explain_host_object, foreign_await
from coro_rt.kernel import BatchKernel, BatchLaunch, Joint, Launch
from coro_rt.parker import make_parker
from coro_rt.schedulers.errors import DeadlockError
from coro_rt.schedulers.explanation import Granted
from coro_rt.sleepers import Sleepers
from coro_rt.trap import Trap, local
from coro_rt.traps import CHECKPOINT, loosen
from coro_rt.watchdog import GivenUp

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.engine import Engine

logger = logging.getLogger("coro_rt")

LONG_STEP_S = 0.002  # nobody else can run meanwhile: worth a line in the log
ALONE_S = 0.2  # the longest slice of a job that nobody waits behind; a newcomer ends it early
KEPT_GRANTS = 256  # so far back an explanation knows who ran
LOOK_EVERY_S = 1.0  # how often it is seen to what energy has been used, while something runs
UNMEASURED = 15  # switches whose time is not taken, between two whose is: a look at the clock is dear here
_END: Any = object()  # in place of a trap: the coroutine has ended


class Worker:
    """One device's thread. `idle`, `sleepers` and what is counted are touched under the engine's lock."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self.engine = engine
        self._scheduler, self._lock, self._clock = engine.scheduler, engine.lock, engine.clock
        self._places = engine.placing.several  # whether there are other devices
        self.device = device
        self.name = device.name
        self.parker = make_parker(engine.clock)
        self.sleepers = Sleepers()
        self.job: Job[Any] | None = None  # whom it steps; read by that job's own code
        self.idle = False  # about to park: whoever makes a job ready clears this and unparks
        self.expecting = False  # unparked before there was anything to do: see Engine.expect; under the lock
        self.deciding = False  # it is about to choose, so needs no preempt flag; under the lock
        self.failure: BaseException | None = None
        self.fence: Fence | None = None  # while its device runs no kernels; under the lock
        self.setbacks = 0  # of the device, in a row; see Fence
        self.readmitted_at = -math.inf
        self.busy_s = 0.0
        self.suspensions = 0  # launches that gave way half-done
        self.switching_s = 0.0  # of those switches whose time was taken
        self.measured = 0  # how many they are
        self._unmeasured = 0  # switches to come before the next of them
        self.granted: deque[Granted] = deque(maxlen=KEPT_GRANTS)  # under the lock
        self._until = -math.inf  # when something is to be done, as far as was known when it became idle
        self._stopping = False
        self._ended = False
        self.alone = False  # nobody else was ready, so a newcomer is a reason to ask again; under the lock
        self._granted_s = 0.0
        self._slice_s = 0.0
        self._account: Account | None = None  # of measured joules; None: they are modelled
        self._tally = Tally()
        self._look_at = math.inf  # when there is something to see to besides jobs
        self._since = 0.0  # when the running job was taken up, or its time was last booked
        self._stepped_at = 0.0  # when it last began to run Python of its own
        self._lost: DeviceLost | None = None  # the device said so in this thread, and is not fenced yet
        self.guard = Guard(self)
        self._run_launch: Run = self.guard.over(self._launch)
        if engine.instruments is not None:
            self._run_launch = watched_launches(self._run_launch, engine.instruments, engine.clock)
        self._started = False
        self._finished = threading.Event()
        self._thread = self._new_thread(None)

    def start(self) -> None:
        """Start the device and the thread."""
        self.device.fenced = None  # in another runtime, perhaps
        self.device.start()
        self.device.attach(self.parker, self.engine.clock)
        source = self.engine.take_source(self.device)
        if source is not None:
            self._account = Account(source, self.device, self._tally)
        if source is not None or self.engine.power_watch is not None:
            self._look_at = -math.inf
        self.parker.start(self._thread)
        self._started = True

    def stop(self) -> None:
        """End and join the thread, then close the device. No jobs are left.

        A thread that was given up and does not come back is left behind, with its device as it is.
        """
        with self.engine.lock:
            self._stopping = True
        self.parker.unpark()
        if self._started:
            self._finished.wait()  # it may be given up meanwhile, for another one
            self._thread.join()
        self.guard.close()

    def _new_thread(self, job: Job[Any] | None) -> threading.Thread:
        return threading.Thread(target=self._run, args=(job,), name=f"coro_rt-{self.name}", daemon=True)

    def _run(self, job: Job[Any] | None) -> None:
        local.worker = self
        parker = self.parker
        try:
            parker.begin()
            self.device.begin()
            while not self._ended:
                if job is None:
                    if self.fence is None or not self.guard.try_is_due():
                        parker.park(self._until)
                    else:
                        self.guard.try_device()
                        self._lost = None  # that it fails is no news
                    if self._look_at < math.inf:
                        self._look(self._clock())
                    job = self._take()
                else:
                    job = self._serve(job)
        except GivenUp:  # another thread is the worker now, and all is its
            parker.close()
            return
        except BaseException as exc:
            self.engine.worker_failed(self, exc)
        self.job = None
        parker.close()
        self._finished.set()

    def _take(self) -> Job[Any] | None:
        """After a sleep, or when a job has left and all who wait for it know: the next job; None if nobody is
        ready after all."""
        engine, lock = self.engine, self._lock
        lock.acquire()  # as in `_serve`
        try:
            self.idle = self.expecting = False
            self.deciding = True
            job = self._next(self._clock())
            self.deciding = False
            effects = engine.take_effects() if engine.effects else ()
        finally:
            lock.release()
        for effect in effects:
            effect()
        return job

    def _next(self, now: float) -> Job[Any] | None:
        """Under the lock: whom the scheduler grants the free device. None: sleep until `_until`."""
        if self.sleepers.until <= now:
            self._wake_sleepers(now)
        self.device.clear_preempt()  # under the lock: what it was raised for is seen by the decision below
        grant = self._scheduler.next(self.name, now)
        if grant is None:
            self.granted.append((now, None))
            self.job = None
            self._ended = self._stopping
            self.idle = not self._ended
            self._until = min(self.sleepers.until, self._scheduler.resumes_at(self.name))
            if self.fence is not None and not self.engine.closing:
                self._until = min(self._until, self.fence.next_try)
            return None
        self._granted_s = grant.slice_s
        self._measure_out()
        self._since = self._stepped_at = now
        entry: Any = grant.entry
        job: Job[Any] = entry.job
        self.job = job
        self.granted.append((now, entry))
        if self._account is not None:
            self._account.runs(entry)
        if entry.aboard:
            self._lead(job, now)
        return job

    def held_s(self, now: float) -> float:
        """Under the lock: for how long the running job has had the device since its time was last booked."""
        return 0.0 if self.job is None else max(0.0, now - self._since)

    # Energy.

    @property
    def energy(self) -> DeviceEnergy:
        """Under the lock: what the device has used."""
        return self._tally.energy("model" if self._account is None else self._account.source.name)

    def leaves(self, job: Job[Any]) -> None:
        """Under the lock: a job has ended, or goes to another device."""
        if self._account is not None:
            self._account.leaves(job.entry)

    def _look(self, now: float) -> None:
        """Now and then, while something runs or may come: battery and heat, and what was used."""
        self._look_at = now + LOOK_EVERY_S
        if self.engine.power_watch is not None:
            self.engine.power_watch.look(now)
        self.read_energy()

    def read_energy(self) -> None:
        """In its own thread, without the lock: charges jobs for what was used, if it is worth a reading."""
        account = self._account
        if account is None or not account.due(self._clock()):
            return
        reading = account.read()
        with self._lock:
            if reading is not None:
                account.settle(reading, self._clock())
            else:
                account.give_up()
                self._account = None

    def _model_energy(self, job: Job[Any], seconds: float) -> None:
        joules = seconds * self.device.watts
        job.modelled_joules += joules
        self._tally.modelled += joules

    def _measure_out(self) -> None:
        """Under the lock: how long the job may run. While nobody waits, long: coming back takes the GIL."""
        self.alone = alone = not self._scheduler.ready(self.name)
        self._slice_s = ALONE_S if alone and self._granted_s < ALONE_S else self._granted_s

    def _hurry(self, now: float) -> None:
        """Under the lock: somebody more urgent may be waiting for the end of a launch, and not for long."""
        self._slice_s = min(self._slice_s, self._scheduler.lets_go_on_s(self.name, now))

    def _wake_sleepers(self, now: float) -> None:
        for sleep in self.sleepers.due(now):
            job, sleep.job = sleep.job, None
            assert job is not None
            self.engine.wake_locked(job)

    def _serve(self, job: Job[Any]) -> Job[Any] | None:
        """Run `job` to its next switch point. Returns who goes on: the same job, another, or None if nobody
        is ready."""
        if self._since >= self._look_at:
            self._look(self._since)
        engine, launch = self.engine, job.launch
        trap: Any = launch
        if launch is not None and (job.cancelled is not None or self.fence is not None):
            trap = (
                None if job.cancelled is not None or not self._places else engine.placing.again(job, launch)
            )
            if trap is None:
                with self._lock:
                    self._give_up(job, self._clock())
            launch = job.launch = None
        if trap is None:
            trap = self._step(job)
            if isinstance(trap, Launch):
                sent = None
                if self._places or trap.device is not None:
                    sent = engine.placing.sent(job, trap)
                if sent is not None:
                    trap = sent
                elif self.fence is None and (trap.batch is None or not self._may_run_jointly(trap)):
                    launch = job.launch = trap  # known to another thread, should this one hang
            elif trap is _END:
                self.read_energy()  # so that its ledger is right when somebody looks at it
        joint: Joint | None = None
        if launch is not None:
            joint = launch.joint
            job.launch = left = self._run_launch(job, launch)
            if left is None and joint is None and job.inbox_error is None and self._undisturbed():
                return job

        scheduler = self._scheduler
        following: Job[Any] | None = job
        lock = self._lock
        lock.acquire()  # `with` takes twice as long
        try:
            now = self._clock()
            seconds, stepped = now - self._since, now - self._stepped_at
            self._since = self._stepped_at = now
            self.busy_s += seconds
            self.deciding = True
            if self._lost is not None:
                self._fence_locked()
            if self.sleepers.until <= now:
                self._wake_sleepers(now)
            goes_on = True
            if launch is None and trap is not CHECKPOINT:
                scheduler.ran(job.entry, seconds, now)
                seconds = 0.0
                goes_on = self._goes_on(job, trap, now)
            elif job.launch is None:
                if joint is not None:
                    scheduler.ran(job.entry, seconds, now)
                    seconds = 0.0
                    self._alight(job, joint, now)
                elif self._places and launch is not None and job.inbox_error is None:
                    engine.placing.measured(engine, self.name, launch, now)
            elif job.cancelled is not None:
                scheduler.ran(job.entry, seconds, now)
                seconds = 0.0
                self._give_up(job, now)  # and Cancelled is raised at the next step
            if goes_on:
                self.device.clear_preempt()  # under the lock: the decision below sees what it was raised for
                grant = scheduler.turn(job.entry, seconds, now)
                if grant is None:
                    self._measure_out()
                    if job.entry.aboard and not self.alone:
                        self._hurry(now)
                else:
                    entry: Any = grant.entry
                    self.suspensions += job.launch is not None
                    self.job = following = entry.job
                    self._slice_s = self._granted_s = grant.slice_s
                    self.alone = False
                    if entry.aboard:
                        self._lead(entry.job, now)
                    self.granted.append((now, entry))
                    if self._account is not None:
                        self._account.runs(entry)
            elif engine.effects:
                self.job = following = None
            else:
                following = self._next(now)
            self.deciding = False
            if following is not job and following is not None:
                if self._unmeasured:
                    self._unmeasured -= 1
                else:
                    self._unmeasured = UNMEASURED
                    self.switching_s += self._clock() - now
                    self.measured += 1
            effects = engine.take_effects() if engine.effects else ()
        finally:
            lock.release()
        if stepped > LONG_STEP_S and launch is None:
            _note_long_step(job, stepped)
        if effects:
            # If the job has left, before anybody else is chosen: who waited for it may run at once.
            engine.host.rests = following is None and not self._scheduler.ready(self.name)
            for effect in effects:
                effect()
            engine.host.rests = False
            if following is None:
                following = self._take()
                self._ended = False  # only after a sleep: how soon it is to end is not in its decisions
        if following is None:
            self.read_energy()  # before the pause, which is nobody's
        return following

    def _undisturbed(self) -> bool:
        """After a launch: nothing is to be decided, no time to be booked yet, and placement is not to be told
        what it took. Nobody else was ready, has come, or is due to wake, and the slice is not over.

        Without the lock: whoever comes clears `alone` under it, and raises the preempt flag.
        """
        now = self._stepped_at
        idle = self.alone and not self._places and now < self.sleepers.until
        return idle and now - self._since < self._granted_s

    def _step(self, job: Job[Any]) -> Any:
        """Run the coroutine to its next trap, or to its end."""
        error, value = job.inbox_error, job.inbox
        job.inbox_error = job.inbox = None
        if job.cancelled is not None and error is None and not job.winding_up:
            error = Cancelled(job.cancelled.value)
        try:
            if error is None:
                return job.context.run(job.coro.send, value)
            return job.context.run(job.coro.throw, error)
        except StopIteration as stop:
            if not job.winding_up:
                job.value = stop.value
        except Cancelled as exc:  # nobody is shown where: its frames would only keep what the job worked with
            exc.__context__ = None
            job.error = exc.with_traceback(None)
        except BaseException as exc:
            # Without this frame, which is not the user's, and would tie the error to the job.
            job.error = explain_host_object(
                exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next), job
            )
        finally:
            del error
        return _END

    def _launch(self, job: Job[Any], launch: Launch[Any]) -> Launch[Any] | None:
        """Run quanta of a launch. Returns it if it is not done yet."""
        device, clock = self.device, self._clock
        began = clock()
        if began - self._stepped_at > LONG_STEP_S:
            _note_long_step(job, began - self._stepped_at)
        left_s = self.sleepers.until - began
        slice_s = self._slice_s if self._slice_s < left_s else max(0.0, left_s)
        joint = launch.joint
        launch.begun = True
        try:
            if self.guard.around is not None:
                done = self.guard.call(launch, slice_s)
            elif joint is None:
                done = launch.kernel.implementation(device.kind)(device, launch, slice_s)
            else:
                done = joint.run(device, slice_s)
        except GivenUp:
            raise
        except BaseException as exc:
            done = True
            if isinstance(exc, DeviceLost) and exc.device == self.name:
                self._lost = exc
                done = joint is not None or not launch.kernel.idempotent  # else it may go on elsewhere
            if done:
                job.inbox_error = exc
        else:
            if done:
                job.inbox = launch.result
        self._stepped_at = ended = clock()
        seconds = ended - began if launch.measured_s is None else launch.measured_s
        if joint is None:
            launch.spent_s += seconds
            job.quanta += 1
            job.kernel_s += seconds
            if self._account is None:
                self._model_energy(job, seconds)
        else:
            self._share_out(seconds, joint)
            if done:
                joint.end()
        return None if done else launch

    def _share_out(self, seconds: float, joint: Joint) -> None:
        """Books a quantum of a launch to all who run in it: time and energy, by their rows."""
        rows = sum(launch.granted for launch in joint.members)
        for launch in joint.members:
            job, share = launch.job, seconds * launch.granted / rows
            job.quanta += 1
            job.kernel_s += share
            if self._account is None:
                self._model_energy(job, share)

    def _goes_on(self, job: Job[Any], trap: Any, now: float) -> bool:
        """Under the lock: what became of a job that has ended or awaits something. True: it can go on at
        once. False: it left the device."""
        engine = self.engine
        if trap is _END:
            if job.children and not job.winding_up:
                job.winding_up = True
                job.coro = _wind_up(job)
                return True
            engine.finish_locked(job, now)
            return False
        if job.cancelled is not None and not job.winding_up:
            return True  # and Cancelled is raised at the next step
        if isinstance(trap, Launch):
            if self.fence is None:
                assert isinstance(trap, BatchLaunch)
                return self._offer(job, trap, now)
            job.inbox_error = self.fence.error()
            return True
        if not isinstance(trap, Trap):
            job.inbox_error = foreign_await(trap, job)
            return True
        if trap.arrive(job):
            return True
        if trap.on is not None and trap.on.waits_on is not None:
            loosen(job, trap.on)
        try:
            last = engine.scheduler.park(job.entry, now, on=trap.on)
        except DeadlockError as exc:
            trap.leave(job)
            job.inbox_error = exc
            return True
        if last is not None:
            engine.taken_up_locked(last)
        job.trap = trap
        job.parked_at = now
        return False

    # Launches that run as one.

    def _may_run_jointly(self, launch: Launch[Any]) -> bool:
        """Whether others may ride in a launch on this device."""
        kernel = launch.kernel
        return isinstance(kernel, BatchKernel) and self.device.kind in kernel.joints

    def _offer(self, job: Job[Any], launch: BatchLaunch[Any], now: float) -> bool:
        """Under the lock: a job brings a launch that others may ride in. True: it goes on with it, alone."""
        assert launch.batch is not None
        job.launch = launch
        alone = self._scheduler.offer(job.entry, launch.batch, launch.rows, now)
        if alone:
            self._lead(job, now)
        return alone

    def _lead(self, job: Job[Any], now: float) -> None:
        """Under the lock: a job that was granted the device leads a launch. If that begins now, it gets its
        members."""
        launch = job.launch
        assert isinstance(launch, BatchLaunch)
        job.trap = None  # it may have ridden in this launch before it came to lead it
        if launch.joint is not None:
            self._hurry(now)
            return
        members: list[BatchLaunch[Any]] = []
        for entry in (job.entry, *job.entry.riders):
            member = cast(JobEntry, entry).job
            own = member.launch
            assert isinstance(own, BatchLaunch)
            if own.joint is not None:
                own.joint.leave(own)
            own.job, own.granted = member, entry.aboard
            if member is not job:
                member.trap, member.parked_at = own, now
            members.append(own)
        kernel = cast(BatchKernel[..., Any], launch.kernel)
        kernel.joints[self.device.kind](members)

    def _alight(self, job: Job[Any], joint: Joint, now: float) -> None:
        """Under the lock: the launch that a job led is done; whoever rode in it gets what the job got."""
        batch = job.entry.batch
        if joint.took is not None and batch is not None:
            self._scheduler.learn(batch, *joint.took, now)
        for entry in self._scheduler.alight(job.entry, now):
            rider = cast(JobEntry, entry).job
            launch = rider.launch
            assert launch is not None
            rider.launch = rider.trap = None
            rider.inbox, rider.inbox_error = launch.result, job.inbox_error

    def _give_up(self, job: Job[Any], now: float) -> None:
        """Under the lock: a job's launch goes no further, before the job's own code runs again: it was
        cancelled, or the device is fenced."""
        launch, job.launch = job.launch, None
        self.alone = False  # whoever rode in it may lead it now
        if isinstance(launch, BatchLaunch):
            joint = launch.joint
            if joint is not None and self.fence is None:
                try:
                    joint.leave(launch)
                except DeviceLost:  # and the device knows
                    joint.end()
            elif joint is not None:  # the others will get the same
                joint.end()
            self._scheduler.leave(job.entry, now)
        if self.fence is not None and job.cancelled is None:
            job.inbox_error = self.fence.error()

    # A device that fails.

    def lost(self, error: DeviceLost) -> None:
        """The device has failed: it is fenced. From any thread; in the worker's own as soon as it decides."""
        if threading.current_thread() is self._thread:
            self._lost = error  # that thread may hold the lock
        else:
            self.engine.fence(self, error)

    def _fence_locked(self) -> None:
        error, self._lost = self._lost, None
        assert error is not None
        self.engine.fence_locked(self, error)

    def hand_over(self) -> threading.Thread:
        """Under the lock: another thread is the worker from now on. Gives the one that was."""
        engine = self.engine
        before, self.parker = self.parker, make_parker(engine.clock)
        stray, self._thread = self._thread, self._new_thread(self.job)
        self.device.attach(self.parker, engine.clock)
        engine.after(partial(self.parker.start, self._thread))
        engine.after(before.unpark)  # in case it is there that it hangs
        return stray


def _note_long_step(job: Job[Any], seconds: float) -> None:
    logger.debug("%s ran %.1f ms of Python without a switch point", job.name, seconds * 1e3)


async def _wind_up(job: Job[Any]) -> None:
    """Runs in place of a job that has ended while it had children: ends them, and takes over an error that
    nobody got."""
    for child in list(job.children or ()):
        job.engine.cancel(child, CancelReason.PARENT)
    for child in list(job.children or ()):
        try:
            await Join(child)
        except JobCancelled:
            pass
        except BaseException as exc:
            if job.error is None:
                job.error = exc
