"""Kernels: whole and over a range, their implementations by device, and what a kernel that fails does."""

import logging
import sys
from itertools import pairwise
from typing import Any

import pytest
from rt_tools import Gate, add, opened, simulated, until

import coro_rt
from coro_rt import Kernel, Launch, QoS
from coro_rt.kernel import QUANTUM_S, _Ranged
from coro_rt.testing import SimDevice, sim_work

pytestmark = pytest.mark.anyio


async def launch(kernel: Kernel[..., Any], *args: Any) -> Any:
    return await kernel(*args)


async def test_a_whole_kernel_gives_what_it_returns() -> None:
    async with opened() as runtime:
        assert await runtime.run(launch, add, 2, 3) == 5


@pytest.mark.parametrize("n", [0, 1, 7, 100_000])
async def test_a_kernel_over_a_range_covers_it_once_in_order(n: int) -> None:
    parts: list[tuple[int, int]] = []

    @coro_rt.kernel(size=lambda n, parts: n)
    def cover(start: int, stop: int, n: int, parts: list[tuple[int, int]]) -> None:
        parts.append((start, stop))

    async with opened() as runtime:
        assert await runtime.run(launch, cover, n, parts) is None
    assert sum(stop - start for start, stop in parts) == n
    assert all(one[1] == two[0] for one, two in pairwise(parts))


