"""The runtime: what an application opens, and asks to run its jobs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from coro_rt.devices import Device, open_device
from coro_rt.energy.meter import Meter
from coro_rt.engine import Engine
from coro_rt.errors import DeviceError, MonitorError, RuntimeClosed
from coro_rt.handle import JobHandle, outcome
from coro_rt.hosts import Waiter, current_host, protected
from coro_rt.instruments import Instrument, Instruments
from coro_rt.job import Job, function_name, make_coroutine
from coro_rt.memory import MemoryBudget, parse_bytes
from coro_rt.memory.residency import Residency
from coro_rt.parker import Clock
from coro_rt.profiles import profile_folder
from coro_rt.qos import current_urgency, runtime_clock
from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.explanation import Explanation
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.registry import PolicyLike
from coro_rt.snapshot import Snapshot, take
from coro_rt.stats import Stats
from coro_rt.stream import Outlet, Stream

if TYPE_CHECKING:
    from coro_rt.llm.model import LLM
    from coro_rt.monitor.server import Monitor

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Runtime:
    """An open runtime. Its async methods are called on the event loop that opened it; inside jobs, use
    `coro_rt.spawn`."""

    def __init__(self, engine: Engine, residency: Residency) -> None:
        self._engine = engine
        self._residency = residency
        self.memory = residency.budget

    @protected
    async def run(
        self,
        fn: Callable[[*Args], Coroutine[Any, Any, T]],
        *args: *Args,
        device: str | None = None,
        predicted_s: float = 0.0,
    ) -> T:
        """Run a job, `fn(*args)`, and give its result; its exception is raised as it is.

        It is as urgent as the enclosing `qos` scope says, with the deadline of that and of the enclosing
        cancel scopes. If the task is cancelled, so is the job, and the task goes on when the job has ended.
        `device` is the name of one of the runtime's devices, for all that the job launches; without it each
        launch goes where it is done first. `predicted_s` tells the policy how many device seconds the job
        will take.

        Raises Overloaded, RuntimeClosed, WrongContext, DeviceError, DeviceLost; JobCancelled if somebody else
        cancelled the job.
        """
        make = partial(make_coroutine, fn, args, verb="runtime.run")
        waiter = Waiter(self._engine.host)
        start = self._start(
            make, name=function_name(fn), device=device, predicted_s=predicted_s, waiter=waiter
        )
        return await outcome(self._engine, await start, waiter)  # no name for the job: see outcome()

    @protected
    async def _tidy(self, fn: Callable[[*Args], Coroutine[Any, Any, T]], *args: *Args) -> T:
        """Run a job that launches nothing, on a fenced device, too."""
        make = partial(make_coroutine, fn, args, verb="runtime.run")
        waiter = Waiter(self._engine.host)
        start = self._start(
            make, name=function_name(fn), device=None, predicted_s=0.0, waiter=waiter, launches=False
        )
        return await outcome(self._engine, await start, waiter)

    def start(
        self,
        fn: Callable[[*Args], Coroutine[Any, Any, T]],
        *args: *Args,
        device: str | None = None,
        predicted_s: float = 0.0,
    ) -> JobHandle[T]:
        """`async with runtime.start(fn, *args) as job:` runs a job beside the block; like `run` otherwise."""
        make = partial(make_coroutine, fn, args, verb="runtime.start")
        return JobHandle(
            partial(self._start, make, name=function_name(fn), device=device, predicted_s=predicted_s)
        )

    def stream(
        self,
        fn: Callable[[*Args], AsyncGenerator[T, None]],
        *args: *Args,
        buffer: int = 16,
        device: str | None = None,
        predicted_s: float = 0.0,
    ) -> Stream[T]:
        """Run an async generator as a job: `async for item in runtime.stream(fn, *args)`; see Stream.

        `buffer` items at most are kept; the job waits for room. Best inside `async with`, or closed with
        `aclose()`.
        """
        return Stream(self, fn, args, buffer=buffer, device=device, predicted_s=predicted_s)

    async def load_model(self, name_or_path: str | os.PathLike[str], **options: Any) -> LLM:
        """Load a language model or an encoder: a name from the catalogue, or the path of a GGUF file.

        `context=` is for how many tokens it is loaded; by default what the file says, up to 32,768.
        `kv_bits=8` keeps keys and values in int8, half the memory. With `prefix_reuse=False` each prompt is
        read anew; else what begins like another prompt that is in memory is not. Close the model, or use it
        with `async with`; it is closed with the runtime at the latest.

        It is loaded for the first open device that models run on ("cpu" or "gpu"); on others with a memory of
        their own it may go on (`LLM.places`), when one is lost or `LLM.places.chooser` says so, and is loaded
        there then. `devices=` names those that it may use, the first one first; `device=` pins it to one.
        `prefill_on=` is the NPU or the GPU that reads all prompts for a CPU. An encoder stays on the first
        device.

        If the memory budget is spent, it waits for it while jobs are using what it needs. A model that
        neither a job nor an open conversation uses may be unloaded for others; its next use loads it again.

        Raises ModelNotFound, ModelFileError, UnsupportedModel, MemoryBudgetExceeded, ContextOverflow;
        DeviceError if no such device is open, DeviceLost if it is lost meanwhile.
        """
        # beside the loop: importing it takes half a second the first time
        module = await anyio.to_thread.run_sync(import_module, "coro_rt.llm.model")
        llm: LLM = await module.load_model(self, name_or_path, **options)
        return llm

    @property
    def closed(self) -> bool:
        """Whether its block has been left, or is being left."""
        return self._engine.closing

    def stats(self) -> Stats:
        """Counts since it was opened, and what there is now."""
        return self._engine.stats(memory_used=self.memory.used, memory=self._residency.usage())

    def snapshot(self, *, limit: int = 64) -> Snapshot:
        """Devices, queues and jobs at this moment; from any thread.

        Of the ready jobs of each device it names the first `limit`, of the waiting ones as many, and counts
        the rest, so that it takes bounded time.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(f"limit is a whole number, zero or more, not {limit!r}")
        return take(self._engine, self._residency, limit=limit)

    def jobs(self, wanted: str, *, limit: int = 16) -> list[Job[Any]]:
        """The jobs that have not ended with a name, or the one with an id as in a snapshot; the oldest
        `limit`. From any thread; looks at all jobs, without holding anything up."""
        found = (job for job in list(self._engine.jobs) if wanted in (job.name, str(job.entry.id)))
        return list(islice(found, limit))

    def set_policy(self, policy: PolicyLike) -> None:
        """Change the policy; what is waiting is ordered anew. Raises SchedulerError, and changes nothing, if
        it cannot be taken."""
        self._engine.set_policy(policy)

    def set_power(self, state: PowerState) -> None:
        """Tell the policy what the machine runs on and how warm it is; from any thread.

        For where coro_rt cannot read it: what it reads later replaces this.
        """
        self._engine.set_power(state)

    def explain(self, job: Job[Any] | JobHandle[Any] | Stream[Any]) -> Explanation:
        """Why a job runs or waits, who goes before it and who ran instead; `str()` of it is a sentence.

        Takes bounded time: of many jobs the first are named. From any thread.
        """
        found = job if isinstance(job, Job) else job.job
        if found is None:
            raise RuntimeError("this stream has not started: there is nothing to explain")
        return self._engine.explain(found)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The open devices; jobs begin on the first unless they say otherwise, or, as long as that is fenced,
        on the next of its kind."""
        return tuple(worker.device for worker in self._engine.workers.values())

    @property
    def clock(self) -> Clock:
        """What it reads the time from, in seconds."""
        return self._engine.clock

    @protected
    async def _start(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        *,
        name: str,
        device: str | None,
        predicted_s: float,
        outlet: Outlet[Any] | None = None,
        waiter: Waiter | None = None,
        batch: Batch | None = None,
        launches: bool = True,
    ) -> Job[T]:
        """Make a job, and submit it as soon as there is room for it; `waiter` is delivered when it ends.

        `batch`: of the launches that it will bring, if that is known. Without `launches` a fenced device will
        do.
        """
        engine = self._engine
        host = engine.host
        if engine.closing:
            raise RuntimeClosed(f"{name} was not started: the runtime is closed")
        host.check()
        urgency = current_urgency.get()
        within_s = min(urgency.within_s(), host.within_s())
        if within_s == -math.inf:  # cancelled already
            await host.checkpoint()
        worker = engine.first_worker() if device is None else engine.workers.get(device)
        if worker is None:
            opened = ", ".join(engine.workers)
            raise DeviceError(f"no device {device!r} is open, only {opened}: see open_runtime(devices=...)")
        engine.expect(worker)
        coro = make()
        try:
            deadline, task = engine.clock() + within_s, host.task_name()
            job: Job[T] = Job(
                engine, worker, coro, name, urgency, urgency.level, deadline, device, None, task, predicted_s
            )
            job.outlet = outlet
            if waiter is not None:
                job.waiters = [waiter]
            job.entry.batch = batch
            ticket = engine.submit(job, launches=launches)
            if ticket is not None:

                def on_cancel() -> bool:
                    engine.give_up(ticket)
                    return True

                interrupted = await host.wait(ticket.waiter, on_cancel)
                if interrupted is not None:
                    engine.give_up(ticket)
                    interrupted()
                engine.submit_admitted(job, launches=launches)
        except BaseException:
            coro.close()
            raise
        return job


class open_runtime:
    """`async with open_runtime() as runtime:` opens devices and starts their workers.

    However the block is left: all jobs are cancelled and waited for, all threads are joined.

    - `policy`: "dynamic", "fair", "eevdf", "strict", "fifo", "mlfq", "edf", "laxity", "powersave", the name
      of an installed one (entry points in the group "coro_rt.policies"), a `Policy` of your own, or a path
      "package.module:Class"
    - `devices`: names or Device objects, ["cpu"] if None; jobs begin on the first unless they say otherwise,
      and what they launch goes to whichever is done with it first
    - `profile`: whether what kernels take on several devices is kept for later runs, or a folder for that;
      None: in the user's cache folder, unless the environment variable CORO_RT_PROFILE is 0 or there is a
      `clock`
    - `threads`: how many the CPU's kernels use; by default what affinity and the cgroup's quota allow
    - `memory`: the budget of models and their caches, in bytes or like "1GiB"; None: unlimited
    - `parking`: how much of that is for sequences that had to give way to more urgent ones; what does not fit
      there goes into a temporary file, private and without a name, in the folder that TMPDIR says
    - `shares`: the tenants' weights; 1 for those not named
    - `background_share`: the part of each device that background work gets at least, while there is some
    - `max_wait_s`: who has been ready for longer than this goes next
    - `max_jobs`, `on_full`: when there are that many, asking for one more waits (the most urgent come in
      first) or raises Overloaded
    - `record`: a file to write a trace to, of what the scheduler is asked and decides (docs/traces.md);
      compressed if it ends in ".gz"
    - `instruments`: objects of subclasses of `Instrument`, whose hooks are told what happens
    - `monitor`: whether `coro-rt top`, run by the same user, may look into it; None: as the environment
      variable CORO_RT_MONITOR says, 1 or 0. A Unix socket and a thread that sleeps until asked
    - `energy`: "auto" reads what counts joules here (RAPL, NVML), the battery and heat, now and then and only
      while something runs; what nothing counts is modelled, and marked so, as all is with "modelled"; or a
      `Meter` of your own
    - `clock`: gives seconds, never less than before; `coro_rt.testing.VirtualClock` is one

    Raises DeviceError for a device that there is not, SchedulerError for a policy or share that cannot be
    taken, MonitorError if it cannot be watched although that is asked for, OSError for a trace that cannot be
    written.
    """

    def __init__(
        self,
        *,
        policy: PolicyLike = "dynamic",
        devices: Iterable[str | Device] | None = None,
        threads: int | None = None,
        memory: int | str | None = None,
        parking: int | str = 0,
        shares: Mapping[str, float] | None = None,
        background_share: float = 0.05,
        max_wait_s: float = 10.0,
        max_jobs: int = 100_000,
        on_full: Literal["wait", "raise"] = "wait",
        record: str | os.PathLike[str] | None = None,
        instruments: Iterable[Instrument] = (),
        monitor: bool | None = None,
        profile: bool | str | os.PathLike[str] | None = None,
        energy: Literal["auto", "modelled"] | Meter = "auto",
        clock: Clock | None = None,
    ) -> None:
        if isinstance(max_jobs, bool) or not isinstance(max_jobs, int) or max_jobs < 1:
            raise ValueError(f"max_jobs is a whole number, at least 1, not {max_jobs!r}")
        if on_full not in ("wait", "raise"):
            raise ValueError(f"on_full is 'wait' or 'raise', not {on_full!r}")
        if isinstance(devices, str):
            raise TypeError(f"devices is a list of names or devices, not {devices!r}: use [{devices!r}]")
        self._devices = ["cpu"] if devices is None else list(devices)
        if not self._devices:
            raise DeviceError("devices is empty: name at least one, or leave it out for the CPU")
        if not isinstance(energy, Meter) and energy not in ("auto", "modelled"):
            raise ValueError(f"energy is 'auto', 'modelled' or a Meter, not {energy!r}")
        self._energy = energy
        self._meter: Meter | None = None  # found, so to be closed
        self._threads = threads
        self._monitored = _monitored() if monitor is None else monitor
        self._monitor: Monitor | None = None
        self._memory = MemoryBudget(memory)
        found = list(instruments)
        self._instruments = Instruments(found) if found else None
        self._make_residency = partial(
            Residency,
            budget=self._memory,
            area_bytes=parse_bytes(parking),
            patience_s=max_wait_s,
            may_wait=on_full == "wait",
        )
        self._make_engine = partial(
            Engine,
            policy=policy,
            shares=shares,
            background_share=background_share,
            max_wait_s=max_wait_s,
            max_jobs=max_jobs,
            raise_when_full=on_full == "raise",
            record=record,
            instruments=self._instruments,
            profiles=_profiles(profile, kept=clock is None),
            clock=clock or time.perf_counter,
        )
        self._engine: Engine | None = None

    @protected
    async def __aenter__(self) -> Runtime:
        if self._engine is not None:
            raise RuntimeError("this runtime was opened already: call open_runtime() again")
        host = current_host()
        devices = [open_device(device, threads=self._threads) for device in self._devices]
        engine = self._make_engine(host, devices)
        residency = self._make_residency(engine)
        runtime = Runtime(engine, residency)
        try:
            if self._instruments is not None:
                for opened in self._instruments.hooks["runtime_opened"]:
                    opened(runtime)
            engine.start_workers(self._find_meter(devices))
            if self._monitored:
                from coro_rt.monitor.server import Monitor  # here: most runtimes are not watched

                self._monitor = Monitor(runtime)
            engine.host_tasks = anyio.create_task_group()
            await engine.host_tasks.__aenter__()
        except BaseException:
            self._close_monitor()
            engine.stop_workers()
            self._close_meter()
            host.close()
            raise
        self._engine, self._residency = engine, residency
        engine.on_fenced = residency.device_fenced
        self._clock_token = runtime_clock.set(engine.clock)
        return runtime

    @protected
    async def __aexit__(self, exc_type: object, exc: BaseException | None, _: object) -> None:
        engine = self._engine
        assert engine is not None
        if engine.host.forked():  # there are no threads in the child process, and the jobs are the parent's
            return
        engine.host.check()
        with suppress(ValueError):  # left in another context than it was entered in
            runtime_clock.reset(self._clock_token)
        waiter = Waiter(engine.host)
        engine.close(waiter)
        interrupted = await engine.host.wait(waiter, lambda: False)
        self._close_monitor()  # now: who does not come to an end can be seen
        engine.stop_workers()
        self._close_meter()
        self._residency.close()
        # Its tasks' errors went to their jobs. Without the block's exception it adds none of its own, and
        # wraps nothing.
        await engine.host_tasks.__aexit__(None, None, None)
        engine.host.close()
        if interrupted is not None and exc is None:
            interrupted()

    def _find_meter(self, devices: list[Device]) -> Meter:
        if isinstance(self._energy, Meter):
            return self._energy
        if self._energy == "modelled":
            return Meter()
        self._meter = Meter.find(device.kind for device in devices)
        return self._meter

    def _close_meter(self) -> None:
        if self._meter is not None:
            self._meter.close()

    def _close_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.close()


def _profiles(profile: bool | str | os.PathLike[str] | None, *, kept: bool) -> str | os.PathLike[str] | None:
    """The folder to keep profiles in; None: nowhere. Raises ValueError."""
    if profile is None:
        value = os.environ.get("CORO_RT_PROFILE", "1")
        if value not in ("", "0", "1"):
            raise ValueError(f"CORO_RT_PROFILE is 1 or 0, not {value!r}")
        profile = kept and value == "1"
    if isinstance(profile, bool):
        return profile_folder() if profile else None
    return profile


def _monitored() -> bool:
    """What the environment says. Raises MonitorError."""
    value = os.environ.get("CORO_RT_MONITOR", "")
    if value not in ("", "0", "1"):
        raise MonitorError(f"CORO_RT_MONITOR is 1 or 0, not {value!r}")
    return value == "1"
