"""Waiting between jobs: locks, events, joins; urgency is inherited, circles are errors."""

import math

import anyio
import pytest
from rt_tools import Gate, opened, simulated, until, until_state

import coro_rt
from coro_rt import Event, Job, Lock, QoS
from coro_rt.schedulers.entry import State
from coro_rt.testing import sim_work

pytestmark = pytest.mark.anyio


async def test_a_lock_is_held_by_one_job_at_a_time() -> None:
    lock, inside, most = Lock(), 0, 0

    async def job() -> None:
        nonlocal inside, most
        for _ in range(5):
            async with lock:
                inside += 1
                most = max(most, inside)
                await coro_rt.sleep(0.0001)
                inside -= 1

    async with opened() as runtime, anyio.create_task_group() as tg:
        for _ in range(10):
            tg.start_soon(runtime.run, job)
    assert most == 1
    assert not lock.locked()


async def test_a_lock_goes_to_the_most_urgent_waiter_and_its_holder_inherits() -> None:
    lock, order = Lock(), []

    async def job(level: QoS) -> None:
        async with lock:
            order.append(level)
            await sim_work(0.01)

    async with simulated() as (runtime, clock), runtime.start(job, QoS.BACKGROUND) as first:
        with coro_rt.qos(QoS.BACKGROUND):
            await until_state(first, State.DONE)
        order.clear()

        async def holder() -> None:
            async with lock:
                children = []
                for level in (QoS.UTILITY, QoS.USER_INITIATED, QoS.DEFAULT):
                    with coro_rt.qos(level):
                        children.append(coro_rt.spawn(job, level))
                while any(child.state is not State.WAITING for child in children):
                    await coro_rt.sleep(0.001)
                assert coro_rt.current_job().entry.effective_qos is QoS.USER_INITIATED
            for child in children:
                assert child.entry.effective_qos >= child.entry.qos
                await child

        with coro_rt.qos(QoS.BACKGROUND):
            await runtime.run(holder)
        assert order == [QoS.USER_INITIATED, QoS.DEFAULT, QoS.UTILITY]
        assert clock.now() > 0


async def test_waiters_lend_their_urgency_to_the_next_holder() -> None:
    lock, seen = Lock(), []

    async def hold(*, note: bool) -> None:
        async with lock:
            await coro_rt.sleep(0.001)
            if note:
                seen.append(coro_rt.current_job().entry.effective_qos)

    async def parent() -> None:
        async with lock:
            with coro_rt.qos(QoS.USER_INITIATED):
                heir = coro_rt.spawn(_hold_noting)
            with coro_rt.qos(QoS.DEFAULT):
                other = coro_rt.spawn(_hold)
            while heir.state is not State.WAITING or other.state is not State.WAITING:
                await coro_rt.sleep(0.001)
            other.set_qos(QoS.USER_INTERACTIVE)
            other.set_qos(QoS.DEFAULT)
        await heir
        await other

    async def _hold_noting() -> None:
        await hold(note=True)

    async def _hold() -> None:
        await hold(note=False)

    async with simulated() as (runtime, _):
        with coro_rt.qos(QoS.BACKGROUND):
            await runtime.run(parent)
    assert seen == [QoS.USER_INITIATED]


async def test_taking_a_lock_twice_is_a_deadlock() -> None:
    lock = Lock()

    async def job() -> str:
        async with lock:
            try:
                await lock.acquire()
            except coro_rt.DeadlockError:
                return "deadlock"
        return "not reached"

    async with opened() as runtime:
        assert await runtime.run(job) == "deadlock"
    assert not lock.locked()


async def test_only_the_holder_releases_a_lock() -> None:
    lock = Lock()

    async def job() -> None:
        lock.release()

    async with opened() as runtime:
        with pytest.raises(RuntimeError, match="job does not hold this lock, nobody does"):
            await runtime.run(job)


async def test_two_jobs_that_await_each_other_get_a_deadlock_error() -> None:
    jobs: list[Job[str]] = []

    async def one(other: int) -> str:
        await coro_rt.checkpoint()
        try:
            return await jobs[other]
        except coro_rt.DeadlockError:
            return "deadlock"

    async def parent() -> list[str]:
        jobs.extend([coro_rt.spawn(one, 1), coro_rt.spawn(one, 0)])
        return [await job for job in jobs]

    async with opened() as runtime:
        assert await runtime.run(parent) == ["deadlock", "deadlock"]  # raised in one, returned by both


async def test_locks_in_a_circle_are_a_deadlock_in_the_second_job() -> None:
    locks = Lock(), Lock()
    errors: list[str] = []

    async def job(first: int) -> None:
        async with locks[first]:
            await coro_rt.sleep(0.001)
            try:
                async with locks[1 - first]:
                    pass
            except coro_rt.DeadlockError as exc:
                errors.append(str(exc))

    async with opened() as runtime, anyio.create_task_group() as tg:
        tg.start_soon(runtime.run, job, 0)
        tg.start_soon(runtime.run, job, 1)
    assert len(errors) == 1