class FakeTime:
    """A clock for one implementation: every item takes `item_s`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.item_s = 1e-6
        self.calls: list[float] = []
        monkeypatch.setattr(sys.modules["coro_rt.kernel"], "perf_counter", lambda: self.now)

    def work(self, start: int, stop: int, *_: object) -> None:
        self.calls.append((stop - start) * self.item_s)
        self.now += self.calls[-1]


def test_parts_grow_to_a_quantum_from_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch)
    ranged = _Ranged(clock.work, lambda n: n)
    kernel: Kernel[[int], None] = Kernel("work", cpu=ranged)
    device = SimDevice()
    assert ranged(device, kernel(100_000), 1.0)
    assert clock.calls[0] <= 1e-6
    assert max(clock.calls) == pytest.approx(QUANTUM_S)
    clock.calls.clear()
    clock.item_s = 1e-4  # this launch's items are a hundred times heavier
    assert ranged(device, kernel(1000), 10.0)
    assert clock.calls[0] <= 13 * QUANTUM_S
    assert clock.calls[2] <= QUANTUM_S * 1.0001


def test_a_kernel_over_a_range_stops_when_asked_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeTime(monkeypatch)
    ranged = _Ranged(clock.work, lambda n: n)
    launch: Launch[None] = Kernel("work", cpu=ranged)(100_000)
    device = SimDevice()
    assert not ranged(device, launch, 0.002)
    assert 0.002 <= clock.now <= 0.002 + QUANTUM_S
    device.preempt()
    before = len(clock.calls)
    assert not ranged(device, launch, 0.002)
    assert len(clock.calls) == before + 1
    device.clear_preempt()
    while not ranged(device, launch, 0.002):
        pass
    assert sum(clock.calls) == pytest.approx(0.1)


@pytest.mark.parametrize("size", [-1, 1.5, None, "many", True])
async def test_a_size_that_is_no_size_is_a_kernel_error(size: Any) -> None:
    kernel = coro_rt.kernel(size=lambda: size)(lambda start, stop: None)
    async with opened() as runtime:
        with pytest.raises(coro_rt.KernelError, match="not a whole number"):
            await runtime.run(launch, kernel)


async def test_an_urgent_job_gets_between_the_parts_of_a_kernel() -> None:
    gate, order = Gate(), []

    @coro_rt.kernel(size=lambda: 1000)
    def long(start: int, stop: int) -> None:
        if start == 0:
            gate._wait()
        order.append("part")

    async def urgent() -> None:
        order.append("urgent")

    async def background() -> None:
        await long()
        order.append("end")

    async with opened() as runtime:
        with coro_rt.qos(QoS.BACKGROUND):
            job = runtime.start(background)
        async with job:
            await gate.closed()
            with coro_rt.qos(QoS.USER_INTERACTIVE):
                async with runtime.start(urgent) as other:
                    await until(lambda: runtime.stats().jobs_ready == 1)
                    gate.open()
                    await other.result()
            await job.result()
    assert order[:2] == ["part", "urgent"]
    assert order[-1] == "end"


async def chain(count: int, seconds: float) -> None:
    for _ in range(count):
        await sim_work(seconds)


@pytest.mark.parametrize(("launches", "turns"), [(1, 0), (3, 0), (4, 1), (12, 3)])
async def test_a_job_alone_goes_from_launch_to_launch_and_is_decided_about_once_a_slice(
    launches: int, turns: int
) -> None:
    async with simulated() as (runtime, clock):
        worker = runtime._engine.workers["sim"]
        await until(lambda: worker.idle)
        before = runtime.stats().decisions
        async with runtime.start(chain, launches, 0.0005) as job:  # a slice is 2 ms
            await job.result()
        await until(lambda: worker.idle)
        assert runtime.stats().decisions - before == 2 + turns  # it got the device, and nobody after it
        assert job.ledger.device_s == pytest.approx(launches * 0.0005)
        assert clock.now() == pytest.approx(launches * 0.0005)


async def test_whoever_comes_between_the_launches_of_a_job_alone_is_served_after_the_next_one() -> None:
    order: list[str] = []

    async def urgent() -> None:
        order.append("urgent")

    async def background() -> None:
        await sim_work(0.0005)
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            coro_rt.spawn(urgent)
        for _ in range(2):
            await sim_work(0.0005)
            order.append("background")

    async with simulated() as (runtime, _):
        with coro_rt.qos(QoS.BACKGROUND):
            await runtime.run(background)
    assert order == ["urgent", "background", "background"]


async def test_whoever_is_due_to_wake_is_served_between_the_launches_of_a_job_alone() -> None:
    woken: list[float] = []

    async with simulated() as (runtime, clock):

        async def sleeper() -> None:
            await coro_rt.sleep(0.0007)  # begun when the first launch is over
            woken.append(clock.now())

        async def background() -> None:
            with coro_rt.qos(QoS.USER_INTERACTIVE):
                coro_rt.spawn(sleeper)
            await chain(4, 0.0005)

        with coro_rt.qos(QoS.BACKGROUND):
            await runtime.run(background)
    assert woken == [pytest.approx(0.0015)]


async def test_a_job_alone_that_is_cancelled_between_two_launches_launches_no_more() -> None:
    reached: list[str] = []

    async def job() -> None:
        await sim_work(0.0005)
        coro_rt.current_job().cancel()
        try:
            await sim_work(0.0005)
        finally:
            reached.append("its own clean-up")
            with pytest.raises(coro_rt.Cancelled):
                await sim_work(0.0005)

    async with simulated() as (runtime, _):
        with pytest.raises(coro_rt.JobCancelled):
            await runtime.run(job)
    assert reached == ["its own clean-up"]


async def test_launches_of_a_job_alone_are_no_long_python_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "coro_rt")
    async with simulated() as (runtime, _):
        await runtime.run(chain, 3, 0.0009)
    assert not [record for record in caplog.records if "Python" in record.message]


async def test_what_a_kernel_raises_is_raised_at_the_await() -> None:
    @coro_rt.kernel
    def broken() -> None:
        raise ArithmeticError("broken")

    async def job() -> str:
        try:
            await broken()
        except ArithmeticError:
            return "caught"
        return "not reached"

    async with opened() as runtime:
        assert await runtime.run(job) == "caught"
        with pytest.raises(ArithmeticError, match="broken"):
            await runtime.run(launch, broken)
        assert await runtime.run(launch, add, 1, 2) == 3


async def test_a_device_without_an_implementation_is_a_kernel_error_that_names_both() -> None:
    async with simulated() as (runtime, _):
        with pytest.raises(coro_rt.KernelError, match=r"kernel 'add' has no .* 'sim' \(it has: cpu\)"):
            await runtime.run(launch, add, 1, 2)
    async with opened() as runtime:
        with pytest.raises(coro_rt.KernelError, match=r"kernel 'sim_work' has no .* 'cpu' \(it has: sim\)"):
            await runtime.run(launch, sim_work, 1.0)


async def test_an_implementation_of_ones_own() -> None:
    kernel: Kernel[[int], int] = Kernel("three_times")

    @kernel.on("cpu")
    def three_times(device: coro_rt.Device, launch: Launch[int], slice_s: float) -> bool:
        launch.state = (launch.state or 0) + 1
        launch.result = launch.args[0] * launch.state
        return bool(launch.state == 3)

    async with opened() as runtime, runtime.start(launch, kernel, 7) as job:
        assert await job.result() == 21
        assert job.ledger.quanta == 3
    assert repr(kernel) == "<Kernel three_times for cpu>"
    assert repr(Kernel("none")) == "<Kernel none for nothing>"


async def test_kernels_take_positional_arguments() -> None:
    with pytest.raises(coro_rt.KernelError, match="by position, not b="):
        add(1, b=2)


def test_the_decorator_takes_a_function() -> None:
    with pytest.raises(TypeError, match="use @kernel"):
        coro_rt.kernel()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes a function, not 3"):
        coro_rt.kernel(3)  # type: ignore[call-overload]
