"""The ways to run an assistant's jobs that are compared. The jobs are the same coroutines in all of them.

coro_rt has one worker for the device, which switches between the jobs. A *thread per task* has a worker,
which is an OS thread, for each job: the job's launches run in that thread, with the GIL released, and the
operating system decides who runs. A *pool* has some threads; a job waits, in the order of coming, until one
is free, and keeps it to its end.

To be fair to threads: they are started beforehand and warm; a worker with one job decides nothing and only
steps it; each runs its kernels alone (several threads to a kernel, in every one of many threads, would only
be in each other's way), while coro_rt's gang has all CPUs; and one of the ways lowers the background's
threads with `nice`, which is the nearest that threads have to priorities.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import anyio

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.devices.cpu import CpuDevice, usable_cpus

if TYPE_CHECKING:
    from coro_rt.llm.model import LLM
    from coro_rt.stream import Stream

NICE = 10  # by so much are the background's threads lowered: a tenth of the weight

LOWEST = 19


class Placing(Enum):
    """On which thread a job runs."""

    WORKER = "the device's one worker"
    OWN_THREAD = "a thread of its own"
    POOL = "a thread of a pool"


@dataclass(frozen=True, slots=True)
class Driver:
    """One way. `policy` matters to coro_rt's alone."""

    key: str
    short: str
    title: str
    placing: Placing
    policy: str = "fifo"
    lowers_background: bool = False

    @property
    def is_ours(self) -> bool:
        return self.placing is Placing.WORKER


DRIVERS = (
    Driver("threads", "threads", "a thread per task", Placing.OWN_THREAD),
    Driver(
        "threads, nice", "threads, nice", "a thread per task, background niced", Placing.OWN_THREAD,
        lowers_background=True,
    ),
    Driver("pool", "thread pool", "a thread pool", Placing.POOL),
    Driver("fair", "coro_rt, fair", "coro_rt, fair", Placing.WORKER, "fair"),
    Driver("dynamic", "coro_rt, dynamic", "coro_rt, dynamic", Placing.WORKER, "dynamic"),
)  # fmt: skip


class Driven:
    """A runtime opened in the way of a driver, with a model on it."""

    def __init__(self, driver: Driver, runtime: Runtime, llm: LLM) -> None:
        self.driver, self.runtime, self.llm = driver, runtime, llm
        threads = _Threads([device.name for device in runtime.devices])
        self._background = self._urgent = threads
        if driver.lowers_background:
            self._urgent = _Threads(threads.names[:1])
            self._background = _Threads(threads.names[1:])

    async def lower(self) -> None:
        """Lower the threads of the background, if the driver does that."""
        if self.driver.lowers_background:
            for device in self._background.names:
                await self.runtime.run(_lower_this_thread, device=device)

    @asynccontextmanager
    async def generate(
        self, prompt: list[int], *, urgent: bool, max_tokens: int
    ) -> AsyncIterator[Stream[Any]]:
        """A stream of the model's tokens after `prompt`, on the thread that the driver has for it."""
        options: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": True}
        with qos(QoS.USER_INTERACTIVE if urgent else QoS.BACKGROUND):
            if self.driver.is_ours:
                async with self.llm.generate(prompt, **options) as stream:
                    yield stream
                return
            async with (
                (self._urgent if urgent else self._background).one() as device,
                self.llm.generate(prompt, device=device, **options) as stream,
            ):
                yield stream


class _Threads:
    """Devices with a thread each; who asks first gets the first that is free."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._free = list(names)
        self._available = anyio.Semaphore(len(names))

    @asynccontextmanager
    async def one(self) -> AsyncIterator[str]:
        async with self._available:
            device = self._free.pop()
            try:
                yield device
            finally:
                self._free.append(device)


async def _lower_this_thread() -> None:
    with suppress(OSError):  # on Linux, of the calling thread alone: the worker's
        os.setpriority(os.PRIO_PROCESS, 0, min(LOWEST, os.getpriority(os.PRIO_PROCESS, 0) + NICE))


@asynccontextmanager
async def driven(
    driver: Driver, model: str | os.PathLike[str], jobs: int, **options: Any
) -> AsyncIterator[Driven]:
    """Open a runtime in the way of a driver, for `jobs` jobs at a time, and load the model."""
    if not driver.is_ours:
        threads = jobs if driver.placing is Placing.OWN_THREAD else min(jobs, pool_size())
        options["devices"] = [CpuDevice(name=f"thread-{at + 1}", threads=1) for at in range(threads)]
    async with (
        open_runtime(policy=driver.policy, **options) as runtime,
        await runtime.load_model(model, prefix_reuse=False) as llm,
    ):
        found = Driven(driver, runtime, llm)
        await found.lower()
        yield found


def pool_size() -> int:
    """What `ThreadPoolExecutor()` takes when nothing is said."""
    return min(32, usable_cpus() + 4)
