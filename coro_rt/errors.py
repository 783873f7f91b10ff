"""Every error that coro_rt raises, named for the situation. A message says what came, what was expected, what
to do.
"""

from typing import Any

from coro_rt.schedulers.errors import DeadlockError, SchedulerError

__all__ = [
    "Cancelled",
    "ContextOverflow",
    "CoroRtError",
    "DeadlockError",
    "DeviceError",
    "DeviceLost",
    "DownloadError",
    "EnergyError",
    "HostObjectError",
    "JobCancelled",
    "KernelError",
    "MemoryBudgetExceeded",
    "ModelError",
    "ModelFileError",
    "ModelNotFound",
    "MonitorError",
    "Overloaded",
    "QuantizeError",
    "RuntimeClosed",
    "SamplingError",
    "SchedulerError",
    "TemplateError",
    "TraceFileError",
    "UnsupportedModel",
    "WrongContext",
]


class Cancelled(BaseException):
    """Thrown into a job at its `await` when the scope that asked for it is cancelled; again at every further
    `await`.

    Clean up in `finally` and let it pass. It never reaches the task, which gets its own host's cancellation.
    """


class CoroRtError(Exception):
    """The base of all errors below."""


class RuntimeClosed(CoroRtError):
    """The runtime (or the model) has been closed."""


class WrongContext(CoroRtError):
    """Used from another event loop, thread or process than the one that opened it, or outside a job."""


class JobCancelled(CoroRtError):
    """Somebody asks for the result of a job that was cancelled by somebody else, and so has none."""


class Overloaded(CoroRtError):
    """The runtime is full and was opened with `on_full="raise"`."""


class MemoryBudgetExceeded(Overloaded):
    """A model or a sequence does not fit into the memory budget given to `open_runtime`."""


class MonitorError(CoroRtError):
    """A runtime cannot be watched, or the one that is to be watched does not answer."""


class HostObjectError(CoroRtError):
    """A job awaited an object of trio, asyncio or anyio, which only the host's loop can run."""


class KernelError(CoroRtError):
    """A kernel got arguments that it cannot run, or has no implementation for the device."""


class DeviceError(CoroRtError):
    """There is no such device, or it cannot be used here."""


class DeviceLost(DeviceError):
    """A device has failed, and runs no kernels until it has proved to be sound again.

    `device` is its name. `reason`: "lost" (its driver gave up), "hung" (a quantum did not end in time),
    "memory" (it has no room left, whatever the runtime's budget says) or "nan" (what it computes is not
    numbers). A job that catches it may `move_to` another device and go on there.
    """

    def __init__(self, device: str, reason: str, detail: str = "") -> None:
        self.device = device
        self.reason = reason
        self.detail = detail
        what = f": {detail}" if detail else ""
        super().__init__(
            f"the device {device!r} {_REASONS[reason]}{what}. It runs no kernels until it answers rightly "
            "again: go on elsewhere, `await move_to(...)` in a job or `device=` for a new one"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.device, self.reason, self.detail)


_REASONS = {
    "lost": "is lost",
    "hung": "hung",
    "memory": "has run out of its own memory",
    "nan": "gave what is not numbers",
}


class EnergyError(CoroRtError):
    """Energy, the battery or heat cannot be read here, or not so. Says how it could be."""


class ModelError(CoroRtError):
    """The base of the errors about models."""


class ModelNotFound(ModelError):
    """No model of that name, and no such file."""


class ModelFileError(ModelError):
    """The file is not a GGUF file, is truncated, or contradicts itself."""


class UnsupportedModel(ModelError):
    """A sound file with an architecture, a tensor format or a tokenizer that coro_rt does not know."""


class DownloadError(ModelError):
    """A model could not be fetched, or what came is not what was promised."""


class ContextOverflow(ModelError):
    """The prompt is longer than the model's context."""


class TemplateError(ModelError):
    """The chat template is broken, oversteps its limits, or tries to leave its sandbox."""


class SamplingError(ModelError, ValueError):
    """A sampling parameter is out of range."""


class QuantizeError(ModelError, ValueError):
    """A model cannot be quantized so: it already is, the type is unknown, or its values do not fit the
    type.
    """


class TraceFileError(CoroRtError):
    """A trace or a workload file that is none, or is damaged, or does not fit together. Says where."""
