"""The GPU: a worker's thread submits quanta and waits for them; at most two are in flight.

Waiting costs neither the GIL nor a core: the package's own thread blocks in the driver, the worker on an
event. A quantum is one submission, some operations of a program; `preempt_requested` is read between them.
When `run` returns, nothing of the step is in flight, so what a job used is booked to that job.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coro_rt.devices.base import Device, checked_watchdog
from coro_rt.errors import DeviceError, DeviceLost
from coro_rt.memory import format_bytes

from . import adapter as adapters
from .pipelines import Pipelines, has_packed_dot

if TYPE_CHECKING:
    from .program import GpuProgram
    from .workspace import GpuWorkspace

IN_FLIGHT = 2
_FEATURES = ("timestamp-query",)


@dataclass(slots=True)
class Counts:
    """What the device has done since it was started."""

    submissions: int = 0
    dispatches: int = 0
    busy_s: float = 0.0


class GpuDevice(Device):
    """`adapter`: a part of the name of the one to use; None: the best. `max_binding`: bytes of a binding, to
    make matrices come in pieces sooner than the adapter asks for. `quantum_s`: what a submission aims at;
    one that takes `watchdog_s` hangs.
    """

    kind = "gpu"
    times_quanta = True

    def __init__(
        self,
        *,
        name: str = "gpu",
        adapter: str | None = None,
        max_binding: int | None = None,
        quantum_s: float = 0.003,
        watchdog_s: float = 30.0,
    ) -> None:
        self.name, self.quantum_s = name, quantum_s
        self.watchdog_s = checked_watchdog(watchdog_s)
        self.counts = Counts()
        self._adapter_name, self._max_binding = adapter, max_binding
        self._adapter: Any = None
        self._device: Any = None
        self._pipelines: Pipelines | None = None
        self._timer: _Timer | None = None
        self._fences: list[Any] = []
        self._preempt = False

    @property
    def adapter(self) -> Any:
        """The `wgpu` adapter. Raises DeviceError if there is none."""
        if self._adapter is None:
            self._adapter = adapters.find(self._adapter_name)
        return self._adapter

    @property
    def detail(self) -> str:
        limits, features = self.adapter.limits, self.adapter.features
        has = [name for name in ("subgroup", "shader-f16", "timestamp-query") if name in features]
        binding = format_bytes(limits["max-storage-buffer-binding-size"])
        extras = ", ".join(has) or "no extra features"
        return f"{adapters.describe(self.adapter)}; bindings up to {binding}; {extras}"

    @property
    def hardware(self) -> str:
        return str(self.adapter.info["device"])

    @property
    def device(self) -> Any:
        """The `wgpu` device. Raises DeviceError unless it is started."""
        if self._device is None:
            raise DeviceError(f"the device {self.name!r} is not started, or was closed")
        return self._device

    @property
    def pipelines(self) -> Pipelines:
        if self._pipelines is None:
            self._pipelines = Pipelines(self.device, packed_dot=has_packed_dot(self.device))
        return self._pipelines

    @property
    def max_binding(self) -> int:
        """Bytes that a kernel can see of one buffer."""
        limit = int(self.device.limits["max-storage-buffer-binding-size"])
        return min(limit, self._max_binding or limit)

    def start(self) -> None:
        limits = self.adapter.limits
        wanted = ("max-storage-buffer-binding-size", "max-buffer-size")
        try:
            self._device = self.adapter.request_device_sync(
                required_features=[name for name in _FEATURES if name in self.adapter.features],
                required_limits={name: limits[name] for name in wanted},
            )
        except Exception as error:
            raise DeviceError(f"{adapters.describe(self.adapter)} could not be opened: {error}") from error
        if "timestamp-query" in self._device.features:
            self._timer = _Timer(self._device)

    def close(self) -> None:
        device, self._device, self._pipelines, self._timer = self._device, None, None, None
        self._fences.clear()
        if device is not None:
            device.destroy()

    def reopen(self) -> None:
        self._adapter = None  # the driver may have been restarted
        super().reopen()

    def sound(self) -> bool:
        from coro_rt.devices.known_answer import answers_rightly

        from .single import OnGpu

        return answers_rightly(OnGpu(self))

    def preempt(self) -> None:
        self._preempt = True

    def preempt_requested(self) -> bool:
        return self._preempt

    def clear_preempt(self) -> None:
        self._preempt = False

    # Memory

    def buffer(self, nbytes: int) -> Any:
        """A buffer of zeros on the device, a whole number of 16 bytes.

        Raises DeviceLost. Its reason is "memory" when the device has no room for it: who asked may need less,
        so the device is not fenced yet.
        """
        import wgpu

        usage = wgpu.BufferUsage
        try:
            return self.device.create_buffer(
                size=-(-max(nbytes, 1) // 16) * 16,
                usage=usage.STORAGE | usage.UNIFORM | usage.COPY_DST | usage.COPY_SRC,
            )
        except wgpu.GPUOutOfMemoryError as error:
            detail = f"it has no {format_bytes(nbytes)} left; close what is not needed there"
            raise DeviceLost(self.name, "memory", detail) from error
        except wgpu.GPUError as error:
            raise self.lose("lost", f"a buffer could not be made: {error}") from error

    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        """A buffer with what an array holds; it is on the device before anything that is submitted later."""
        buffer = self.buffer(array.nbytes)
        self.write(buffer, array)
        return buffer

    def write(self, buffer: Any, array: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Raises DeviceLost."""
        if array.nbytes:
            queue = self.device.queue
            try:
                queue.write_buffer(buffer, offset, np.ascontiguousarray(array))
            except Exception as error:
                raise self._failure("writing failed", error) from error

    def read(self, buffer: Any, nbytes: int) -> np.ndarray[Any, Any]:
        """uint8 [nbytes]: what a buffer holds when everything submitted is done. Waits. Raises DeviceLost."""
        data: np.ndarray[Any, Any] = self.read_parts(buffer, [0], -(-nbytes // 16) * 16)[0, :nbytes]
        return data

    def read_parts(self, buffer: Any, offsets: Sequence[int], nbytes: int) -> np.ndarray[Any, Any]:
        """uint8 [offsets, nbytes]: the same of parts of a buffer, at multiples of 4. Waits. Raises
        DeviceLost."""
        if self._device is None:
            raise DeviceError(f"the device {self.name!r} is not started, or was closed")
        try:
            return self._read(buffer, offsets, nbytes)
        except Exception as error:
            raise self._failure("reading failed", error) from error

    def _read(self, buffer: Any, offsets: Sequence[int], nbytes: int) -> np.ndarray[Any, Any]:
        import wgpu

        usage = wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST
        staging = self.device.create_buffer(size=len(offsets) * nbytes, usage=usage)
        encoder = self.device.create_command_encoder()
        for at, offset in enumerate(offsets):
            encoder.copy_buffer_to_buffer(buffer, offset, staging, at * nbytes, nbytes)
        self.device.queue.submit([encoder.finish()])
        with self.waiting():
            staging.map_sync(wgpu.MapMode.READ)
        data = np.frombuffer(staging.read_mapped(), np.uint8).reshape(len(offsets), nbytes).copy()
        staging.unmap()
        staging.destroy()
        return data

    # Work

    def run(self, program: GpuProgram, workspace: GpuWorkspace, *, slice_s: float = 3600.0) -> bool:
        """Go on with the step that `workspace.begin` set up; True when it is done, False if it gave way.

        It stops submitting when it is asked to give way or `slice_s` is over, and waits for what it has
        submitted. Raises DeviceLost if the device fails; the step can be begun again then, not gone on with.
        """
        in_flight: deque[_Submission] = deque()
        try:
            return self._run(program, workspace, time.perf_counter() + slice_s, in_flight)
        except Exception as error:
            for submission in in_flight:
                with suppress(Exception), self.waiting():
                    submission.promise.sync_wait()
            raise self._failure("a step failed", error) from error

    def _failure(self, what: str, error: Exception) -> DeviceLost:
        """The device has raised something: it is fenced. Gives what is to be raised."""
        import wgpu

        if isinstance(error, DeviceLost):  # it knows
            return error
        full = isinstance(error, wgpu.GPUOutOfMemoryError)
        return self.lose("memory" if full else "lost", f"{what}: {error}")

    def _run(
        self, program: GpuProgram, workspace: GpuWorkspace, end: float, in_flight: deque[_Submission]
    ) -> bool:
        idle_since = 0.0
        while True:
            in_flight.append(self._submit(program, workspace))
            more = workspace.at < len(program.dispatches)
            if len(in_flight) >= IN_FLIGHT or not more:
                idle_since = self._finish(program, in_flight.popleft(), idle_since)
            if not more or self._preempt or time.perf_counter() >= end:
                while in_flight:
                    idle_since = self._finish(program, in_flight.popleft(), idle_since)
                return not more

    def _submit(self, program: GpuProgram, workspace: GpuWorkspace) -> _Submission:
        """Submit the next quantum, and behind it a fence: a few bytes that can be read when it is done."""
        encoder = self.device.create_command_encoder()
        timer = self._timer
        begun = encoder.begin_compute_pass(**({} if timer is None else {"timestamp_writes": timer.writes}))
        count, cost = program.encode(begun, workspace)
        begun.end()
        fence = self._fences.pop() if self._fences else self._new_fence()
        if timer is None:
            encoder.copy_buffer_to_buffer(workspace.step_buffer, 0, fence, 0, 16)
        else:
            encoder.resolve_query_set(timer.queries, 0, 2, timer.resolved, 0)
            encoder.copy_buffer_to_buffer(timer.resolved, 0, fence, 0, 16)
        self.device.queue.submit([encoder.finish()])
        self.counts.submissions += 1
        self.counts.dispatches += count
        return _Submission(fence, fence.map_async("READ"), cost, time.perf_counter())

    def _finish(self, program: GpuProgram, submission: _Submission, idle_since: float) -> float:
        """Wait for a submission, and learn from what it took. Gives when it was done."""
        with self.waiting():
            submission.promise.sync_wait()
        now = time.perf_counter()
        seconds = now - max(submission.since, idle_since)
        if self._timer is not None:
            begin, end = np.frombuffer(submission.fence.read_mapped(), np.uint64)
            if end > begin:  # else the driver's clock is of no use
                seconds = float(end - begin) * 1e-9
        submission.fence.unmap()
        self._fences.append(submission.fence)
        self.counts.busy_s += seconds
        program.learn(submission.cost, seconds)
        return now

    def _new_fence(self) -> Any:
        import wgpu

        return self.device.create_buffer(size=16, usage=wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST)


class _Timer:
    """Two time stamps, around a submission: read back in the order of submissions, so one pair is enough."""

    def __init__(self, device: Any) -> None:
        import wgpu

        self.queries = device.create_query_set(type=wgpu.QueryType.timestamp, count=2)
        usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
        self.resolved = device.create_buffer(size=16, usage=usage)
        self.writes = {
            "query_set": self.queries,
            "beginning_of_pass_write_index": 0,
            "end_of_pass_write_index": 1,
        }


@dataclass(frozen=True, slots=True)
class _Submission:
    fence: Any
    promise: Any
    cost: float
    since: float
