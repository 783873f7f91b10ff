"""coro_rt runs quantized language models, and any other kernels, as prioritised, preemptible coroutine jobs
on trio and asyncio.

    async with coro_rt.open_runtime() as runtime:
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            result = await runtime.run(job, *args)

See the README for more, and docs/design.md for how it works.
"""

from coro_rt._version import __version__
from coro_rt.devices.base import Device
from coro_rt.energy.account import DeviceEnergy
from coro_rt.energy.meter import Meter
from coro_rt.errors import (
    Cancelled,
    ContextOverflow,
    CoroRtError,
    DeadlockError,
    DeviceError,
    DeviceLost,
    DownloadError,
    EnergyError,
    HostObjectError,
    JobCancelled,
    KernelError,
    MemoryBudgetExceeded,
    ModelError,
    ModelFileError,
    ModelNotFound,
    MonitorError,
    Overloaded,
    QuantizeError,
    RuntimeClosed,
    SamplingError,
    SchedulerError,
    TemplateError,
    TraceFileError,
    UnsupportedModel,
    WrongContext,
)
from coro_rt.handle import JobHandle
from coro_rt.instruments import Instrument
from coro_rt.job import Job
from coro_rt.kernel import Kernel, Launch, kernel
from coro_rt.ledger import Ledger
from coro_rt.memory import MemoryBudget, MemoryUse, Reservation
from coro_rt.on_host import on_host
from coro_rt.qos import qos
from coro_rt.runtime import Runtime, open_runtime
from coro_rt.schedulers.explanation import Explanation
from coro_rt.schedulers.policy import Policy
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.snapshot import DeviceSnapshot, JobSnapshot, Snapshot
from coro_rt.stats import Stats
from coro_rt.stream import Outlet, Stream
from coro_rt.sync import Event, Lock
from coro_rt.trace.events import TraceEvents
from coro_rt.traps import checkpoint, current_job, move_to, sleep, spawn

__all__ = [
    "Cancelled",
    "ContextOverflow",
    "CoroRtError",
    "DeadlockError",
    "Device",
    "DeviceEnergy",
    "DeviceError",
    "DeviceLost",
    "DeviceSnapshot",
    "DownloadError",
    "EnergyError",
    "Event",
    "Explanation",
    "HostObjectError",
    "Instrument",
    "Job",
    "JobCancelled",
    "JobHandle",
    "JobSnapshot",
    "Kernel",
    "KernelError",
    "Launch",
    "Ledger",
    "Lock",
    "MemoryBudget",
    "MemoryBudgetExceeded",
    "MemoryUse",
    "Meter",
    "ModelError",
    "ModelFileError",
    "ModelNotFound",
    "MonitorError",
    "Outlet",
    "Overloaded",
    "Policy",
    "PowerState",
    "QoS",
    "QuantizeError",
    "Reservation",
    "Runtime",
    "RuntimeClosed",
    "SamplingError",
    "SchedulerError",
    "Snapshot",
    "Stats",
    "Stream",
    "TemplateError",
    "TraceEvents",
    "TraceFileError",
    "UnsupportedModel",
    "WrongContext",
    "__version__",
    "checkpoint",
    "current_job",
    "kernel",
    "move_to",
    "on_host",
    "open_runtime",
    "qos",
    "sleep",
    "spawn",
]
