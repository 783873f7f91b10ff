"""Limits and bad company: too many jobs, too much memory, broken policies, broken devices, wrong options."""

import functools
import logging
import math
from typing import Any

import anyio
import pytest
from rt_tools import Gate, add, opened, simulated, until, until_state

import coro_rt
from coro_rt import Device, Policy, QoS
from coro_rt.devices.cpu import CpuDevice
from coro_rt.schedulers import PowerSave
from coro_rt.schedulers.entry import Entry, State
from coro_rt.testing import VirtualClock, sim_work

pytestmark = pytest.mark.anyio


async def one() -> int:
    return await add(0, 1)


async def asleep() -> None:
    await coro_rt.sleep(math.inf)


# Too many jobs.


async def test_a_full_runtime_lets_tasks_wait_and_the_most_urgent_in_first() -> None:
    order: list[str] = []

    async def job(name: str) -> None:
        order.append(name)

    asked = [
        ("utility", QoS.UTILITY, None),
        ("default", QoS.DEFAULT, None),
        ("soon", QoS.DEFAULT, 100.0),
        ("default 2", QoS.DEFAULT, None),
        ("interactive", QoS.USER_INTERACTIVE, None),
    ]
    async with opened(max_jobs=1) as runtime, anyio.create_task_group() as tg, runtime.start(asleep) as first:

        async def ask(name: str, level: QoS, within_s: float | None) -> None:
            with coro_rt.qos(level, within_s=within_s):
                await runtime.run(job, name)

        for i, one_asked in enumerate(asked):
            tg.start_soon(ask, *one_asked)
            await until(lambda i=i: len(runtime._engine.admission._queue) == i + 1)
        assert not order
        first.cancel()
        await until(lambda: len(order) == len(asked))
    assert order == ["interactive", "soon", "default", "default 2", "utility"]


async def test_waiting_for_room_can_be_cancelled_and_takes_no_place() -> None:
    async with opened(max_jobs=1) as runtime, runtime.start(asleep) as first:
        async with anyio.create_task_group() as tg:
            scopes = [anyio.CancelScope() for _ in range(100)]

            async def ask(scope: anyio.CancelScope) -> None:
                with scope:
                    await runtime.run(one)

            for scope in scopes:
                tg.start_soon(ask, scope)
            await until(lambda: len(runtime._engine.admission._queue) == 100)
            for scope in scopes[::2]:
                scope.cancel()
            first.cancel()
            for scope in scopes[1::4]:  # some of them have been let in by now
                scope.cancel()
        assert await runtime.run(one) == 1
        assert runtime._engine.admission._inside == 0


async def test_closing_ends_the_wait_for_room() -> None:
    errors: list[coro_rt.RuntimeClosed] = []
    async with anyio.create_task_group() as tg:
        async with opened(max_jobs=1) as runtime:

            async def ask() -> None:
                try:
                    await runtime.run(asleep)
                except coro_rt.RuntimeClosed as exc:
                    errors.append(exc)

            for _ in range(5):
                tg.start_soon(ask)
            await until(lambda: len(runtime._engine.admission._queue) == 4)
        await until(lambda: len(errors) == 5)


async def test_a_full_runtime_raises_where_it_was_asked_to() -> None:
    async def parent() -> str:
        try:
            coro_rt.spawn(one)
        except coro_rt.Overloaded:
            return "overloaded"
        return "not reached"

    async with opened(max_jobs=1, on_full="raise") as runtime:
        assert await runtime.run(parent) == "overloaded"
        async with runtime.start(asleep):
            with pytest.raises(coro_rt.Overloaded, match="max_jobs=1"):
                await runtime.run(one)
        assert await runtime.run(one) == 1


async def test_children_do_not_wait_for_room() -> None:
    async def parent() -> int:
        return sum([await child for child in [coro_rt.spawn(one) for _ in range(10)]])

    async with opened(max_jobs=1) as runtime:
        assert await runtime.run(parent) == 10


# Memory.


async def test_memory_is_reserved_up_to_the_budget_and_given_back_once() -> None:
    async with opened(memory="1KiB") as runtime:
        with runtime.memory.reserve(1000, "a model"):
            assert runtime.stats().memory_used == 1000
            assert runtime.stats().memory_budget == 1024
            with pytest.raises(
                coro_rt.MemoryBudgetExceeded,
                match=r"a cache needs 25 B, but 24 B of the budget of 1 KiB are free",
            ):
                runtime.memory.reserve(25, "a cache")
            second = runtime.memory.reserve(24, "a cache")
        second.release()
        second.release()
        assert runtime.memory.used == 0
        assert runtime.memory.free == 1024


