"""What a model has on one device, whatever it computes: its jobs, its pace, and a program that is there when
needed.

A model that nobody uses may be unloaded when others need its memory; the next job that works with it loads
it again, and further ones wait for that job, lending it their urgency. Models are loaded one at a time, the
most urgently needed first; the loading itself runs in a thread of its own and is as fast for all.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import anyio.to_thread

from coro_rt.devices.base import Device
from coro_rt.devices.cpu import CpuDevice
from coro_rt.errors import DeviceError, DeviceLost, RuntimeClosed
from coro_rt.job import Job
from coro_rt.kernels.workspace import Widths, Workspace
from coro_rt.memory.budget import Kind, Reservation
from coro_rt.memory.holders import Holder
from coro_rt.memory.residency import Residency
from coro_rt.on_host import on_host
from coro_rt.schedulers.pace import Pace
from coro_rt.sync import Event
from coro_rt.traps import current_job

from .gguf_file import GGUFFile

__all__ = ["Loaded", "Words", "closed_error"]

WORD_BYTES = 512
"""What a tokenizer takes for each token it knows: 441 were measured for 49,152 tokens with their merges."""


class Words:
    """What a model's vocabulary takes: held from the first load of any of its copies until all are closed."""

    def __init__(self, tokens: int) -> None:
        self._nbytes = tokens * WORD_BYTES
        self._held: Reservation | None = None

    @property
    def missing(self) -> int:
        """Bytes to be held yet."""
        return self._nbytes if self._held is None else 0

    def hold(self, grant: Reservation) -> None:
        """Take what is missing from `grant`."""
        if self.missing:
            self._held = grant.split(self.missing, Kind.OTHER)

    def release(self) -> None:
        if self._held is not None:
            self._held.release()


