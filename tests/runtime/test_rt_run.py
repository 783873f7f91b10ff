"""Jobs: results, exceptions, what may be run, and what a job may await."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import logging
import math
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
import trio
from rt_tools import Gate, add, forever, opened, until, until_state

import coro_rt
from coro_rt.schedulers.entry import State

pytestmark = pytest.mark.anyio


async def count(n: int) -> int:
    total = 0
    for i in range(n):
        total = await add(total, i)
        await coro_rt.checkpoint()
    return total


async def fail() -> None:
    await coro_rt.checkpoint()
    raise KeyError("mine")


async def test_a_job_gives_its_result() -> None:
    async with opened() as runtime:
        assert await runtime.run(count, 10) == 45


async def test_jobs_run_in_the_devices_thread_and_know_themselves() -> None:
    async def job() -> tuple[str, str]:
        return threading.current_thread().name, coro_rt.current_job().name

    async with opened() as runtime:
        thread, name = await runtime.run(job)
    assert thread == "coro_rt-cpu"
    assert name == "job"


async def test_a_jobs_exception_reaches_the_task_as_it_is_and_others_go_on() -> None:
    async with opened() as runtime, anyio.create_task_group() as tg:
        results = []

        async def other() -> None:
            results.append(await runtime.run(count, 100))

        tg.start_soon(other)
        with pytest.raises(KeyError, match="mine") as caught:
            await runtime.run(fail)
        assert caught.traceback[-1].name == "fail"
    assert results == [4950]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ExceptionGroup("two", [ValueError()])]
)
async def test_any_exception_can_come_out_of_a_job(error: BaseException) -> None:
    async def job() -> None:
        raise error

    async with opened() as runtime:
        try:
            await runtime.run(job)
        except BaseException as caught:
            assert caught is error  # noqa: PT017 (pytest.raises would not see GeneratorExit on every loop)
        assert await runtime.run(count, 3) == 3


async def test_an_ended_job_is_freed_without_the_garbage_collector() -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    async def job(*, well: bool) -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        await coro_rt.checkpoint()
        if not well:
            raise KeyError

    gc.collect()
    gc.disable()
    try:
        async with opened() as runtime:
            await runtime.run(functools.partial(job, well=True))
            with contextlib.suppress(KeyError):
                await runtime.run(functools.partial(job, well=False))
            await until(lambda: all(thing() is None for thing in things))
    finally:
        gc.enable()


async def test_a_job_has_its_own_copy_of_the_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    async def job() -> str:
        before = var.get()
        var.set("job")
        await coro_rt.checkpoint()
        assert var.get() == "job"
        return before

    var.set("task")
    async with opened() as runtime:
        assert await runtime.run(job) == "task"
        assert var.get() == "task"


def plain() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (plain, "plain returned int: write it as `async def`"),
        (generator, "a generator: write `async def`"),
        (async_generator, "async_generator is an async generator: use runtime.stream"),
        (3, "not 3"),
    ],
)
async def test_what_is_not_a_coroutine_function_is_a_type_error_that_says_what_to_do(
    fn: Any, message: str
) -> None:
    async with opened() as runtime:
        with pytest.raises(TypeError, match=message):
            await runtime.run(fn)
        with pytest.raises(TypeError, match=message):
            async with runtime.start(fn):
                pass


async def test_a_coroutine_in_place_of_its_function_is_a_type_error() -> None:
    async with opened() as runtime:
        with pytest.raises(TypeError, match=r"not a coroutine: runtime\.run\(fn, \*args\)"):
            await runtime.run(count(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wait",
    [
        lambda: anyio.sleep(0.01),
        lambda: trio.sleep(0.01),  # noqa: ASYNC105
        lambda: asyncio.sleep(0.01),
        lambda: asyncio.sleep(0),
        lambda: anyio.Event().wait(),
        lambda: trio.Event().wait(),
        lambda: asyncio.Event().wait(),
        lambda: anyio.to_thread.run_sync(int),
    ],
    ids=["anyio", "trio", "asyncio", "bare", "anyio.Event", "trio.Event", "asyncio.Event", "to_thread"],
)
async def test_awaiting_a_host_object_is_an_error_that_names_on_host(wait: Callable[[], Any]) -> None:
    async def job() -> None:
        await wait()

    async with opened() as runtime:
        with pytest.raises(coro_rt.HostObjectError, match=r"job .*await coro_rt\.on_host"):
            await runtime.run(job)
        assert await runtime.run(count, 3) == 3


async def test_the_original_error_is_the_cause_of_a_host_object_error() -> None:
    async def job() -> None:
        await asyncio.sleep(1)

    async with opened() as runtime:
        with pytest.raises(coro_rt.HostObjectError) as caught:
            await runtime.run(job)
        assert isinstance(caught.value.__cause__, RuntimeError)


async def test_a_host_object_error_is_raised_at_the_await_where_the_job_can_catch_it() -> None:
    class Foreign:
        def __await__(self) -> Iterator[object]:
            yield self

    async def job() -> str:
        try:
            await Foreign()  # type: ignore[misc]
        except coro_rt.HostObjectError:
            return "caught"
        return "not reached"

    async with opened() as runtime:
        assert await runtime.run(job) == "caught"


@pytest.mark.parametrize("awaitable", [coro_rt.checkpoint, lambda: coro_rt.sleep(1), lambda: add(1, 2)])
async def test_what_jobs_await_is_a_wrong_context_in_a_task(awaitable: Callable[[], Any]) -> None:
    with pytest.raises(coro_rt.WrongContext, match="inside a job"):
        await awaitable()


async def test_functions_for_jobs_are_a_wrong_context_in_a_task() -> None:
    with pytest.raises(coro_rt.WrongContext, match="inside a job"):
        coro_rt.current_job()
    with pytest.raises(coro_rt.WrongContext, match="inside a job"):
        coro_rt.spawn(count, 1)
    with pytest.raises(coro_rt.WrongContext, match="inside a job"):
        await coro_rt.on_host(anyio.sleep, 0)
    with pytest.raises(coro_rt.WrongContext, match="inside a job"):
        await coro_rt.Lock().acquire()
    with pytest.raises(coro_rt.WrongContext, match="inside a job"):
        await coro_rt.Event().wait()


async def test_sleep_takes_time_and_zero_is_a_checkpoint() -> None:
    async def job() -> None:
        await coro_rt.sleep(0.001)
        await coro_rt.sleep(0)
        await coro_rt.sleep(-1)

    async with opened() as runtime:
        await runtime.run(job)
        with pytest.raises(ValueError, match="NaN"):
            coro_rt.sleep(math.nan)


# Handles.


async def test_a_started_job_runs_beside_the_block() -> None:
    async with opened() as runtime, runtime.start(count, 10) as job:
        assert await job.result() == 45
        assert await job.result() == 45
        assert job.state is State.DONE
        assert job.ledger.quanta == 10


async def test_leaving_the_block_cancels_the_job_and_waits_for_it() -> None:
    log: list[str] = []
    async with opened() as runtime:
        async with runtime.start(forever, log) as job:
            await until_state(job, State.RUNNING)
        assert log == ["clean"]
        assert job.state is State.DONE
        with pytest.raises(coro_rt.JobCancelled):
            await job.result()


async def test_a_job_cancelled_by_hand_has_no_result() -> None:
    async with opened() as runtime, runtime.start(forever) as job:
        job.cancel()
        job.cancel()
        with pytest.raises(coro_rt.JobCancelled, match="forever has no result: it was cancelled by hand"):
            await job.result()


async def test_an_error_that_nobody_asked_for_is_raised_where_the_block_is_left() -> None:
    async with opened() as runtime:
        with pytest.raises(KeyError, match="mine"):
            async with runtime.start(fail) as job:
                await until_state(job, State.DONE)
        async with runtime.start(fail) as job:
            with pytest.raises(KeyError, match="mine"):
                await job.result()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with runtime.start(fail) as job:
                await until_state(job, State.DONE)
                raise ZeroDivisionError


async def test_a_handle_is_used_once_and_not_before_its_block() -> None:
    async with opened() as runtime:
        handle = runtime.start(count, 1)
        assert handle.state is State.NEW
        with pytest.raises(RuntimeError, match="has not been started"):
            await handle.result()
        async with handle:
            pass
        with pytest.raises(RuntimeError, match=r"call runtime\.start again"):
            async with handle:
                pass


# Children.


async def test_a_child_gives_its_result_to_its_parent() -> None:
    async def parent() -> list[int]:
        children = [coro_rt.spawn(count, n) for n in (3, 4, 5)]
        return [await child for child in children]

    async with opened() as runtime:
        assert await runtime.run(parent) == [3, 6, 10]


async def test_children_that_still_run_are_ended_before_the_parents_result_is_delivered() -> None:
    log: list[str] = []

    async def parent() -> str:
        child = coro_rt.spawn(forever, log)
        coro_rt.spawn(forever, log)  # never starts, or does: both end
        while child.state is not State.READY or not child.entry.started:
            await coro_rt.checkpoint()
        return "done"

    async with opened() as runtime:
        assert await runtime.run(parent) == "done"
        assert "clean" in log
        assert runtime.stats().jobs_done == 3


async def test_a_childs_error_that_nobody_got_becomes_the_parents() -> None:
    async def parent(*, error: bool, wait: bool) -> None:
        child = coro_rt.spawn(fail)
        if wait:
            with pytest.raises(KeyError):
                await child
        else:
            while child.state is not State.DONE:
                await coro_rt.checkpoint()
        if error:
            raise ZeroDivisionError

    async with opened() as runtime:
        with pytest.raises(KeyError):
            await runtime.run(functools.partial(parent, error=False, wait=False))
        with pytest.raises(ZeroDivisionError):
            await runtime.run(functools.partial(parent, error=True, wait=False))
        await runtime.run(functools.partial(parent, error=False, wait=True))


async def test_a_child_that_fails_while_it_is_ended_gives_the_parent_its_error() -> None:
    async def child() -> None:
        try:
            await coro_rt.sleep(math.inf)
        finally:
            raise KeyError("cleaning up")

    async def parent() -> None:
        job = coro_rt.spawn(child)
        while job.state is not State.WAITING:
            await coro_rt.checkpoint()

    async with opened() as runtime:
        with pytest.raises(KeyError, match="cleaning up"):
            await runtime.run(parent)


async def test_a_child_cancelled_by_its_parent_is_an_error_only_for_who_awaits_it() -> None:
    async def parent() -> str:
        child = coro_rt.spawn(forever)
        await coro_rt.checkpoint()
        child.cancel()
        try:
            await child
        except coro_rt.JobCancelled:
            return "no result"
        return "a result"

    async with opened() as runtime:
        assert await runtime.run(parent) == "no result"


async def test_cancelling_a_task_ends_its_job_and_the_jobs_children() -> None:
    log: list[str] = []

    async def parent() -> None:
        try:
            await coro_rt.spawn(forever, log)
        finally:
            log.append("parent")

    async with opened() as runtime:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                tg.start_soon(runtime.run, parent)
                await until(lambda: runtime.stats().jobs_waiting)
                await until(lambda: runtime.stats().jobs_running)
                scope.cancel()
        assert sorted(log) == ["clean", "parent"]
        assert not runtime._engine.jobs


# on_host.


async def test_on_host_runs_on_the_loop_and_gives_the_result() -> None:
    loop_thread = threading.get_ident()

    async def ask(question: str) -> str:
        assert threading.get_ident() == loop_thread
        await anyio.sleep(0.001)
        return question + "!"

    async def job() -> str:
        return await coro_rt.on_host(ask, "yes")

    async with opened() as runtime, runtime.start(job) as handle:
        assert await handle.result() == "yes!"
        assert handle.ledger.host_s > 0


async def test_an_error_on_the_host_goes_to_the_job_alone() -> None:
    async def ask() -> None:
        raise KeyError("host")

    async def job() -> str:
        try:
            await coro_rt.on_host(ask)
        except KeyError:
            return "caught"
        return "not reached"

    async with opened() as runtime:
        assert await runtime.run(job) == "caught"


async def test_cancelling_a_job_cancels_its_host_function_and_waits_for_it() -> None:
    log: list[str] = []

    async def ask() -> None:
        log.append("asked")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            log.append("host")

    async def job() -> None:
        try:
            await coro_rt.on_host(ask)
        finally:
            log.append("job")

    async with opened() as runtime:
        async with runtime.start(job):
            await until(lambda: log)
        assert log == ["asked", "host", "job"]


async def test_on_host_takes_a_function() -> None:
    async def job() -> None:
        await coro_rt.on_host(3)  # type: ignore[arg-type]

    async with opened() as runtime:
        with pytest.raises(TypeError, match="on_host takes an async function"):
            await runtime.run(job)


async def test_long_python_steps_are_logged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async def slow_step() -> None:
        began = runtime.clock()
        while runtime.clock() - began < 0.003:
            pass

    caplog.set_level(logging.DEBUG, "coro_rt")
    async with opened() as runtime:
        await runtime.run(slow_step)
    assert "slow_step" in caplog.text


async def test_a_held_worker_serves_nobody_else() -> None:
    gate = Gate()
    async with opened() as runtime, runtime.start(gate.job), runtime.start(count, 3) as other:
        await gate.closed()
        assert other.state is State.READY
        gate.open()
        assert await other.result() == 3