async def test_without_a_budget_memory_is_only_counted() -> None:
    async with opened() as runtime:
        reservation = runtime.memory.reserve(1 << 60, "everything")
        assert runtime.stats().memory_budget is None
        assert runtime.memory.free is None
        assert runtime.memory.used == 1 << 60
        reservation.release()


@pytest.mark.parametrize(
    ("size", "nbytes"), [(5, 5), ("5", 5), ("1.5 KB", 1500), ("2MiB", 2 << 20), ("1gib", 1 << 30)]
)
def test_sizes(size: Any, nbytes: int) -> None:
    assert coro_rt.open_runtime(memory=size)._memory.budget == nbytes


@pytest.mark.parametrize("size", ["much", "1 PB", "-1", -1, 1.5, True, ""])
def test_what_is_no_size(size: Any) -> None:
    with pytest.raises(ValueError, match="a size "):
        coro_rt.open_runtime(memory=size)


# Policies.


class Broken(Policy):
    """Raises in the middle of a run."""

    keys = 0

    def key(self, job: Entry, now: float) -> float:
        self.keys += 1
        if self.keys == 5:
            raise ZeroDivisionError("mine")
        return 0.0


async def test_a_policy_that_raises_is_replaced_with_one_warning_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(policy=Broken()) as runtime:
        results = [await runtime.run(one) for _ in range(10)]
    assert results == [1] * 10
    warnings = [record.getMessage() for record in caplog.records if record.name == "coro_rt"]
    assert len(warnings) == 1
    assert "policy 'broken' was replaced by 'dynamic'" in warnings[0]
    assert "mine" in warnings[0]


class Nonsense(Policy):
    """Answers NaN in the middle of a run."""

    keys = 0

    def key(self, job: Entry, now: float) -> float:
        self.keys += 1
        return math.nan if self.keys == 5 else job.submitted_at


class Dawdling(Policy):
    """Takes 3 ms for each key, on a timer of the test."""

    time = 0.0

    def key(self, job: Entry, now: float) -> float:
        Dawdling.time += 0.003
        return job.submitted_at


class Unfair(Policy):
    """Promises a bound, and prefers one job for ever."""

    bounded = True
    guarantees_background = False

    def key(self, job: Entry, now: float) -> float:
        return 0.0 if "favourite" in job.name else 1.0


