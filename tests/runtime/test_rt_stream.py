"""Streams: items, ends, the bounded buffer, and what becomes of the job when the task has had enough."""

import gc
import math
import time
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from rt_tools import Gate, opened, until, until_state

import coro_rt
from coro_rt.schedulers.entry import State
from coro_rt.stream import Outlet

pytestmark = pytest.mark.anyio


class Counter:
    """A streaming job that says what it did."""

    def __init__(self) -> None:
        self.made = 0
        self.ended_by: type[BaseException] | None = None
        self.clean = False

    async def __call__(self, n: float = math.inf) -> AsyncIterator[int]:
        try:
            while self.made < n:
                self.made += 1
                yield self.made
        except BaseException as exc:
            self.ended_by = type(exc)
            raise
        finally:
            self.clean = True


async def test_items_come_in_order_and_the_stream_ends() -> None:
    async with opened() as runtime:
        stream = runtime.stream(Counter(), 100)
        assert stream.finish_reason is None
        assert [item async for item in stream] == list(range(1, 101))
        assert stream.finish_reason == "stop"
        assert stream.usage is None
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert [item async for item in stream] == []


async def test_the_job_says_why_it_ended_and_what_it_took() -> None:
    async def job() -> AsyncIterator[str]:
        yield "a"
        outlet = coro_rt.current_job().outlet
        assert outlet is not None
        outlet.finish_reason = "length"
        outlet.usage = {"tokens": 3}

    async with opened() as runtime:
        stream = runtime.stream(job)
        assert [item async for item in stream] == ["a"]
        assert stream.finish_reason == "length"
        assert stream.usage == {"tokens": 3}
        assert stream.ledger.device_s > 0


async def test_never_more_than_the_buffer_is_made_ahead() -> None:
    counter = Counter()
    async with opened() as runtime, runtime.stream(counter, buffer=3) as stream:
        await until_state(stream, State.WAITING)
        assert counter.made == 3
        for expected in range(1, 50):
            assert await anext(stream) == expected
            await until_state(stream, State.WAITING)
            assert counter.made <= expected + 3


