"""The event loop: one wake for all that is ready, wrong loops, threads and processes, closing, and Ctrl-C."""

import asyncio
import os
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from rt_tools import PATIENCE_S, Gate, add, opened, until

import coro_rt
from coro_rt.hosts import Waiter, current_host
from coro_rt.turn import Turn

pytestmark = pytest.mark.anyio


async def one() -> int:
    return await add(0, 1)


async def items() -> Any:
    yield 1


async def test_many_jobs_that_are_done_together_wake_the_loop_once() -> None:
    gate, wakes = Gate(), 0
    async with opened() as runtime, anyio.create_task_group() as tg, runtime.start(gate.job):
        host = runtime._engine.host
        wake = host._wake

        def counted() -> None:
            nonlocal wakes
            wakes += 1
            wake()

        await gate.closed()
        for _ in range(100):
            tg.start_soon(runtime.run, one)
        await until(lambda: runtime.stats().jobs_ready == 100)
        host._wake = counted  # type: ignore[method-assign]
        gate.open()
        while runtime.stats().jobs_done < 101:
            time.sleep(0.001)  # noqa: ASYNC251 (the loop must not run)
        assert wakes == 1


async def test_who_waits_for_a_job_is_told_before_it_is_chosen_who_runs_next() -> None:
    gate, order = Gate(), []
    async with opened() as runtime, runtime.start(gate.job) as job:
        engine = runtime._engine
        post, choose = engine.host.post, engine.scheduler.next

        def told(callback: Callable[[], None]) -> None:
            order.append("told")
            post(callback)

        def chosen(device: str, now: float) -> Any:
            order.append("chosen")
            return choose(device, now)

        await gate.closed()
        async with anyio.create_task_group() as tg:
            tg.start_soon(job.result)
            tg.start_soon(runtime.run, one)
            await until(lambda: runtime.stats().jobs_ready == 1)
            engine.host.post = told  # type: ignore[method-assign]
            engine.scheduler.next = chosen  # type: ignore[method-assign]
            gate.open()
    assert order[:4] == ["told", "chosen", "told", "chosen"]


def test_on_trio_a_task_goes_on_in_the_turn_of_the_loop_that_heard_of_its_job() -> None:
    class Turns(trio.abc.Instrument):
        count = 0

        def after_io_wait(self, timeout: float) -> None:
            self.count += 1

    async def main() -> None:
        turns, heard_in = Turns(), []
        trio.lowlevel.add_instrument(turns)
        async with opened() as runtime:
            host = runtime._engine.host
            drain = host._drain

            def heard() -> None:
                heard_in.append(turns.count)
                drain()

            host._drain = heard  # type: ignore[method-assign]
            await runtime.run(one)
            assert heard_in[0] == turns.count

    trio.run(main)


@pytest.mark.parametrize("by", ["a callback", "a task", "a cancel"])
@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=str)
async def test_on_asyncio_the_task_of_a_turn_goes_on_at_once_unless_another_runs(by: str) -> None:
    loop, log = asyncio.get_running_loop(), []
    turn, name = Turn(loop=loop), ContextVar("name", default="the loop's")

    async def wait() -> None:
        name.set("the task's")
        try:
            await turn
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        log.append(name.get())

    def come() -> None:
        log.append("before")
        if not turn.done():
            turn.come()
        log.append("after")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    if by == "a task":
        come()
    else:
        loop.call_soon(come)
    if by == "a cancel":
        task.cancel()
    await asyncio.wait([task])
    assert (
        log
        == {
            "a callback": ["before", "the task's", "after"],
            "a task": ["before", "after", "the task's"],
            "a cancel": ["before", "after", "cancelled"],
        }[by]
    )


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_posted_while_the_loop_hears_waits_for_its_next_turn(
    fails: bool,
) -> None:
    log: list[str] = []
    async with opened() as runtime:
        host = runtime._engine.host

        def first() -> None:
            host.post(partial(log.append, "later"))
            if fails:
                raise LookupError

        for heard in (first, partial(log.append, "second")):
            host._box.append(heard)
        with pytest.raises(LookupError) if fails else nullcontext():
            host._drain()
        assert log == ([] if fails else ["second"])
        await until(lambda: len(log) == 2)
    assert log == ["second", "later"]


async def test_what_a_worker_posts_last_is_heard_although_the_host_is_closed_right_after() -> None:
    host = current_host()
    waiter, heard = Waiter(host), []

    async def wait() -> None:
        await host.wait(waiter, lambda: True)
        heard.append(True)

    with anyio.move_on_after(PATIENCE_S):
        async with anyio.create_task_group() as tg:
            tg.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            worker = threading.Thread(target=waiter.deliver)
            worker.start()
            worker.join()  # the loop has had no turn
            host.close()
    assert heard == [True]


@pytest.mark.parametrize("use", ["run", "start", "stream", "anext"])
async def test_after_closing_everything_is_a_runtime_closed(use: str) -> None:
    async with opened() as runtime:
        pass
    with pytest.raises(coro_rt.RuntimeClosed, match="the runtime is closed"):  # noqa: PT012
        if use == "run":
            await runtime.run(one)
        elif use == "start":
            async with runtime.start(one):
                pass
        elif use == "stream":
            async with runtime.stream(items):
                pass
        else:
            await anext(runtime.stream(items))
    runtime.stats()


async def test_a_runtime_is_opened_once() -> None:
    opening = coro_rt.open_runtime()
    async with opening:
        pass
    with pytest.raises(RuntimeError, match="opened already"):
        async with opening:
            pass


