"""What a device is: something that runs kernels for one worker, and can be asked to stop between quanta.

A device may fail. Whoever finds out calls `lose`: it is *fenced* then, which means that it runs no kernels
and that jobs which launch some there get DeviceLost. After a pause its worker opens it again, asks it a
question whose answer is known, and readmits it if that is right.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from coro_rt.errors import DeviceLost
from coro_rt.parker import Clock, Parker

if TYPE_CHECKING:
    from coro_rt.faults import FaultInjection


class Device(ABC):
    """Subclass it for a device of your own. All but `preempt`, `interrupt` and `lose` is called by one
    worker, or before it starts and after it ended."""

    name: str  # unique in a runtime
    kind: str  # which of a kernel's implementations run on it
    watts: float = 0.0  # while a kernel runs; counts where nothing measures. 0: nobody knows

    watchdog_s: float = math.inf
    """Seconds that a quantum may take; after that the device counts as hung. Read when the runtime opens."""

    pauses_s: Sequence[float] = (1.0, 5.0, 30.0, 120.0, 600.0)
    """How long it rests before each try to use it again. When these are used up it stays out; if it has done
    well for some minutes they begin anew."""

    times_quanta = False
    """Whether it puts `waiting` around each of its quanta. Else a call of a kernel counts as one."""

    remembers = False
    """Whether what lies in its memory outlives its failing: then `reopen` forgets nothing."""

    fenced: str | None = None  # why it runs no kernels: DeviceLost.reason
    epoch = 0  # how often what its own memory held was lost
    faults: FaultInjection | None = None  # see coro_rt.testing

    _watch: AbstractContextManager[object] = nullcontext()
    _thread: int | None = None  # its worker's
    _on_lost: Callable[[DeviceLost], object] | None = None

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
        """Its worker's parker and clock, for devices that wait. Called after `start`, and again when another
        thread takes over."""

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

    # Failing, and coming back.

    def lose(self, reason: str, detail: str = "") -> DeviceLost:
        """It has failed: it is fenced from now on. Gives the error, to be raised. From any thread; reasons as
        in DeviceLost."""
        error = DeviceLost(self.name, reason, detail)
        if self._on_lost is not None:
            self._on_lost(error)
        return error

    def waiting(self) -> AbstractContextManager[object]:
        """`with device.waiting():` around the time that it works on one quantum. The worker's thread, if its
        quantum has not ended in time, never gets out of the block: it ends there, if it ever comes back.
        Other threads are not watched."""
        return self._watch if self.in_worker else nullcontext()

    @property
    def in_worker(self) -> bool:
        """Whether this is the thread of its worker."""
        return threading.get_ident() == self._thread

    def check_numbers(self, values: Any) -> None:
        """Raise DeviceLost if some of what it computed (an array) is not finite, and it is to blame: it gives
        a wrong answer to a known question, too. Else whoever asked is to blame, and finds out."""
        import numpy as np  # here: `import coro_rt` does without

        if not np.isfinite(values).all() and not self.sound():
            raise self.lose("nan", "and it gives a wrong answer to a known question")

    def interrupt(self) -> bool:
        """A quantum takes too long: end it from outside if that can be done, and say whether it may come back
        now. From the watchdog's thread."""
        return False

    def reopen(self) -> None:
        """After a pause, for a fenced device: begin anew. Nothing that was on it is needed any more. Raises
        if it is still not there."""
        self.close()
        self.start()
        self.epoch += 1

    def sound(self) -> bool:
        """Whether it gives the right answer to a question whose answer is known. May raise, which is a no."""
        return True

    def guard(
        self, watch: AbstractContextManager[object], on_lost: Callable[[DeviceLost], object] | None
    ) -> None:
        """For its worker: who is told that it has failed, and what `waiting` gives from now on, once its
        thread has called `begin`."""
        self._watch, self._on_lost, self._thread = watch, on_lost, None

    def begin(self) -> None:
        """For its worker's thread, when it begins."""
        self._thread = threading.get_ident()


def checked_watchdog(watchdog_s: float) -> float:
    """Raises ValueError unless it is a positive number; `inf` is no watchdog."""
    if isinstance(watchdog_s, bool) or not isinstance(watchdog_s, int | float) or not watchdog_s > 0:
        raise ValueError(f"watchdog_s is a positive number of seconds, or inf, not {watchdog_s!r}")
    return float(watchdog_s)