async def test_a_child_inherits_the_urgency_of_who_awaits_it() -> None:
    seen = []

    async def child() -> None:
        seen.append(coro_rt.current_job().entry.effective_qos)
        await coro_rt.sleep(0.001)
        seen.append(coro_rt.current_job().entry.effective_qos)

    async def parent() -> None:
        with coro_rt.qos(QoS.BACKGROUND):
            job = coro_rt.spawn(child)
        while job.state is not State.WAITING:
            await coro_rt.sleep(0.0001)
        await job

    async with simulated() as (runtime, _):
        with coro_rt.qos(QoS.USER_INITIATED):
            await runtime.run(parent)
    assert seen == [QoS.BACKGROUND, QoS.USER_INITIATED]


async def test_an_event_wakes_all_who_wait_and_lets_later_ones_through() -> None:
    event = Event()

    async def job() -> bool:
        await event.wait()
        return event.is_set()

    async with opened() as runtime, anyio.create_task_group() as tg:
        results = []

        async def task() -> None:
            results.append(await runtime.run(job))

        for _ in range(50):
            tg.start_soon(task)
        await until(lambda: runtime.stats().jobs_waiting == 50)
        event.set()
        event.set()
        await until(lambda: len(results) == 50)
        assert await runtime.run(job)
    assert all(results)


async def test_an_event_set_by_a_job() -> None:
    event, order = Event(), []

    async def waiter() -> None:
        await event.wait()
        order.append("waiter")

    async def parent() -> None:
        child = coro_rt.spawn(waiter)
        while child.state is not State.WAITING:
            await coro_rt.checkpoint()
        order.append("set")
        event.set()
        await child

    async with opened() as runtime:
        await runtime.run(parent)
    assert order == ["set", "waiter"]


async def test_an_events_owner_inherits_and_a_circle_is_a_deadlock() -> None:
    async def setter(events: list[Event]) -> QoS:
        while not events:
            await coro_rt.sleep(0.001)
        await coro_rt.sleep(0.001)
        level = coro_rt.current_job().entry.effective_qos
        with pytest.raises(coro_rt.DeadlockError):
            await events[0].wait()
        events[0].set()
        return level

    async def waiter() -> QoS:
        events: list[Event] = []
        with coro_rt.qos(QoS.BACKGROUND):
            owner = coro_rt.spawn(setter, events)
        events.append(Event(owner))
        await events[0].wait()
        return await owner

    async with simulated() as (runtime, _):
        with coro_rt.qos(QoS.USER_INITIATED):
            assert await runtime.run(waiter) is QoS.USER_INITIATED


async def test_cancelling_a_lock_waiter_leaves_the_lock_to_others() -> None:
    lock, gate = Lock(), Event()

    async def holder() -> None:
        async with lock:
            await gate.wait()

    async def waiter() -> None:
        async with lock:
            pass

    async with opened() as runtime, runtime.start(holder) as first:
        await until_state(first, State.WAITING)
        async with runtime.start(waiter) as cancelled, runtime.start(waiter) as other:
            await until_state(cancelled, State.WAITING)
            await until_state(other, State.WAITING)
            cancelled.cancel()
            await until_state(cancelled, State.DONE)
            gate.set()
            await other.result()
    assert not lock.locked()


async def test_a_waiter_cancelled_in_the_moment_of_getting_the_lock_gives_it_back() -> None:
    lock, event, gate = Lock(), Event(), Gate()

    async def holder() -> None:
        async with lock:
            await event.wait()
        await gate.kernel()  # the waiter has the lock, and is ready, and is cancelled

    async def waiter() -> None:
        async with lock:
            raise AssertionError("not reached")

    async with opened(background_share=0.0) as runtime, runtime.start(holder) as first:
        await until_state(first, State.WAITING)
        with coro_rt.qos(QoS.BACKGROUND):
            second = runtime.start(waiter)
            await second.__aenter__()
        await until_state(second, State.WAITING)
        event.set()
        await gate.closed()
        assert second.state is State.READY
        second.cancel()
        gate.open()
        await until_state(second, State.DONE)
        await second.__aexit__(None, None, None)
        await first.result()
    assert not lock.locked()


async def test_locks_and_events_belong_to_one_runtime() -> None:
    lock, event = Lock(), Event()

    async def hold() -> None:
        async with lock:
            await event.wait()

    async with opened() as one, opened() as two, one.start(hold) as holder:
        await until_state(holder, State.WAITING)
        with pytest.raises(coro_rt.WrongContext, match="another runtime"):
            await two.run(lock.acquire)
        with pytest.raises(coro_rt.WrongContext, match="another runtime"):
            await two.run(event.wait)
        event.set()
        await holder.result()


async def test_a_job_of_another_runtime_cannot_be_awaited() -> None:
    async def wait(job: Job[None]) -> None:
        await job

    async def forever() -> None:
        await coro_rt.sleep(math.inf)

    async with opened() as one, opened() as two, one.start(forever) as handle:
        with pytest.raises(coro_rt.WrongContext, match="another runtime"):
            await two.run(wait, handle.job)