def _in_a_thread(fn: Callable[[], Coroutine[Any, Any, Any]], run: Callable[..., Any]) -> BaseException | None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            run(fn)
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return caught[0] if caught else None


async def test_another_threads_loop_is_a_wrong_context() -> None:
    async with opened() as runtime:
        stream = runtime.stream(items)
        assert await anext(stream) == 1

        async def ask() -> None:
            await runtime.run(one)

        async def iterate() -> None:
            await anext(stream)

        for fn in (ask, iterate):
            for backend in ("trio", "asyncio"):
                error = _in_a_thread(fn, lambda fn, backend=backend: anyio.run(fn, backend=backend))
                assert isinstance(error, coro_rt.WrongContext)
                assert "another thread" in str(error)
        await stream.aclose()


async def test_inside_a_job_the_runtime_is_a_wrong_context_that_names_spawn() -> None:
    async with opened() as runtime:

        async def job() -> None:
            await runtime.run(one)

        with pytest.raises(coro_rt.WrongContext, match=r"inside a job, use coro_rt\.spawn"):
            await runtime.run(job)


def test_another_loop_in_the_same_thread_is_a_wrong_context() -> None:
    one_loop, other_loop = asyncio.new_event_loop(), asyncio.new_event_loop()
    runtimes: list[coro_rt.Runtime] = []
    finish = asyncio.Event()

    async def hold() -> None:
        async with coro_rt.open_runtime() as runtime:
            runtimes.append(runtime)
            await finish.wait()

    try:
        holder = one_loop.create_task(hold())
        one_loop.run_until_complete(asyncio.sleep(0.01))
        with pytest.raises(coro_rt.WrongContext, match="another event loop"):
            other_loop.run_until_complete(runtimes[0].run(one))
        assert one_loop.run_until_complete(runtimes[0].run(one)) == 1
        finish.set()
        one_loop.run_until_complete(holder)
    finally:
        one_loop.close()
        other_loop.close()


def test_without_a_loop_opening_is_a_wrong_context() -> None:
    with pytest.raises(coro_rt.WrongContext, match="needs a running event loop"):
        coro_rt.open_runtime().__aenter__().send(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_after_a_fork_the_runtime_is_a_wrong_context_in_the_child() -> None:
    async with opened() as runtime:
        await runtime.run(one)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:  # nothing may escape from here
            try:
                runtime.run(one).send(None)
            except BaseException as exc:
                os.write(write, f"{type(exc).__name__}: {exc}".encode())
            finally:
                os._exit(0)
        os.close(write)
        text = os.read(read, 1000).decode()
        os.close(read)
        os.waitpid(pid, 0)  # noqa: ASYNC222
        assert (
            text == "WrongContext: this runtime was opened before a fork: open a new one in the child process"
        )
        assert await runtime.run(one) == 1


async def test_two_runtimes_on_one_loop() -> None:
    async with opened() as first, opened() as second:
        assert await first.run(one) == 1
        assert await second.run(one) == 1


async def test_a_runtime_left_by_another_task_group_ends_its_jobs_tasks_with_an_error() -> None:
    errors = []

    async def forever() -> None:
        while True:
            await coro_rt.checkpoint()

    async with anyio.create_task_group() as tg, opened() as runtime:

        async def ask() -> None:
            try:
                await runtime.run(forever)
            except coro_rt.RuntimeClosed as exc:
                errors.append(str(exc))

        tg.start_soon(ask)
        tg.start_soon(ask)
        await until(lambda: len(runtime._engine.jobs) == 2)
    assert len(errors) == 2
    assert "the runtime was closed while" in errors[0]


PROGRAM = """
    import sys, threading
    import anyio, coro_rt

    @coro_rt.kernel(size=lambda: 10**15)
    def spin(start, stop):
        pass

    async def job():
        try:
            await spin()
        finally:
            print("clean", flush=True)

    async def items():
        while True:
            await coro_rt.sleep(0.001)
            yield 1

    async def main():
        async with coro_rt.open_runtime() as runtime:
            async with anyio.create_task_group() as tg:
                for _ in range(3):
                    tg.start_soon(runtime.run, job)
                async with runtime.stream(items) as stream:
                    seen = 0
                    async for item in stream:
                        seen += 1
                        if seen == 3:
                            print("ready", flush=True)
                        {busy}

    backend, uvloop, code = sys.argv[1], sys.argv[2] == "uvloop", 0
    try:
        anyio.run(main, backend=backend, backend_options={"use_uvloop": True} if uvloop else {})
    except* KeyboardInterrupt:  # in a group where a task group was around
        left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        print("interrupted", left, flush=True)
        code = 130
    sys.exit(code)  # not inside `except*`, where older Pythons wrap it in a group
"""


@pytest.mark.parametrize("busy", ["pass", "sum(range(100_000))"])
@pytest.mark.parametrize("backend", [("trio", "-"), ("asyncio", "-"), ("asyncio", "uvloop")], ids="-".join)
def test_ctrl_c_ends_the_jobs_and_the_threads_without_noise(
    child: Callable[..., subprocess.Popen[str]], backend: tuple[str, str], busy: str
) -> None:
    program = textwrap.dedent(PROGRAM.replace("{busy}", busy))
    process = child("-W", "error", "-c", program, *backend, start_new_session=True)
    assert process.stdout is not None
    lines = []
    while "ready\n" not in lines:
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert err == ""
    assert out.endswith("interrupted []\n")
    assert (out + "".join(lines)).count("clean") >= 1
