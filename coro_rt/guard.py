"""A guard: what stands between a worker and a device that may fail.

It watches the quanta of devices that have a limit; has another thread take over from one that hangs; and
tries a fenced device, when it has rested, whether it is sound. Where a device has no limit and no injected
faults, it is in nobody's way.
"""

from __future__ import annotations

import logging
import math
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from coro_rt.errors import DeviceLost
from coro_rt.instruments import Run
from coro_rt.watchdog import GivenUp, Watch

if TYPE_CHECKING:
    from coro_rt.job import Job
    from coro_rt.kernel import Launch
    from coro_rt.worker import Worker

logger = logging.getLogger("coro_rt")

STRAY_S = 1.0
"""So long a runtime that closes waits for threads that were given up."""

LONGEST_CALL_S = 0.1
"""The slice of a call of a kernel that counts as one quantum, at most."""


class Guard:
    """Of one worker. `around` is what each call of a kernel runs in; None: calls are not watched as such."""

    def __init__(self, worker: Worker) -> None:
        self.watch: Watch
        self.around: AbstractContextManager[object] | None = None
        self._worker, self._device = worker, worker.device
        self._active = math.isfinite(worker.device.watchdog_s) or worker.device.faults is not None
        self._trying = False  # the device, while it is fenced
        self._strays: list[threading.Thread] = []  # that were given up
        self._renew()

    def over(self, run: Run) -> Run:
        """The worker's way to run a launch, while another thread may take over; as it is where none will."""
        if not self._active:
            return run

        def guarded(job: Job[Any], launch: Launch[Any]) -> Launch[Any] | None:
            watch = self.watch
            watch.armed = True
            left = run(job, launch)
            watch.armed = False
            return left

        faults = self._device.faults
        return guarded if faults is None else faults.over(guarded)

    def call(self, launch: Launch[Any], slice_s: float) -> bool:
        """A call of a kernel as one quantum: its slice, and what it needs to return after that."""
        device, joint = self._device, launch.joint
        slice_s = self.watch.slack_s = min(slice_s, LONGEST_CALL_S)
        assert self.around is not None
        with self.around:
            if joint is None:
                done = launch.kernel.implementation(device.kind)(device, launch, slice_s)
            else:
                done = joint.run(device, slice_s)
        return done

    # A quantum that does not end.

    def overdue(self) -> None:
        """A quantum takes too long. In the watchdog's thread."""
        engine = self._worker.engine
        now = engine.clock()
        if not self.watch.interrupted and self._device.interrupt() and self.watch.extend(now):
            return
        with engine.deciding:
            if self.watch.give_up(now):
                self._give_up_thread(now)

    def _give_up_thread(self, now: float) -> None:
        """Under the lock: another thread goes on where this one would have come back with an error."""
        worker = self._worker
        if self._trying:
            assert worker.fence is not None
            self._trying = False
            worker.fence.failed(now)
        else:
            detail = f"a quantum did not end within {self.watch.limit_s:g} s"
            worker.engine.fence_locked(worker, DeviceLost(worker.name, "hung", detail))
        job = worker.job
        if job is not None and job.launch is None:  # else it is told when its launch is taken from it
            assert worker.fence is not None
            job.inbox_error = worker.fence.error()
        self._strays.append(worker.hand_over())
        self._renew()

    def _renew(self) -> None:
        """A new watch, for the thread that is the worker from now on."""
        worker, device = self._worker, self._device
        self.watch = watch = Watch(worker.engine.watchdog, device.watchdog_s, worker.engine.clock)
        around: AbstractContextManager[object] = watch if self._active else nullcontext()
        if device.faults is not None:
            around = device.faults.around(watch, worker.parker)
        device.guard(around, worker.lost)
        if self._active and not device.times_quanta:
            self.around = around

    # A device that is fenced.

    def try_is_due(self) -> bool:
        """Whether it has rested."""
        fence, engine = self._worker.fence, self._worker.engine
        return fence is not None and fence.next_try <= engine.clock() and not engine.closing

    def try_device(self) -> None:
        """Open it anew, and ask it whether it is sound. By the worker's thread."""
        worker, device, watch = self._worker, self._device, self.watch
        self._trying = watch.armed = True
        device.clear_preempt()  # of what it ran before it failed
        watch.slack_s = 0.0
        failure: BaseException | None = None
        try:
            if device.remembers and self._any_stray():
                raise DeviceLost(worker.name, "hung", "and what hangs there may still write into memory")
            with device.waiting():
                device.reopen()
            with device.waiting():
                sound = device.sound()
        except GivenUp:
            raise
        except Exception as exc:
            sound, failure = False, exc
        self._trying = watch.armed = False
        worker.engine.tried(worker, sound=sound, failure=failure)

    def close(self) -> None:
        """The worker has ended: close the device, unless a thread that was given up is still inside."""
        self._device.guard(nullcontext(), None)
        for stray in self._strays:
            stray.join(STRAY_S)
        if self._any_stray():
            logger.error(
                "device %r hung, and still does: the thread that waits for it is left behind, and the device "
                "is not closed",
                self._device.name,
            )
        else:
            self._device.close()

    def _any_stray(self) -> bool:
        return any(stray.is_alive() for stray in self._strays)
