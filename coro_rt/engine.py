"""The engine: what the host and the workers share, under one lock.

Decide, then act: under the lock the scheduler is asked and states change; what has to be done about it (wake
a thread, raise a preempt flag, tell the host) is noted with `after` and done when the lock is released.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import anyio.abc

from coro_rt.admission import Admission, Ticket
from coro_rt.devices.base import Device
from coro_rt.energy.meter import Meter
from coro_rt.energy.source import EnergySource
from coro_rt.energy.watch import PowerWatch
from coro_rt.errors import Cancelled, DeviceError, DeviceLost, Overloaded, RuntimeClosed
from coro_rt.fence import PROVEN_S, Fence
from coro_rt.hosts import Host, Waiter, protected
from coro_rt.instruments import Instruments, watched
from coro_rt.job import CancelReason, Job, JobEntry, join_outcome
from coro_rt.kernel import BatchLaunch
from coro_rt.ledger import NOTHING, Ledger, sum_up
from coro_rt.memory.usage import MemoryUse
from coro_rt.parker import Clock
from coro_rt.placing import Placing
from coro_rt.schedulers.ejection import Ejection
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.explanation import Explanation, Known
from coro_rt.schedulers.inheritance import last_waited_for
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.registry import PolicyLike
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.stats import Stats
from coro_rt.watchdog import Watchdog
from coro_rt.worker import Worker

if TYPE_CHECKING:
    from coro_rt.trace.recorder import Recorder

logger = logging.getLogger("coro_rt")


class Deciding:
    """Holds the engine's lock; then acts. A class: `contextlib.contextmanager` takes four times as long."""

    __slots__ = ("_acquire", "_engine", "_release")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._acquire, self._release = engine.lock.acquire, engine.lock.release

    def __enter__(self) -> None:
        self._acquire()

    def __exit__(self, *_: object) -> None:
        engine = self._engine
        effects = engine.take_effects() if engine.effects else ()
        self._release()
        for effect in effects:
            effect()


