"""Fault injection: a device fails at a quantum or launch that was chosen beforehand, in one of the four ways.

It stands around the device: `waiting` (where a quantum begins), `check_numbers` and `sound` are replaced for
this one object, and the worker's way to run a launch is wrapped. Where nothing is injected, none of it is
there.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.job import Job
    from coro_rt.kernel import Launch
    from coro_rt.parker import Parker
    from coro_rt.watchdog import Watch

REASONS = ("lost", "hung", "memory", "nan")


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure: of the `at`-th quantum, or of the first quantum of the `at`-th launch, from 1 on; of one
    kernel's, if it is named.

    `reason` is DeviceLost's. When the device is tried then, it fails `tries` times before it is sound again
    (`inf`: for good). A thread that hangs comes back when it has been given up; with `stuck`, only when
    `FaultInjection.release` is called.
    """

    reason: str
    at: int = 1
    of: Literal["quantum", "launch"] = "quantum"
    kernel: str | None = None
    tries: float = 0
    stuck: bool = False

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"a device fails by {', '.join(REASONS)}, not by {self.reason!r}")
        if self.of not in ("quantum", "launch"):
            raise ValueError(f"a fault is of a 'quantum' or of a 'launch', not of a {self.of!r}")
        if isinstance(self.at, bool) or not isinstance(self.at, int) or self.at < 1:
            raise ValueError(f"quanta and launches are counted from 1, not {self.at!r}")
        if not self.tries >= 0:
            raise ValueError(f"tries is a number, zero or more, not {self.tries!r}")