@pytest.mark.parametrize(
    ("policy", "hook", "reason"),
    [
        (Nonsense, "key", "returned nan"),
        (Dawdling, "key", "took 3 ms, more than the 2 ms that it is given"),
        (Unfair, "bound_s", "let it wait 1.0"),
    ],
)
async def test_a_bad_policy_of_each_kind_is_replaced_with_one_warning_and_all_jobs_finish(
    policy: type[Policy], hook: str, reason: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("coro_rt.engine.perf_counter", lambda: Dawdling.time)
    done: list[int] = []

    async def favourite() -> None:
        for _ in range(200):
            await sim_work(0.02)

    async def other(number: int) -> None:
        await sim_work(0.02)
        done.append(number)

    async with simulated(policy=policy, max_wait_s=1.0) as (runtime, _), anyio.create_task_group() as tg:
        tg.start_soon(runtime.run, favourite)
        for number in range(10):
            tg.start_soon(runtime.run, other, number)
    assert sorted(done) == list(range(10))
    warnings = [record.getMessage() for record in caplog.records if record.name == "coro_rt"]
    assert len(warnings) == 1
    assert f"policy {policy.name!r} was replaced by 'dynamic' at " in warnings[0]
    assert f"its {hook} for " in warnings[0]
    assert reason in warnings[0]


async def test_powersave_lets_the_device_rest_until_its_window_ends() -> None:
    started: list[float] = []

    async def index(clock: VirtualClock) -> None:
        started.append(clock.now())
        await sim_work(1.0)

    policy = PowerSave(window_s=5.0)
    async with simulated(policy=policy) as (runtime, clock), anyio.create_task_group() as tg:
        with coro_rt.qos(QoS.BACKGROUND), clock.hold():
            for _ in range(3):
                tg.start_soon(runtime.run, index, clock)
            await anyio.wait_all_tasks_blocked()
    assert started == pytest.approx([5.0, 6.0, 7.0])


async def test_a_job_that_is_put_off_can_be_cancelled_and_another_policy_starts_it_at_once() -> None:
    started: list[float] = []

    async def index(clock: VirtualClock) -> None:
        started.append(clock.now())

    policy = PowerSave(window_s=5.0)
    async with simulated(policy=policy) as (runtime, clock), anyio.create_task_group() as tg:
        with coro_rt.qos(QoS.BACKGROUND), clock.hold():
            with anyio.CancelScope() as scope:
                async with runtime.start(index, clock):
                    scope.cancel()
            tg.start_soon(runtime.run, index, clock)
            await anyio.wait_all_tasks_blocked()
            runtime.set_policy("dynamic")
    assert started == [0.0]


# Devices.


class Fragile(CpuDevice):
    """Fails when told."""

    failing = False

    def clear_preempt(self) -> None:
        if self.failing:
            raise OSError("the device is gone")


async def test_a_dead_device_ends_its_jobs_with_a_device_error(caplog: pytest.LogCaptureFixture) -> None:
    device = Fragile()
    clean = []

    async def job() -> None:
        try:
            await coro_rt.sleep(math.inf)
        finally:
            clean.append(1)

    errors = []
    async with coro_rt.open_runtime(devices=[device, CpuDevice(name="other")]) as runtime:
        async with anyio.create_task_group() as tg:

            async def ask(fn: Any) -> None:
                try:
                    await runtime.run(fn)
                except coro_rt.DeviceError as exc:
                    errors.append(exc)

            for _ in range(3):
                tg.start_soon(ask, job)
            await until(lambda: runtime.stats().jobs_waiting == 3)
            device.failing = True
            tg.start_soon(ask, one)
        assert len(errors) == 4
        assert "device 'cpu' has failed" in str(errors[0])
        assert clean == [1, 1, 1]
        with pytest.raises(coro_rt.DeviceError, match="device 'cpu' has failed"):
            await runtime.run(one)
        assert await runtime.run(one, device="other") == 1
    assert "the worker of device 'cpu' has failed" in caplog.text


class Unusable(CpuDevice):
    """Cannot be started."""

    def start(self) -> None:
        raise coro_rt.DeviceError("no driver")


async def test_a_device_that_cannot_start_closes_the_others() -> None:
    with pytest.raises(coro_rt.DeviceError, match="no driver"):
        async with coro_rt.open_runtime(devices=[CpuDevice(), Unusable(name="bad")]):
            raise AssertionError("not reached")


async def test_jobs_go_to_the_device_they_name() -> None:
    async def where() -> str:
        child = coro_rt.spawn(here)
        assert await child == await here()
        return await here()

    async def here() -> str:
        return coro_rt.current_job().entry.device

    async with opened(devices=["cpu", "sim"]) as runtime:
        assert [device.name for device in runtime.devices] == ["cpu", "sim"]
        assert await runtime.run(where) == "cpu"
        assert await runtime.run(where, device="sim") == "sim"
        async with runtime.start(where, device="sim") as job:
            assert await job.result() == "sim"
        with pytest.raises(coro_rt.DeviceError, match="no device 'npu' is open, only cpu, sim"):
            await runtime.run(where, device="npu")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"devices": ["tpu"]}, coro_rt.DeviceError, "no device 'tpu'"),
        ({"devices": []}, coro_rt.DeviceError, "devices is empty"),
        ({"devices": "cpu"}, TypeError, "a list"),
        ({"devices": ["cpu", "cpu"]}, coro_rt.SchedulerError, "'cpu' already"),
        ({"threads": 0}, coro_rt.DeviceError, "threads"),
        ({"policy": "nonsense"}, coro_rt.SchedulerError, "no policy"),
        ({"shares": {"a": -1}}, coro_rt.SchedulerError, "share"),
        ({"background_share": 2}, coro_rt.SchedulerError, "background_share"),
        ({"max_wait_s": 0}, coro_rt.SchedulerError, "max_wait_s"),
        ({"max_jobs": 0}, ValueError, "max_jobs"),
        ({"on_full": "drop"}, ValueError, "on_full"),
    ],
)
async def test_wrong_options_are_clear_errors(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        async with coro_rt.open_runtime(**options):
            raise AssertionError("not reached")


# Accounts.


async def test_the_ledger_sums_up_children_and_the_stats_add_up() -> None:
    async def child() -> None:
        await coro_rt.testing.sim_work(1.0)

    async def parent() -> None:
        done = coro_rt.spawn(child)
        await done
        running = coro_rt.spawn(child)
        await coro_rt.testing.sim_work(0.5)
        while running.state is not State.DONE:
            await coro_rt.sleep(0.01)

    async with simulated(devices=[coro_rt.testing.SimDevice(watts=3.0)]) as (runtime, clock):
        async with runtime.start(parent) as job:
            await job.result()
        ledger = job.ledger
        assert ledger.device_s == pytest.approx(2.5)
        assert ledger.joules == pytest.approx(7.5)
        assert ledger.quanta >= 3
        assert ledger.host_s == 0
        stats = runtime.stats()
        assert stats.device_busy_s["sim"] == pytest.approx(2.5)
        assert stats.jobs_done == 3
        assert (stats.jobs_ready, stats.jobs_running, stats.jobs_waiting) == (0, 0, 0)
        assert stats.switches == ledger.switches
        assert stats.decisions > stats.switches
        assert clock.now() == pytest.approx(2.5, abs=0.02)


async def test_waiting_in_line_is_booked_as_waiting() -> None:
    async def job() -> None:
        await coro_rt.testing.sim_work(1.0)

    async with simulated(policy="fifo") as (runtime, clock), anyio.create_task_group():
        with clock.hold():
            first, second = runtime.start(job), runtime.start(job)
            await first.__aenter__()
            await second.__aenter__()
        await second.result()
        assert first.ledger.waiting_s == 0
        assert second.ledger.waiting_s == pytest.approx(1.0)
        await first.__aexit__(None, None, None)
        await second.__aexit__(None, None, None)


async def test_switches_are_timed() -> None:
    async def job() -> None:
        for _ in range(10):
            await coro_rt.sleep(0)

    gate = Gate()
    async with opened(policy="fifo") as runtime, runtime.start(gate.job), anyio.create_task_group() as tg:
        await gate.closed()
        for _ in range(5):
            tg.start_soon(runtime.run, job)
        await until(lambda: runtime.stats().jobs_ready == 5)
        gate.open()
        await until(lambda: runtime.stats().jobs_done == 6)
        assert 0 < runtime.stats().switch_cost_s < 1


async def test_a_prediction_reaches_the_policy() -> None:
    async def job() -> list[float]:
        entry = coro_rt.current_job().entry
        before = entry.predicted_seconds_left
        coro_rt.current_job().predict(2.0)
        return [before, entry.predicted_seconds_left]

    async with opened() as runtime:
        assert await runtime.run(job, predicted_s=5.0) == [5.0, 2.0]


async def test_many_cancelled_sleepers_do_not_pile_up() -> None:
    async with opened() as runtime:
        worker = next(iter(runtime._engine.workers.values()))
        for _ in range(300):
            async with runtime.start(asleep) as job:
                await until_state(job, State.WAITING)
        assert len(worker.sleepers._heap) < 70


async def test_an_idle_worker_is_asleep_not_polling() -> None:
    async with opened() as runtime:
        await runtime.run(one)
        worker = next(iter(runtime._engine.workers.values()))
        await until(lambda: worker.idle)
        before = runtime.stats().decisions
        await anyio.sleep(0.02)
        assert runtime.stats().decisions == before


def test_logging_is_not_configured() -> None:
    assert not logging.getLogger("coro_rt").handlers
    assert logging.getLogger("coro_rt").level == logging.NOTSET


async def test_functions_and_partials_have_names() -> None:
    async def named() -> str:
        return coro_rt.current_job().name

    async with opened() as runtime:
        assert await runtime.run(named) == "named"
        assert await runtime.run(functools.partial(named)) == "partial"


class Alone(Device):
    """The least that a device is."""

    name = "alone"
    kind = "alone"

    def preempt(self) -> None:
        pass

    def preempt_requested(self) -> bool:
        return False

    def clear_preempt(self) -> None:
        pass


async def test_a_device_of_ones_own() -> None:
    async def job() -> str:
        return coro_rt.current_job().entry.device

    async with opened(devices=[Alone()]) as runtime:
        assert await runtime.run(job) == "alone"
        assert runtime.devices[0].detail == ""