class Loaded:
    """`jobs` are those that work with it now. Its program, of `nbytes`, is made from the file, which whoever
    opened it keeps open. Subclasses have `build`, and other devices than the CPU also programs and workspaces
    of their own.
    """

    def __init__(
        self,
        device: Device,
        file: GGUFFile,
        nbytes: int,
        widths: Widths,
        words: Words,
        context: int,
        residency: Residency,
    ) -> None:
        self.context, self.name = context, file.path.stem
        self.device, self.file = device, file
        self.residency = residency
        self.pace = Pace()
        self.jobs: set[Job[Any]] = set()
        self.conversations: WeakSet[Any] = WeakSet()  # that are open
        self.closed = False
        self.lost: DeviceLost | None = None  # its device is, and with it what was there
        self._program: Any = None
        self._epoch = device.epoch  # when the program was made
        self._gate = threading.Lock()  # between being unloaded and being used, on different devices
        self._nbytes, self._widths = nbytes, widths
        self._threads = device.threads if isinstance(device, CpuDevice) else 1
        self._weights: Reservation | None = None
        self._loading: Event | None = None  # set when the job that loads it has done so, or given up
        self.words = words
        residency.check(words.missing + nbytes, f"the model {file.path.name}")
        file.forget_metadata()

    @property
    def program(self) -> Any:
        """For jobs, inside `in_use`. Raises DeviceLost."""
        self.check_lost()
        assert self._program is not None, f"{self.name} is not loaded"
        return self._program

    def check_lost(self) -> None:
        """Raise DeviceLost if it is."""
        if self.lost is not None:
            raise DeviceLost(self.lost.device, self.lost.reason)

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """For a job: have it loaded, and be among its `jobs`. Raises RuntimeClosed if it has been closed,
        DeviceLost if its device is fenced, and what loading raises.
        """
        if self.closed:
            raise closed_error(self.name)
        self.check_lost()
        job = current_job()
        with self._gate:
            self.jobs.add(job)
        self.residency.models.pop(self, None)
        self.residency.models[self] = None
        try:
            while True:
                self.check_lost()
                self._check_device()
                if self._program is not None and not self._outdated:
                    break
                if self._loading is not None:
                    await self._loading.wait()
                else:
                    await self._load(job)
            yield
        finally:
            self.jobs.discard(job)
            if not self.jobs:
                self.idle()
                self.forget_lost()
            self.residency.changed()

    def _check_device(self) -> None:
        if self.device.fenced is not None:
            raise DeviceLost(self.device.name, self.device.fenced)

    def idle(self) -> None:
        """The last job has ended: what was kept for the next one is given back."""

    async def _load(self, job: Job[Any]) -> None:
        self._loading = loading = Event(job)
        if self._outdated:
            self.idle()
            self._drop_weights()
        try:
            async with self.residency.loading:
                what = f"the model {self.file.path.name}"
                weights = await self.residency.room(what, lambda: self.missing_bytes, Kind.WEIGHTS)
                self.words.hold(weights)
                try:
                    # not abandoned on cancel: the thread ends within a second, and then its memory goes
                    made: list[Any] = []  # not returned: a worker thread keeps its last result alive
                    self._epoch = self.device.epoch
                    try:
                        await on_host(partial(anyio.to_thread.run_sync, self._read, made))
                    except DeviceError:
                        self._check_device()  # it failed meanwhile
                        raise
                    with self._gate:
                        self.check_lost()
                        self._program, self._weights = made.pop(), weights
                finally:
                    if self._weights is not weights:
                        weights.release()
        finally:
            self._loading = None
            loading.set()

    def _read(self, made: list[Any]) -> None:
        if isinstance(self.device, CpuDevice):
            _ = self.device.gang  # compiled here at the latest, where it delays no job
        made.append(self.build())

    def build(self) -> Any:
        """The program, made from the file. ModelFileError, UnsupportedModel for what it cannot be made of."""
        raise NotImplementedError

    @property
    def kept(self) -> bool:
        return bool(self.conversations)

    @property
    def weight_bytes(self) -> int:
        return 0 if self._program is None else self._nbytes

    @property
    def missing_bytes(self) -> int:
        """What loading it takes now; 0 if it is loaded."""
        return 0 if self._program is not None else self.words.missing + self._nbytes

    def unload(self) -> None:
        """Give the weights' memory back, unless somebody has come to use them."""
        with self._gate:
            if not self.jobs and not self.kept:
                self._drop_weights()

    @property
    def _outdated(self) -> bool:
        """Whether what its device holds for it is lost."""
        device = self.device
        return self._epoch != device.epoch or (device.fenced is not None and not device.remembers)

    def check_there(self) -> None:
        """For jobs, inside `in_use`, after a wait that was not a launch's. Raises DeviceLost if what its
        device held for it is lost, though that may be back.
        """
        if self._outdated:
            reason = self.device.fenced or "lost"
            raise DeviceLost(self.device.name, reason, f"what it held of {self.name} is gone")

    def forget_lost(self) -> None:
        """See `Unloadable`."""
        with self._gate:
            if not self.jobs and self._outdated:
                self.idle()
                self._drop_weights()

    def _drop_weights(self) -> None:
        program, self._program = self._program, None
        if hasattr(program, "release"):  # what it has on its device goes now, whoever still knows it
            program.release()
        weights, self._weights = self._weights, None
        if weights is not None:
            weights.release()

    def abandon(self, lost: DeviceLost) -> None:
        """Its device is lost: forget what was there, without touching the device. Jobs that still work with
        it get DeviceLost at their next step; it is never loaded again. From any thread.
        """
        self.residency.models.pop(self, None)
        with self._gate:
            self.lost = self.lost or lost
            self._forget()
        self.residency.changed()

    def _forget(self) -> None:
        """Under the gate: the program goes without being released."""
        self._program = None
        weights, self._weights = self._weights, None
        if weights is not None:
            weights.release()

    def spare_bytes(self, holder: Holder | None) -> int:
        """See `Unloadable`."""
        return 0

    def drop_spare(self, holder: Holder | None) -> None:
        """Nothing is spare."""

    def close(self) -> None:
        """No job can begin to work with it from now on."""
        self.closed = True

    def lose(self) -> None:
        """From a `__del__`: nobody has it any more."""
        self.closed = True
        self.residency.models.pop(self, None)
        self._drop_weights()
        self.words.release()

    def give_back(self) -> None:
        """It is closed, and its jobs have ended: give all memory back."""
        self.lose()
        self.residency.changed()

    def workspace_bytes(self, rows: int, tail: int) -> int:
        """What `new_workspace` takes."""
        return Workspace.nbytes_of(self._widths, rows=rows, tail=tail, threads=self._threads)

    def new_workspace(self, rows: int, tail: int) -> Any:
        """Buffers for steps of up to `rows` tokens, with logits for the last `tail`."""
        return Workspace(self._widths, rows=rows, tail=tail, threads=self._threads)


def closed_error(name: str) -> RuntimeClosed:
    return RuntimeClosed(f"the model {name} has been closed: load it again with runtime.load_model()")
