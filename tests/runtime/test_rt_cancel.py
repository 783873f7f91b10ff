"""Cancelling at every stage, once and often: the task goes on when the job has ended, and nothing is left."""

import asyncio
import math
import random
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import trio
from rt_tools import PATIENCE_S, Gate, forever, opened, simulated, until, until_state

import coro_rt
from coro_rt import Runtime
from coro_rt.schedulers.entry import State
from coro_rt.testing import sim_work
from coro_rt.turn import Turn

pytestmark = pytest.mark.anyio

Log = dict[int, str]


@coro_rt.kernel(size=lambda n: n)
def spin(start: int, stop: int, n: int) -> None:
    """A kernel that is suspended between its parts."""
    sum(range(start, stop))


class Stages:
    """One job for each thing that a job can be doing when it is cancelled. Each notes what it did."""

    def __init__(self) -> None:
        self.lock = coro_rt.Lock()
        self.event = coro_rt.Event()

    async def ready(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            while True:
                await coro_rt.checkpoint()
        finally:
            log[i] = "clean"

    async def kernel(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            await spin(10**12)
        finally:
            log[i] = "clean"

    async def sleep(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            await coro_rt.sleep(random.Random(i).choice([math.inf, 100 + i, 0.001 * i]))
            await coro_rt.sleep(math.inf)
        finally:
            log[i] = "clean"

    async def locked(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            async with self.lock:
                await coro_rt.sleep(0.0005)
                await coro_rt.checkpoint()
            await coro_rt.sleep(math.inf)
        finally:
            log[i] = "clean"

    async def waiting(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            await self.event.wait()
        finally:
            log[i] = "clean"

    async def joining(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            await coro_rt.spawn(self.waiting, log, -i - 1)
        finally:
            log[i] = "clean"

    async def hosted(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            await coro_rt.on_host(self.on_host, log, -i - 1)
        finally:
            log[i] = "clean"

    async def on_host(self, log: Log, i: int) -> None:
        try:
            log[i] = "began"
            await anyio.sleep(math.inf)
        finally:
            log[i] = "clean"

    async def buffered(self, log: Log, i: int) -> AsyncIterator[int]:
        try:
            log[i] = "began"
            while True:
                yield 1
        finally:
            log[i] = "clean"


PARKED = ["sleep", "locked", "waiting", "joining", "hosted", "buffered"]
STAGES = ["ready", "kernel", *PARKED]


async def ask(runtime: Runtime, stage: Callable[..., Any], log: Log, i: int) -> None:
    """A task that asks for a job of a stage."""
    if stage.__name__ == "buffered":
        async with runtime.stream(stage, log, i, buffer=3) as stream:
            await anext(stream)
            await anyio.sleep(math.inf)
    else:
        await runtime.run(stage, log, i)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_storm_of_cancels(stage: str) -> None:
    """300 tasks, cancelled in random order and at random moments, anywhere in their jobs."""
    count, rng, log = 300, random.Random(stage), Log()
    gone = 0
    scopes = [anyio.CancelScope() for _ in range(count)]

    async def task(i: int) -> None:
        nonlocal gone
        with scopes[i]:
            try:
                await ask(runtime, getattr(stages, stage), log, i)
            finally:
                # whatever had begun is over when the task goes on, children and host functions included
                assert log.get(i, "clean") == "clean"
                assert log.get(-i - 1, "clean") == "clean"
        assert scopes[i].cancelled_caught
        gone += 1

    async with opened() as runtime:
        stages = Stages()
        async with anyio.create_task_group() as tg:
            for i in range(count):
                tg.start_soon(task, i)
            order = rng.sample(range(count), count)
            for i in order[:100]:  # while they come in
                scopes[i].cancel()
            await until(lambda: sum(i in log for i in order[100:]) >= (200 if stage in PARKED else 20))
            for i in order[100:]:  # while they are where they belong
                if rng.random() < 0.1:
                    await anyio.sleep(rng.random() * 0.003)
                scopes[i].cancel()
        assert gone == count
        assert not runtime._engine.jobs
        async with runtime.start(stages.locked, log, 1) as job:  # the lock was given back
            await until(lambda: job.state is State.WAITING and job.job.entry.waits_on is None)


@pytest.mark.parametrize("stage", STAGES)
async def test_closing_the_runtime_ends_jobs_at_every_stage(stage: str) -> None:
    log = Log()
    errors: list[BaseException] = []

    async def task(i: int) -> None:
        try:
            await ask(runtime, getattr(stages, stage), log, i)
        except coro_rt.RuntimeClosed as exc:
            errors.append(exc)

    async with anyio.create_task_group() as tg:
        async with opened() as runtime:
            stages = Stages()
            for i in range(30):
                tg.start_soon(task, i)
            await until(lambda: len(log) > 10)
        assert set(log.values()) == {"clean"}
        if stage == "buffered":
            tg.cancel_scope.cancel()
    if stage != "buffered":
        assert len(errors) == 30


async def test_not_started_a_job_leaves_the_queue_at_once_and_never_runs() -> None:
    gate, log = Gate(), Log()
    async with opened() as runtime, runtime.start(gate.job):
        await gate.closed()
        cancelled = 0
        async with anyio.create_task_group() as tg:
            scopes = [anyio.CancelScope() for _ in range(300)]

            async def task(i: int) -> None:
                nonlocal cancelled
                with scopes[i]:
                    await runtime.run(Stages().ready, log, i)
                cancelled += scopes[i].cancelled_caught

            for i in range(300):
                tg.start_soon(task, i)
            await until(lambda: runtime.stats().jobs_ready == 300)
            for scope in random.Random(1).sample(scopes, 300):
                scope.cancel()
        assert cancelled == 300  # while the worker is still held
        assert runtime.stats().jobs_ready == 0
        assert not log
        gate.open()


async def test_a_job_in_a_kernel_is_cancelled_between_quanta() -> None:
    log: Log = {}
    async with opened() as runtime:
        async with runtime.start(Stages().kernel, log, 0) as job:
            await until(lambda: job.job.quanta)
        assert log == {0: "clean"}


async def test_cancelled_is_raised_again_at_every_further_await() -> None:
    raised = []

    async def job() -> None:
        for await_ in (
            lambda: coro_rt.sleep(math.inf),
            coro_rt.checkpoint,
            lambda: spin(10),
            lambda: coro_rt.sleep(0),
        ):
            try:
                await await_()
            except coro_rt.Cancelled as exc:
                raised.append(exc)

    async with opened() as runtime:
        async with runtime.start(job) as handle:
            await until_state(handle, State.WAITING)
        assert len(raised) == 4


async def test_a_job_may_end_well_in_spite_of_being_cancelled() -> None:
    async def job() -> str:
        try:
            await coro_rt.sleep(math.inf)
        except coro_rt.Cancelled:
            return "partial"
        return "whole"

    async with opened() as runtime, runtime.start(job) as handle:
        await until_state(handle, State.WAITING)
        handle.cancel()
        assert await handle.result() == "partial"


async def test_an_error_while_cleaning_up_reaches_the_task() -> None:
    began: list[bool] = []
    scope = anyio.CancelScope()

    async def job() -> None:
        began.append(True)
        try:
            await coro_rt.sleep(math.inf)
        finally:
            raise KeyError("cleaning up")

    async def cancel() -> None:
        await until(lambda: bool(began))
        scope.cancel()

    async with opened() as runtime, anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        with pytest.raises(KeyError, match="cleaning up"), scope:
            await runtime.run(job)


async def test_a_deadline_ends_a_job() -> None:
    log: list[str] = []
    async with opened() as runtime:
        with anyio.move_on_after(0.005) as scope:
            await runtime.run(forever, log)
        assert scope.cancelled_caught
        assert log in (["clean"], [])


async def test_in_a_cancelled_scope_nothing_is_started() -> None:
    log: list[str] = []
    async with opened() as runtime:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await runtime.run(forever, log)
        assert scope.cancelled_caught
        assert not log
        assert runtime.stats().jobs_done == 0


async def test_a_task_waits_for_its_jobs_cleaning_up_however_long_it_takes() -> None:
    gate = Gate()

    async def job() -> None:
        try:
            await coro_rt.sleep(math.inf)
        finally:
            gate._wait()
            order.append("job")

    order: list[str] = []
    async with opened() as runtime, anyio.create_task_group() as tg:

        async def task() -> None:
            try:
                await runtime.run(job)
            finally:
                order.append("task")

        tg.start_soon(task)
        await until(lambda: runtime.stats().jobs_waiting)
        tg.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await gate.closed()
            await anyio.sleep(0.01)
            gate.open()
    assert order == ["job", "task"]


async def test_closing_while_the_block_raises_lets_the_error_through_as_it_is() -> None:
    log: list[str] = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with opened() as runtime, runtime.start(forever, log) as job:
            await until_state(job, State.RUNNING)
            raise ZeroDivisionError
    assert log == ["clean"]
    with pytest.raises(ZeroDivisionError):
        async with coro_rt.open_runtime():
            raise ZeroDivisionError


async def test_cancelling_the_task_that_opened_the_runtime_closes_it() -> None:
    log = Log()
    stages = Stages()
    async with anyio.create_task_group() as tg:

        async def opener() -> None:
            async with opened() as runtime, anyio.create_task_group() as inner:
                for i, stage in enumerate(("ready", "sleep", "hosted", "waiting")):
                    inner.start_soon(runtime.run, getattr(stages, stage), log, i)

        tg.start_soon(opener)
        await until(lambda: len(log) == 5)
        tg.cancel_scope.cancel()
    assert set(log.values()) == {"clean"}


async def test_a_host_function_is_cancelled_with_its_job_not_before() -> None:
    """The runtime's task group is in the opener's scopes, which would reach host functions before jobs."""
    errors = []

    async def job() -> None:
        try:
            await coro_rt.on_host(anyio.sleep, math.inf)
        except BaseException as exc:
            errors.append(type(exc))
            raise

    with anyio.CancelScope() as scope:
        async with opened() as runtime, runtime.start(job) as handle:
            await until_state(handle, State.WAITING)
            await anyio.sleep(0.005)
            scope.cancel()
    assert errors == [coro_rt.Cancelled]


async def test_a_host_function_that_is_cancelled_before_the_loop_has_heard_of_it_ends() -> None:
    """Its worker has parked the job, and is about to tell the loop to call the function."""
    told, cancelled = threading.Event(), threading.Event()

    async def job() -> None:
        await coro_rt.on_host(anyio.sleep, math.inf)

    async with opened() as runtime:
        host = runtime._engine.host
        post = host.post

        def overtaken(callback: Callable[[], None]) -> None:
            if callback.__name__ == "_start":
                told.set()
                assert cancelled.wait(PATIENCE_S)
            post(callback)
            if callback.__name__ == "_cancel":
                cancelled.set()

        host.post = overtaken  # type: ignore[method-assign]
        async with runtime.start(job) as handle:
            await until(told.is_set)
            handle.cancel()
            await until_state(handle, State.DONE)
            with pytest.raises(coro_rt.JobCancelled):
                await handle.result()


async def test_simulated_work_is_cancelled_at_the_end_of_its_quantum() -> None:
    async def job() -> None:
        await sim_work(3600)

    async def other() -> None:
        await coro_rt.sleep(1.0001)
        victim.cancel()

    async with simulated(devices=["sim", coro_rt.testing.SimDevice("sim2")]) as (runtime, clock):
        with clock.hold():
            async with anyio.create_task_group() as tg:
                victim = runtime.start(job)
                await victim.__aenter__()
                helper = runtime.start(other, device="sim2")
                await helper.__aenter__()
        await helper.result()
        with pytest.raises(coro_rt.JobCancelled):
            await victim.result()
        assert tg is not None
        assert clock.now() == pytest.approx(1.002)
        await victim.__aexit__(None, None, None)
        await helper.__aexit__(None, None, None)


# What only asyncio has: a task may be cancelled again and again.


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
class TestAsyncio:
    async def _asked(self, runtime: Runtime, gate: Gate, log: list[str]) -> "asyncio.Task[None]":
        async def job() -> None:
            try:
                await coro_rt.sleep(math.inf)
            finally:
                gate._wait()
                log.append("job")

        async def task() -> None:
            try:
                await runtime.run(job)
            finally:
                log.append("task")

        asked = asyncio.create_task(task())
        await until(lambda: runtime.stats().jobs_waiting)
        return asked

    async def test_a_second_cancel_does_not_hurry_the_task(self) -> None:
        gate = Gate()
        log: list[str] = []
        async with opened() as runtime:
            task = await self._asked(runtime, gate, log)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.002)
            assert log == []
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert log == ["job", "task"]

    async def test_asyncio_timeout_ends_the_job(self) -> None:
        log: list[str] = []
        async with opened() as runtime:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await runtime.run(forever, log)
            assert log in (["clean"], [])  # on a busy machine it may not have started
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    async def test_waiting_for_a_slow_cleaning_up_does_not_keep_the_loop_busy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """anyio cancels again at every turn of the loop; the wait is shielded from that."""

        class CountedTurn(Turn):
            made = 0

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                CountedTurn.made += 1

        gate = Gate()
        monkeypatch.setattr("coro_rt.hosts.Turn", CountedTurn)

        async def job() -> None:
            try:
                await coro_rt.sleep(math.inf)
            finally:
                gate._wait()

        async with opened() as runtime, anyio.create_task_group() as tg:
            tg.start_soon(runtime.run, job)
            await until(lambda: runtime.stats().jobs_waiting)
            CountedTurn.made = 0
            tg.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await gate.closed()
                for _ in range(10):
                    await asyncio.sleep(0.001)
                gate.open()
                await until(lambda: not runtime._engine.jobs)
            assert CountedTurn.made == 1


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_on_trio_a_result_that_is_there_is_not_dropped_for_a_cancel() -> None:
    async def job() -> str:
        try:
            await coro_rt.sleep(math.inf)
        except coro_rt.Cancelled:
            return "partial"
        return "whole"

    async with opened() as runtime:
        with trio.move_on_after(0.01) as scope:
            assert await runtime.run(job) == "partial"
        assert scope.cancel_called
