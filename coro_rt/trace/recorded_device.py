"""What a trace says of one device, as far as it has been read: who is there, and how soon jobs gave way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coro_rt.schedulers.workload import DeviceTiming

if TYPE_CHECKING:
    from coro_rt.trace.recorded_job import RecordedJob


class RecordedDevice:
    """What is happening on one device."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = 0  # jobs
        self.running: RecordedJob | None = None
        self.alone = False  # nobody was ready when the slice began, which is long then
        self.last: RecordedJob | None = None
        self.since = 0.0
        self.slice_s = 0.0
        self.used_s = 0.0
        self.broken = False  # somebody was woken within the slice, as will be when it is simulated
        self.asked_at: float | None = None  # whoever runs should give way, since then
        self.delays: list[float] = []  # how long that took
        self.woken_at: float | None = None  # it was idle, and somebody has come
        self.wakes: list[float] = []  # how long it took to begin then
        self.overruns: list[float] = []  # by how much slices were too long where another job's turn came

    def timing(self) -> DeviceTiming:
        """What a trace does not show is left as it is by default."""
        usual = DeviceTiming()
        return DeviceTiming(
            tuple(self.delays) or usual.give_way_s,
            tuple(self.overruns) or usual.overrun_s,
            tuple(self.wakes) or usual.wake_s,
        )