class FaultInjection:
    """Makes `device` fail. Made before the runtime is opened; `add` may be called at any time.

    Quanta and launches are counted as long as the device is not fenced. For the CPU, for `sim` and for
    devices that do not time their quanta, a call of a kernel is one. `happened`: what came, in order. With
    `hurry` it is noticed at once that a quantum hangs, and not after the device's `watchdog_s`.

    Raises ValueError for a fault "hung" of a device that has no watchdog.
    """

    def __init__(self, device: Device, *faults: Fault, hurry: bool = False) -> None:
        self.device = device
        self.hurry = hurry
        self.happened: list[Fault] = []
        self._lock = threading.Lock()
        self._plans: list[Fault] = []
        self._stream: Iterator[Fault] = iter(())
        self._counts: Counter[tuple[str, str | None]] = Counter()
        self._kernel: str | None = None  # whose launch runs
        self._under_way: WeakSet[Launch[Any]] = WeakSet()
        self._begins = False  # the launch that runs is at its first quantum
        self._poisoned = False  # what it computes next is no number
        self._failed = False  # in the launch that runs
        self._failing = 0.0  # tries to come that it fails
        self._released = threading.Event()
        self._sound = device.sound
        self._check_numbers = device.check_numbers
        device.faults = self
        vars(device).update(sound=self._may_be_sound, check_numbers=self._check)
        for fault in faults:
            self.add(fault)

    @classmethod
    def at_random(
        cls, device: Device, *, seed: int, every: float, reasons: Sequence[str] = REASONS, most: int = 1000
    ) -> FaultInjection:
        """Faults of these kinds, one in `every` quanta on average, `most` at most; of each second one the
        device fails a try. The same seed gives the same faults."""
        if not every >= 1:
            raise ValueError(f"every is a number of quanta, at least 1, not {every!r}")
        injection = cls(device)
        for reason in reasons:
            injection._allowed(Fault(reason))
        injection._stream = _random_faults(random.Random(seed), every, reasons, most)
        injection._plan_next()
        return injection

    def add(self, fault: Fault, *, from_now: bool = False) -> None:
        """One more. `from_now`: count from here on, not from the beginning. From any thread."""
        self._allowed(fault)
        with self._lock:
            if from_now:
                at = fault.at + self._counts[fault.of, fault.kernel]
                fault = Fault(fault.reason, at, fault.of, fault.kernel, fault.tries, fault.stuck)
            self._plans.append(fault)

    def release(self) -> None:
        """Threads that are `stuck` come back."""
        self._released.set()

    def remove(self) -> None:
        """The device is as it was. No runtime has it open."""
        self.device.faults = None
        for name in ("sound", "check_numbers"):
            vars(self.device).pop(name, None)

    def _allowed(self, fault: Fault) -> None:
        if fault.reason == "hung" and self.device.watchdog_s == math.inf:
            raise ValueError(
                f"the device {self.device.name!r} has no watchdog, so nobody would notice that it hangs: set "
                "its watchdog_s first"
            )

    def _plan_next(self) -> None:
        following = next(self._stream, None)
        if following is not None:
            self._plans.append(following)

    # For the worker.

    def over(
        self, run: Callable[[Job[Any], Launch[Any]], Launch[Any] | None]
    ) -> Callable[[Job[Any], Launch[Any]], Launch[Any] | None]:
        """The worker's way to run a launch, with faults."""

        def watched(job: Job[Any], launch: Launch[Any]) -> Launch[Any] | None:
            self._kernel = launch.kernel.name
            self._failed = False
            self._begins = launch not in self._under_way
            self._under_way.add(launch)
            left = run(job, launch)
            if left is None:
                self._under_way.discard(launch)
                if self._poisoned:  # it did not look at its numbers itself
                    self._poisoned = False
                    lost = self.device.lose("nan", "injected")
                    if launch.joint is None and launch.kernel.idempotent:  # as for one that looks
                        return launch
                    job.inbox, job.inbox_error = None, lost
            return left

        return watched

    def around(self, watch: Watch, parker: Parker) -> _Around:
        """What the device's `waiting` gives; for one thread."""
        return _Around(self, watch, parker)

    def _quantum(self, watch: Watch, parker: Parker) -> None:
        """One begins."""
        if self._failed or self.device.fenced is not None or not watch.armed:
            return
        fault = self._due()
        if fault is None:
            return
        self.happened.append(fault)
        self._failing = fault.tries
        if fault.reason == "nan":
            self._poisoned = True
            return
        self._failed = True
        if fault.reason != "hung":
            raise self.device.lose(fault.reason, "injected")
        if self.hurry:
            watch.expire()
        if fault.stuck:
            self._released.wait()
        while not watch.given_up:
            parker.park(math.inf)

    def _due(self) -> Fault | None:
        with self._lock:
            seen = [("quantum", None), ("quantum", self._kernel)]
            if self._begins:
                seen += [("launch", None), ("launch", self._kernel)]
                self._begins = False
            self._counts.update(seen)
            for fault in self._plans:
                key = fault.of, fault.kernel
                if key in seen and self._counts[key] >= fault.at:
                    self._plans.remove(fault)
                    self._plan_next()
                    return fault
            return None

    # In the place of the device's own.

    def _check(self, values: Any) -> None:
        if self._poisoned:
            self._poisoned = False
            raise self.device.lose("nan", "injected")
        self._check_numbers(values)

    def _may_be_sound(self) -> bool:
        if self._failing >= 1:
            self._failing -= 1
            return False
        return self._sound()


class _Around:
    """A watch, and what comes at the beginning of a quantum."""

    def __init__(self, faults: FaultInjection, watch: Watch, parker: Parker) -> None:
        self._faults, self._watch, self._parker = faults, watch, parker

    def __enter__(self) -> None:
        self._watch.__enter__()
        try:
            self._faults._quantum(self._watch, self._parker)
        except BaseException:
            self._watch.__exit__()
            raise
        if self._watch.given_up:
            self._watch.__exit__()

    def __exit__(self, *exc_info: object) -> None:
        self._watch.__exit__(*exc_info)


def _random_faults(rng: random.Random, every: float, reasons: Sequence[str], most: int) -> Iterator[Fault]:
    at = 0
    for _ in range(most):
        at += 1 + int(rng.expovariate(1 / every))
        yield Fault(rng.choice(reasons), at, tries=rng.choice((0, 1)))
