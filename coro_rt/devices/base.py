"""What a device is: something that runs kernels for one worker, and can be asked to stop between quanta."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from coro_rt.parker import Clock, Parker


class Device(ABC):
    """Subclass it for a device of your own. All but `preempt` is called by one worker, or before it starts
    and after it ended."""

    name: str  # unique in a runtime
    kind: str  # which of a kernel's implementations run on it
    watts: float = 0.0  # while a kernel runs; counts where nothing measures. 0: nobody knows

    @property
    def detail(self) -> str:
        """A line for people."""
        return ""

    @property
    def hardware(self) -> str:
        """Its maker's name for it, as the system has it; "" where there is none."""
        return ""

    def missing(self) -> Sequence[str]:
        """What else could be behind it that is not there, a line each that says how to get it."""
        return ()

    def start(self) -> None:  # noqa: B027 (optional)
        """Get ready. Raises DeviceError if it cannot be used here."""

    def attach(self, parker: Parker, clock: Clock) -> None:  # noqa: B027 (optional)
        """Its worker's parker and clock, for devices that wait. Called after `start`."""

    def close(self) -> None:  # noqa: B027 (optional)
        """Give everything back; also after a `start` that failed."""

    @abstractmethod
    def preempt(self) -> None:
        """Ask the running kernel to return at the end of its quantum. From any thread."""

    @abstractmethod
    def preempt_requested(self) -> bool:
        """Whether it was asked; read by implementations between quanta."""

    @abstractmethod
    def clear_preempt(self) -> None:
        """The request has been seen."""