async def test_an_item_that_comes_just_when_the_task_has_found_none_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor if the job has ended since."""
    take, gate = Outlet.take, Gate()

    def found_none(self: Outlet[int], job: coro_rt.Job[Any], waiter: Any) -> Any:
        found = take(self, job, waiter)
        gate.open()
        while job.state is not State.DONE:  # the loop must not run
            time.sleep(0)
        return found

    async def job() -> AsyncIterator[int]:
        gate._wait()
        yield 1

    monkeypatch.setattr(Outlet, "take", found_none)
    async with opened() as runtime:
        assert [item async for item in runtime.stream(job)] == [1]


async def test_whoever_sees_that_the_job_is_done_sees_why() -> None:
    seen = []
    async with opened() as runtime, runtime.stream(Counter(), 1) as stream:
        engine = runtime._engine
        done = engine.scheduler.done

        def look(entry: Any, now: float) -> None:
            done(entry, now)
            seen.append(stream.finish_reason)  # as another thread may, in the middle of the job's end

        engine.scheduler.done = look  # type: ignore[method-assign]
        assert [item async for item in stream] == [1]
    assert seen == ["stop"]


async def test_a_buffer_of_one() -> None:
    async with opened() as runtime:
        assert [item async for item in runtime.stream(Counter(), 20, buffer=1)] == list(range(1, 21))


async def test_the_job_begins_with_the_first_use_not_before() -> None:
    counter = Counter()
    async with opened() as runtime:
        stream = runtime.stream(counter)
        await anyio.sleep(0.002)
        assert not runtime._engine.jobs
        assert stream.job is None
        async with stream:
            await until(lambda: counter.made)
        unused = runtime.stream(counter)
        await unused.aclose()
        assert unused.finish_reason == "cancelled"
        with pytest.raises(StopAsyncIteration):
            await anext(unused)


async def test_leaving_the_block_ends_the_job_before_the_task_goes_on() -> None:
    counter = Counter()
    async with opened() as runtime:
        async with runtime.stream(counter, buffer=2) as stream:
            async for item in stream:
                if item == 5:
                    break
        assert counter.clean
        assert counter.ended_by is coro_rt.Cancelled
        assert stream.finish_reason == "cancelled"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_aclose_ends_the_job_and_can_be_called_again() -> None:
    counter = Counter()
    async with opened() as runtime:
        stream = runtime.stream(counter)
        await anext(stream)
        await stream.aclose()
        assert counter.clean
        await stream.aclose()


async def test_closing_a_stream_that_another_task_awaits_ends_its_iteration() -> None:
    async def job() -> AsyncIterator[int]:
        await coro_rt.sleep(math.inf)
        yield 1

    async with opened() as runtime, anyio.create_task_group() as tg:
        stream = runtime.stream(job)
        got: list[int] = []

        async def iterate() -> None:
            got.extend([item async for item in stream])
            got.append(-1)

        tg.start_soon(iterate)
        await until(lambda: stream.job is not None)
        await until_state(stream, State.WAITING)
        await stream.aclose()
        await until(lambda: got)
        assert got == [-1]


@pytest.mark.parametrize("made", [0, 3])
async def test_an_exception_in_the_job_is_raised_after_the_items_before_it(made: int) -> None:
    async def job() -> AsyncIterator[int]:
        for i in range(made):
            yield i
        raise KeyError("mine")

    async with opened() as runtime:
        stream = runtime.stream(job)
        for i in range(made):
            assert await anext(stream) == i
        with pytest.raises(KeyError, match="mine"):
            await anext(stream)
        assert stream.finish_reason == "error"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_an_exception_in_the_block_ends_the_job_and_stays_what_it_is() -> None:
    counter = Counter()
    async with opened() as runtime:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with runtime.stream(counter) as stream:
                async for _ in stream:
                    raise ZeroDivisionError
        assert counter.clean


async def test_a_cancelled_task_ends_the_job_it_waits_for() -> None:
    clean = []

    async def job() -> AsyncIterator[int]:
        try:
            yield 1
            await coro_rt.sleep(math.inf)
            yield 2
        finally:
            clean.append(True)

    async with opened() as runtime:
        stream = runtime.stream(job)

        async def cancel() -> None:
            await until(lambda: stream.job is not None and stream.job.state is State.WAITING)
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with anyio.CancelScope() as scope:
                async for _ in stream:
                    pass
        assert scope.cancelled_caught
        assert clean
        assert stream.finish_reason == "cancelled"


async def test_a_task_that_is_cancelled_while_items_are_there_ends_the_job() -> None:
    counter = Counter()
    async with opened() as runtime:
        stream = runtime.stream(counter)
        with anyio.CancelScope() as scope:
            async for item in stream:
                if item == 3:
                    scope.cancel()
        assert counter.clean
        assert stream.finish_reason == "cancelled"


async def test_a_job_that_is_always_ahead_does_not_keep_the_loop_for_itself() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with opened() as runtime, anyio.create_task_group() as tg:
        tg.start_soon(count_turns)
        async with runtime.stream(Counter(), buffer=1000) as stream:
            for _ in range(200):
                await anext(stream)
        tg.cancel_scope.cancel()
    assert turns >= 150


async def test_a_stream_that_is_dropped_ends_its_job_with_a_warning() -> None:
    counter = Counter()
    async with opened() as runtime:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            async for item in runtime.stream(counter):
                if item == 3:
                    break
            gc.collect()
        (warning,) = [str(one.message) for one in caught if one.category is ResourceWarning]
        assert "a stream of Counter was dropped before its end: use `async with`" in warning
        await until(lambda: counter.clean)
        assert counter.ended_by is coro_rt.Cancelled
        await until(lambda: not runtime._engine.jobs)


async def test_streams_that_ended_or_were_never_used_are_dropped_in_silence() -> None:
    async with opened() as runtime:
        runtime.stream(Counter())
        assert [item async for item in runtime.stream(Counter(), 3)] == [1, 2, 3]
        stream = runtime.stream(Counter())
        await anext(stream)
        await stream.aclose()
        del stream
        gc.collect()


async def test_two_tasks_cannot_iterate_the_same_stream() -> None:
    async def job() -> AsyncIterator[int]:
        await coro_rt.sleep(math.inf)
        yield 1

    async with opened() as runtime, anyio.create_task_group() as tg:
        stream = runtime.stream(job)

        async def first() -> None:
            await anext(stream)

        tg.start_soon(first)
        await until(lambda: stream.job is not None)
        with pytest.raises(RuntimeError, match="two tasks iterate the same stream"):
            await anext(stream)
        tg.cancel_scope.cancel()


async def test_closing_the_runtime_ends_a_stream_with_an_error() -> None:
    counter = Counter()
    runtime_closed = []
    async with anyio.create_task_group() as tg:
        async with opened() as runtime:
            stream = runtime.stream(counter, buffer=2)
            await anext(stream)
        assert counter.clean
        assert tg is not None
    try:
        while True:
            await anext(stream)
    except coro_rt.RuntimeClosed as exc:
        runtime_closed.append(exc)
    assert runtime_closed


async def test_a_generator_that_yields_when_it_is_cancelled_is_ended_all_the_same() -> None:
    log = []

    async def job() -> AsyncIterator[int]:
        try:
            while True:
                try:
                    yield 1
                except coro_rt.Cancelled:
                    yield 2
        finally:
            log.append("clean")

    async with opened() as runtime:
        async with runtime.stream(job, buffer=2) as stream:
            await until_state(stream, State.WAITING)
        assert log == ["clean"]


async def test_a_generator_gives_way_at_every_item() -> None:
    """Also when nothing else makes it wait: an urgent job need not wait for the buffer to be full."""
    gate, order = Gate(), []

    async def urgent() -> None:
        order.append("urgent")

    async def job() -> AsyncIterator[int]:
        await gate.kernel()
        for i in range(10):
            order.append(i)
            yield i

    async with (
        opened() as runtime,
        anyio.create_task_group() as tg,
        runtime.stream(job, buffer=100) as stream,
    ):
        await gate.closed()
        with coro_rt.qos(coro_rt.QoS.USER_INTERACTIVE):
            tg.start_soon(runtime.run, urgent)
        await until(lambda: runtime.stats().jobs_ready == 1)
        gate.open()
        assert len([item async for item in stream]) == 10
    assert order.index("urgent") <= 1


def plain() -> int:
    return 1


async def coroutine() -> int:
    return 1


@pytest.mark.parametrize(
    ("fn", "message"), [(coroutine, r"use `runtime\.run\(coroutine"), (3, "not 3"), (None, "not None")]
)
async def test_what_is_not_an_async_generator_function_is_a_type_error(fn: Any, message: str) -> None:
    async with opened() as runtime:
        with pytest.raises(TypeError, match=message):
            runtime.stream(fn)


async def test_a_function_that_returns_something_else_fails_at_the_first_item() -> None:
    async with opened() as runtime:
        fn: Callable[[], Any] = plain
        with pytest.raises(TypeError, match="plain gave 1"):
            await anext(runtime.stream(fn))


@pytest.mark.parametrize("buffer", [0, -1, 1.5, True])
async def test_a_buffer_is_a_positive_number_of_items(buffer: Any) -> None:
    async with opened() as runtime:
        with pytest.raises(ValueError, match="buffer is a number of items"):
            runtime.stream(Counter(), buffer=buffer)