class Engine:
    """Jobs, workers and the scheduler. Methods are called from any thread, without the lock unless named
    `..._locked`."""

    host_tasks: anyio.abc.TaskGroup  # where on_host functions run

    def __init__(
        self,
        host: Host,
        devices: list[Device],
        *,
        policy: PolicyLike,
        shares: Mapping[str, float] | None,
        background_share: float,
        max_wait_s: float,
        max_jobs: int,
        raise_when_full: bool,
        record: str | os.PathLike[str] | None,
        instruments: Instruments | None,
        profiles: str | os.PathLike[str] | None,
        clock: Clock,
    ) -> None:
        self.host = host
        self.clock = clock
        self.lock = threading.Lock()
        self.deciding = Deciding(self)  # `with engine.deciding:` holds the lock, and acts when it is released
        settings: dict[str, Any] = {
            "devices": [device.name for device in devices],
            "shares": dict(shares or {}),
            "background_share": background_share,
            "max_wait_s": max_wait_s,
        }
        self._recorder: Recorder | None = None
        self.placing = Placing(devices, profiles)
        # `timer`, not `clock`: whatever the jobs' time is, a policy takes real time.
        make = partial(Scheduler, policy, placement=self.placing.open(), **settings)
        if record is None:
            self.scheduler = make(on_ejected=self._ejected, timer=perf_counter)
        else:
            from coro_rt.trace.recorder import Recorder  # here: most runtimes never need it

            self._recorder = Recorder(
                make, settings, record, engine=self, on_ejected=self._ejected, timer=perf_counter
            )
            self.scheduler = cast(Scheduler, self._recorder)
        self.instruments = instruments
        if instruments is not None:
            self.scheduler = watched(self.scheduler, instruments)
        limited = [device for device in devices if math.isfinite(device.watchdog_s)]
        self.watchdog = Watchdog(clock) if limited else None
        self.on_fenced: Callable[[Device], object] = lambda device: None  # not under the lock
        self.losses = 0  # of devices
        self.power_watch: PowerWatch | None = None
        self._sources: list[EnergySource] = []  # that measure no device yet
        self.workers = {device.name: Worker(self, device) for device in devices}
        self._first = self.workers[devices[0].name]
        if self.watchdog is not None:
            self.watchdog.guards += [self.workers[device.name].guard for device in limited]
        self.admission = Admission(max_jobs)
        self._raise_when_full = raise_when_full
        self.jobs: dict[Job[Any], None] = {}  # submitted and not done
        self.jobs_done = 0
        self._ended = NOTHING  # what the jobs that have ended used
        self.opened_at = clock()
        self.closing = False
        self._empty: Waiter | None = None  # waits for the last job, while closing
        self.effects: list[Callable[[], object]] = []  # what is to be done once the lock is free

    # Deciding.

    def after(self, effect: Callable[[], object]) -> None:
        """Under the lock: have `effect` called when it is released."""
        self.effects.append(effect)

    def take_effects(self) -> list[Callable[[], object]]:
        """Under the lock: what its holder has to do after releasing it."""
        effects = self.effects
        if effects:
            self.effects = []
        return effects

    def _made_ready(self, worker: Worker, *, gives_way: bool) -> None:
        if worker.idle:
            worker.idle = False
            if worker.expecting:  # it is on its way
                worker.expecting = False
            else:
                self.after(worker.parker.unpark)
        elif (gives_way or worker.alone) and not worker.deciding:
            worker.alone = False
            self.after(worker.device.preempt)

    def taken_up_locked(self, entry: Entry) -> None:
        """Somebody waits for a READY entry of another device, which should take it up now."""
        self._made_ready(cast(JobEntry, entry).job.worker, gives_way=True)

    @property
    def ended(self) -> Ledger:
        """Under the lock: what the jobs that have ended used."""
        return Ledger(*self._ended)

    # A job's life.

    @protected
    def expect(self, worker: Worker) -> None:
        """A job for this worker is being made. Its thread takes as long to wake as the job to make: both at
        once. If no job comes after all, it goes back to sleep."""
        if worker.idle:
            with self.lock:
                if worker.idle and not worker.expecting:
                    worker.expecting = worker.parker.hint()

    @protected
    def submit(self, job: Job[Any], *, launches: bool = True) -> Ticket | None:
        """Queue a job. If the runtime is full: a ticket; wait for its `waiter`, then call `submit_admitted`.

        Without `launches` a fenced device takes it, too. Raises RuntimeClosed, DeviceError, DeviceLost or
        Overloaded.
        """
        with self.deciding:
            if self.admission.full():
                self._check_open(job)
                if self._raise_when_full:
                    raise Overloaded(f"{job.name} would be one job too many: {self.admission}")
                return self.admission.queue(Waiter(self.host), job.entry.qos, job.entry.deadline)
            self._submit_locked(job, launches=launches)
            self.admission.enter()
            return None

    @protected
    def submit_admitted(self, job: Job[Any], *, launches: bool = True) -> None:
        """Queue a job whose ticket was granted. Raises RuntimeClosed (then none was), DeviceError or
        DeviceLost."""
        with self.deciding:
            self._submit_locked(job, launches=launches)

    @protected
    def give_up(self, ticket: Ticket) -> None:
        """The task with this ticket does not want to come in any more."""
        with self.deciding:
            self._admit_next(self.admission.leave(ticket))

    @protected
    def spawn(self, job: Job[Any]) -> None:
        """Queue a child. Raises RuntimeClosed, DeviceError, DeviceLost or Overloaded."""
        with self.deciding:
            if self._raise_when_full and self.admission.full():
                raise Overloaded(f"{job.name} would be one job too many: {self.admission}")
            self._submit_locked(job)
            self.admission.enter()
            assert job.parent is not None
            if job.parent.children is None:
                job.parent.children = {}
            job.parent.children[job] = None

    def first_worker(self) -> Worker:
        """For a job that names no device: the first, or another of its kind while that one is fenced."""
        first = self._first
        if first.fence is None:
            return first
        for worker in self.workers.values():
            if worker.device.kind == first.device.kind and worker.fence is None:
                return worker
        return first

    def _check_open(self, job: Job[Any]) -> None:
        if self.closing:
            raise RuntimeClosed(f"{job.name} was not started: the runtime is closed")

    def _submit_locked(self, job: Job[Any], *, launches: bool = True) -> None:
        self._check_open(job)
        worker = job.worker
        if worker.failure is not None:
            raise DeviceError(f"device {worker.name!r} has failed: {worker.failure!r}") from worker.failure
        if worker.fence is not None and launches:
            raise worker.fence.error()
        gives_way = self.scheduler.submit(job.entry, self.clock())
        self.jobs[job] = None
        self._made_ready(worker, gives_way=gives_way)

    @protected
    def wake(self, job: Job[Any], value: Any = None, error: BaseException | None = None) -> None:
        """A waiting job goes on, with a value or an exception."""
        with self.deciding:
            self.wake_locked(job, value, error)

    def wake_locked(self, job: Job[Any], value: Any = None, error: BaseException | None = None) -> None:
        """Like `wake`. Does nothing for a job that its failed device took along."""
        if job.state is not State.WAITING:
            return
        job.inbox = value
        job.inbox_error = error
        job.trap = None
        self._made_ready(job.worker, gives_way=self.scheduler.wake(job.entry, self.clock()))

    @protected
    def cancel(self, job: Job[Any], reason: CancelReason) -> None:
        """Have a job end as soon as possible; the first reason stays."""
        with self.deciding:
            self.cancel_locked(job, reason)

    def cancel_for_task(self, job: Job[Any]) -> bool:
        """The task that waits for a job is cancelled: so is the job; the task waits on. See `Host.wait`."""
        self.cancel(job, CancelReason.SCOPE)
        return False

    def cancel_locked(self, job: Job[Any], reason: CancelReason) -> None:
        """Like `cancel`."""
        state = job.state
        if job.cancelled is not None or state is State.DONE or state is State.NEW:
            return
        job.cancelled = reason
        if job.winding_up:
            return
        now = self.clock()
        if not job.entry.started:
            job.error = Cancelled(reason.value)
            self.after(job.coro.close)
            self.finish_locked(job, now)
        elif state is State.RUNNING:
            self.after(job.worker.device.preempt)
        elif state is State.READY:
            self._made_ready(job.worker, gives_way=self.scheduler.expedite(job.entry, now))
        else:
            assert state is State.WAITING
            assert job.trap is not None
            if job.trap.leave(job):
                job.trap = None
                self._made_ready(job.worker, gives_way=self.scheduler.expedite(job.entry, now))

    def finish_locked(self, job: Job[Any], now: float) -> None:
        """A job has ended, its outcome is set: take it out and tell all who wait for it."""
        if job.outlet is not None:  # first: that it is DONE is read without the lock, and then why
            job.outlet.end_locked(job.error)
        self.scheduler.done(job.entry, now)
        job.worker.leaves(job)
        del job.entry.job  # no cycle is left, so that an ended job is freed at once
        del self.jobs[job]
        self.jobs_done += 1
        for waiter in job.waiters or ():
            self.after(waiter.deliver)
        job.waiters = None
        parent = job.parent
        if parent is None:
            self._ended = sum_up(self._ended, job.used)  # its children have ended
        else:
            parent.past = sum_up(parent.past, job.used)
            if job.error is None or isinstance(job.error, Cancelled):
                parent.forget_child(job)  # a failed one stays, until somebody gets its error
        for joiner in job.joiners or ():
            self.wake_locked(joiner, *join_outcome(job))
        job.joiners = None
        self._admit_next(self.admission.release())
        if self._empty is not None and not self.jobs:
            self.after(self._empty.deliver)

    def _admit_next(self, granted: Waiter | None) -> None:
        if granted is not None:
            self.after(granted.deliver)

    @protected
    def watch(self, job: Job[Any], waiter: Waiter) -> bool:
        """Have `waiter` delivered when the job has ended. False: it has already."""
        with self.lock:
            if job.state is State.DONE:
                return False
            if job.waiters is None:
                job.waiters = []
            job.waiters.append(waiter)
            return True

    @protected
    def set_qos(self, job: Job[Any], level: QoS | None, within_s: float | None) -> None:
        """Change how urgent a job is."""
        with self.deciding:
            now = self.clock()
            deadline = None if within_s is None else now + within_s
            gives_way = self.scheduler.set_qos(job.entry, now, qos=level, deadline=deadline)
            last = last_waited_for(job.entry)
            if last.state is State.NEW or last.state is State.DONE:
                return
            worker = cast(JobEntry, last).job.worker
            if gives_way and not worker.deciding:
                self.after(worker.device.preempt)
            elif worker.idle and last.state is State.READY:  # it was put off, and is not any more
                self._made_ready(worker, gives_way=False)

    @protected
    def predict(self, job: Job[Any], seconds_left: float) -> None:
        """How many device seconds a job will still take."""
        with self.lock:
            if job in self.jobs:
                self.scheduler.predict(job.entry, seconds_left, self.clock())

    @protected
    def set_policy(self, policy: PolicyLike) -> None:
        """Another policy."""
        with self.deciding:
            self.scheduler.set_policy(policy, self.clock())
            self._ask_again()

    @protected
    def set_power(self, state: PowerState) -> None:
        """What the machine runs on, and how warm it is."""
        with self.deciding:
            self.set_power_locked(state, self.clock())

    def set_power_locked(self, state: PowerState, now: float) -> None:
        """Like `set_power`."""
        self.scheduler.set_power(state, now)
        self._ask_again()

    def _ask_again(self) -> None:
        """Under the lock: those who were put off may not be any more."""
        for worker in self.workers.values():
            if worker.idle and self.scheduler.ready(worker.name):
                self._made_ready(worker, gives_way=False)

    @protected
    def explain(self, job: Job[Any]) -> Explanation:
        """Why a job runs or waits."""
        known = Known(
            granted=lambda device: self.workers[device].granted,
            waiting=_waiting,
            fenced=self._fenced,
            placed=_placed,
        )
        with self.lock:
            return self.scheduler.explain(job.entry, self.clock(), known)

    def _fenced(self, device: str) -> str | None:
        fence = self.workers[device].fence
        return None if fence is None else fence.describe(self.clock())

    # Devices that fail.

    @protected
    def fence(self, worker: Worker, lost: DeviceLost) -> None:
        """A device has failed: it runs no kernels until it is readmitted. Not by its worker's own thread."""
        with self.deciding:
            self.fence_locked(worker, lost)

    def fence_locked(self, worker: Worker, lost: DeviceLost) -> None:
        """Like `fence`. Its jobs are told when they want something of it."""
        if worker.fence is not None or worker.failure is not None:
            return
        now, device = self.clock(), worker.device
        if now - worker.readmitted_at > PROVEN_S:
            worker.setbacks = 0
        worker.fence = Fence(lost, now, device.pauses_s, setbacks=worker.setbacks)
        device.fenced = lost.reason
        self.scheduler.fence(worker.name, lost.reason, now)
        self.losses += 1
        if self.instruments is not None:
            self.instruments.call("device_fenced", device, lost, now)
        self.after(partial(logger.warning, "%s", lost))
        self.after(partial(self.on_fenced, device))
        self.after(device.preempt)  # if somebody else than its worker found out
        if worker.idle:
            self.after(worker.parker.unpark)  # it has a time to think of

    def tried(self, worker: Worker, *, sound: bool, failure: BaseException | None) -> None:
        """A fenced device was asked a known question. By its worker."""
        with self.deciding:
            now, fence, device = self.clock(), worker.fence, worker.device
            assert fence is not None
            if not sound:
                fence.failed(now)
                why = "its answer was wrong" if failure is None else failure
                plan = "it stays out" if fence.next_try == math.inf else "it will be tried again"
                self.after(partial(logger.warning, "the device %r was tried: %s; %s", worker.name, why, plan))
                return
            worker.setbacks, worker.readmitted_at, worker.fence = fence.setbacks, now, None
            device.fenced = None
            self.scheduler.readmit(worker.name, now)
            if self.instruments is not None:
                self.instruments.call("device_readmitted", device, now)
            self.after(partial(logger.info, "the device %r is sound, and runs kernels again", worker.name))

    # The whole.

    def start_workers(self, meter: Meter) -> None:
        """Start the recording, the devices and the workers' threads. Raises what a device raises, and
        OSError for a trace that cannot be written."""
        if self._recorder is not None:
            self._recorder.open(self.clock())
        self._sources += meter.sources
        if meter.watches_power:
            self.power_watch = PowerWatch(meter.power_state, self.set_power)
        for worker in self.workers.values():
            worker.start()
        if self.watchdog is not None:
            self.watchdog.start()

    def take_source(self, device: Device) -> EnergySource | None:
        """What counts the joules of a device that is open; None: nothing does, or another device has it."""
        source = next((source for source in self._sources if source.measures(device)), None)
        if source is not None:
            self._sources.remove(source)
        return source

    @protected
    def close(self, waiter: Waiter) -> None:
        """Take no more jobs, cancel all there are; `waiter` is delivered when the last has ended."""
        with self.deciding:
            self.closing = True
            for admitted in self.admission.close():
                self.after(admitted.deliver)
            for job in list(self.jobs):
                self.cancel_locked(job, CancelReason.CLOSED)
            if self.jobs:
                self._empty = waiter
            else:
                self.after(waiter.deliver)

    def stop_workers(self) -> None:
        """End and join the workers' threads. All jobs have ended."""
        try:
            for worker in self.workers.values():
                worker.stop()
            if self.watchdog is not None:
                self.watchdog.stop()
            self.placing.close(self.scheduler.placement)
            if self.instruments is not None:
                self.instruments.call("runtime_closed")
        finally:
            if self.power_watch is not None:
                self.power_watch.close()
            if self._recorder is not None:
                self._recorder.close()

    def worker_failed(self, worker: Worker, failure: BaseException) -> None:
        """A worker's thread ends by an error of ours or of its device: its jobs end with DeviceError.

        Called by that thread. The jobs' `finally` blocks run, as far as they await nothing.
        """
        logger.error("the worker of device %r has failed", worker.name, exc_info=failure)
        with self.deciding:
            worker.failure = failure
            self.scheduler.fence(worker.name, f"it has failed: {failure!r}", self.clock())
            orphans = [job for job in self.jobs if job.worker is worker]
            for job in orphans:
                if isinstance(job.launch, BatchLaunch) and job.launch.joint is not None:
                    job.launch.joint.end()
                if job.state is State.WAITING:
                    assert job.trap is not None
                    job.trap.leave(job)
                    job.trap = None
                    self.scheduler.wake(job.entry, self.clock())
        for job in orphans:
            worker.job = job
            try:
                job.context.run(job.coro.close)
            except Exception:
                logger.exception("%s, while its device failed", job.name)
        with self.deciding:
            for job in orphans:
                if job.state is State.RUNNING:
                    self._fail_locked(job, failure)
                elif job.state is State.READY:
                    # also if the policy puts it off; and one by one, whoever might ride along
                    self.scheduler.expedite(job.entry, self.clock())
            while (grant := self.scheduler.next(worker.name, self.clock())) is not None:
                self._fail_locked(cast(JobEntry, grant.entry).job, failure)

    def _fail_locked(self, job: Job[Any], failure: BaseException) -> None:
        job.error = DeviceError(f"device {job.worker.name!r} has failed: {failure!r}")
        job.error.__cause__ = failure
        self.finish_locked(job, self.clock())

    def _ejected(self, ejection: Ejection) -> None:
        self.after(
            lambda: logger.warning(
                "policy %r was replaced by 'dynamic' at %.3f s: its %s failed: %s",
                ejection.policy,
                ejection.now,
                ejection.call,
                ejection.reason,
            )
        )

    @protected
    def stats(self, *, memory_used: int, memory: MemoryUse) -> Stats:
        """Everything at one moment."""
        with self.lock:
            return self.stats_locked(memory_used=memory_used, memory=memory)

    def stats_locked(self, *, memory_used: int, memory: MemoryUse) -> Stats:
        """Like `stats`; counts no jobs one by one."""
        scheduler, workers = self.scheduler, self.workers
        ready = sum(scheduler.ready(name) for name in workers)
        running = sum(scheduler.running(name) is not None for name in workers)
        cost_s = sum(worker.switching_s for worker in workers.values())
        measured = sum(worker.measured for worker in workers.values())
        return Stats(
            jobs_ready=ready,
            jobs_running=running,
            jobs_waiting=len(self.jobs) - ready - running,
            jobs_done=self.jobs_done,
            switches=scheduler.switches,
            preemptions=scheduler.preemptions,
            decisions=scheduler.decisions,
            suspensions=sum(worker.suspensions for worker in workers.values()),
            joint_launches=scheduler.joint_launches,
            rides=scheduler.rides,
            device_losses=self.losses,
            switch_cost_s=cost_s / measured if measured else 0.0,
            device_busy_s={name: worker.busy_s for name, worker in workers.items()},
            energy={name: worker.energy for name, worker in workers.items()},
            memory_used=memory_used,
            memory_budget=memory.budget,
            memory=memory,
        )


def _placed(entry: Entry) -> str:
    """Why an entry is on its device, if that was chosen."""
    if entry.state is State.DONE:  # and its job is its own again
        return ""
    choice = cast(JobEntry, entry).job.placed
    return "" if choice is None else str(choice)


def _waiting(entry: Entry) -> tuple[str, float | None]:
    """Under the lock: what a WAITING entry waits for, and since when."""
    job = cast(JobEntry, entry).job
    return ("", None) if job.trap is None else (job.trap.what(), job.parked_at)
