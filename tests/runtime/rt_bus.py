"""A kernel for the simulated device whose launches run as one, for tests without a model."""

from typing import Any

from coro_rt.kernel import BatchKernel, BatchLaunch, Joint
from coro_rt.schedulers.batch import Batch
from coro_rt.testing import SimDevice


class Rows(Batch):
    """A launch takes 8 ms and one more for each row."""

    rows = 64

    def seconds(self, rows: int) -> float:
        return 0.008 + 0.001 * rows


class Bus:
    """A kernel whose launches run as one, and what happened to them."""

    def __init__(self) -> None:
        self.kernel: BatchKernel[[str, int], int] = BatchKernel("ride", lambda name, rows: (self.batch, rows))
        self.batch = Rows()
        self.trips: list[dict[str, int]] = []  # who began together, with the rows that were granted
        self.left: list[str] = []  # cancelled, or gone to ride in another trip
        self.ended: list[str] = []  # whose memory is gone
        self.open = 0
        self.fails = False
        bus = self

        @self.kernel.jointly("sim")
        class Trip(Joint):
            def __init__(self, launches: list[BatchLaunch[Any]]) -> None:
                super().__init__(launches)
                bus.trips.append({launch.args[0]: launch.granted for launch in launches})
                bus.open += 1
                self.left_s = bus.batch.seconds(sum(launch.granted for launch in launches))
                self.closed = False

            def run(self, device: SimDevice, slice_s: float) -> bool:
                assert not self.closed
                assert all(launch.args[0] not in bus.ended for launch in self.members), "its memory is gone"
                if bus.fails:
                    raise ZeroDivisionError("in the kernel")
                self.left_s = device.spend(self.left_s, slice_s)
                if self.left_s > 1e-9:
                    return False
                for launch in self.members:
                    launch.result = launch.granted
                return True

            def left(self, launch: BatchLaunch[Any]) -> None:
                bus.left.append(launch.args[0])

            def close(self) -> None:
                assert not self.closed
                bus.open -= 1
                self.closed = True

    async def passenger(self, name: str, rows: int, trips: int) -> int:
        """A job of several launches."""
        total = 0
        try:
            for _ in range(trips):
                total += await self.kernel(name, rows)
        finally:
            self.ended.append(name)
        return total
