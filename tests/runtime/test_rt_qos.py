"""How urgency gets from the task to the scheduler, and what it does there."""

import math
from collections.abc import AsyncIterator

import anyio
import pytest
from rt_tools import PATIENCE_S, Gate, opened, simulated, until, until_state

import coro_rt
from coro_rt import Job, Policy, QoS, Runtime
from coro_rt.schedulers.entry import Entry, State
from coro_rt.testing import SimDevice, sim_work

pytestmark = pytest.mark.anyio


async def this() -> Entry:
    """A job that gives its own entry."""
    return coro_rt.current_job().entry


async def one_entry() -> AsyncIterator[Entry]:
    """A streaming job that does the same."""
    yield coro_rt.current_job().entry


async def test_the_scope_reaches_the_entry() -> None:
    async with simulated() as (runtime, clock):
        assert (await runtime.run(this)).qos is QoS.DEFAULT
        clock.advance(100)
        with coro_rt.qos(QoS.UTILITY, within_s=5, tenant="mail"):
            entry = await runtime.run(this)
        assert (entry.qos, entry.deadline, entry.tenant) == (QoS.UTILITY, 105.0, "mail")
        entry = await runtime.run(this)
        assert (entry.qos, entry.deadline, entry.tenant) == (QoS.DEFAULT, math.inf, "default")


async def test_of_nested_scopes_the_level_is_the_inner_ones_and_the_deadline_the_earliest() -> None:
    async with simulated() as (runtime, _):
        with coro_rt.qos(QoS.BACKGROUND, within_s=5, tenant="mail"), coro_rt.qos(QoS.UTILITY, within_s=9):
            entry = await runtime.run(this)
        assert (entry.qos, entry.deadline, entry.tenant) == (QoS.UTILITY, 5.0, "mail")


async def test_tasks_inherit_the_scope_they_were_started_in() -> None:
    async with opened() as runtime:
        entries = []

        async def task() -> None:
            entries.append(await runtime.run(this))

        async with anyio.create_task_group() as tg:
            with coro_rt.qos(QoS.BACKGROUND):
                tg.start_soon(task)
    assert entries[0].qos is QoS.BACKGROUND


async def test_the_deadline_of_the_enclosing_cancel_scope_reaches_the_entry() -> None:
    async with simulated() as (runtime, _):
        with anyio.move_on_after(1000), anyio.move_on_after(2000):
            entry = await runtime.run(this)
            assert 900 < entry.deadline <= 1000.001  # a difference of two times is rounded
            with coro_rt.qos(QoS.DEFAULT, within_s=7):
                assert (await runtime.run(this)).deadline == 7.0
            with coro_rt.qos(QoS.DEFAULT, within_s=5000):
                assert (await runtime.run(this)).deadline <= 1000
            async with runtime.start(this) as job:
                assert 900 < (await job.result()).deadline <= 1000


async def test_streams_take_the_scope_of_their_first_use() -> None:
    async with opened() as runtime:
        with coro_rt.qos(QoS.BACKGROUND):
            stream = runtime.stream(one_entry)
        with coro_rt.qos(QoS.UTILITY):
            async with stream:
                entry = await anext(stream)
    assert entry.qos is QoS.UTILITY


async def test_children_are_as_urgent_as_their_parent_is_now() -> None:
    async def parent() -> tuple[Entry, Entry]:
        coro_rt.current_job().set_qos(QoS.UTILITY)
        with coro_rt.qos(QoS.BACKGROUND, within_s=3):
            inner = await coro_rt.spawn(this)
        return await coro_rt.spawn(this), inner

    async with simulated() as (runtime, _):
        with coro_rt.qos(QoS.USER_INITIATED, within_s=9, tenant="mail"):
            child, inner = await runtime.run(parent)
    assert (child.qos, child.deadline, child.tenant) == (QoS.UTILITY, 9.0, "mail")
    assert (inner.qos, inner.deadline, inner.tenant) == (QoS.BACKGROUND, 3.0, "mail")


async def test_host_functions_ask_with_the_jobs_urgency() -> None:
    async with opened() as runtime:

        async def job() -> Entry:
            return await coro_rt.on_host(runtime.run, this)

        with coro_rt.qos(QoS.BACKGROUND):
            entry = await runtime.run(job)
    assert entry.qos is QoS.BACKGROUND


async def _order_behind_a_gate(
    runtime: Runtime, gate: Gate, levels: list[QoS]
) -> tuple[list[Job[None]], list[QoS]]:
    """Jobs of these levels, ready behind a held worker, and the order in which they will have run."""
    order: list[QoS] = []

    async def note(level: QoS) -> None:
        order.append(level)

    jobs = []
    for level in levels:
        with coro_rt.qos(level):
            handle = runtime.start(note, level)
            await handle.__aenter__()
            jobs.append(handle.job)
    return jobs, order


async def test_the_most_urgent_runs_first() -> None:
    gate = Gate()
    async with opened(background_share=0.0) as runtime, runtime.start(gate.job):
        await gate.closed()
        jobs, order = await _order_behind_a_gate(
            runtime, gate, [QoS.BACKGROUND, QoS.DEFAULT, QoS.USER_INTERACTIVE]
        )
        gate.open()
        await until(lambda: all(job.state is State.DONE for job in jobs))
    assert order == [QoS.USER_INTERACTIVE, QoS.DEFAULT, QoS.BACKGROUND]


async def test_urgency_can_be_changed_while_a_job_waits() -> None:
    gate = Gate()
    async with opened(background_share=0.0) as runtime, runtime.start(gate.job):
        await gate.closed()
        jobs, order = await _order_behind_a_gate(
            runtime, gate, [QoS.USER_INITIATED, QoS.DEFAULT, QoS.UTILITY]
        )
        jobs[2].set_qos(QoS.USER_INTERACTIVE)
        jobs[0].set_qos(QoS.BACKGROUND)
        jobs[1].set_qos(within_s=1000)
        assert jobs[1].entry.deadline < math.inf
        gate.open()
        await until(lambda: all(job.state is State.DONE for job in jobs))
    assert order == [QoS.UTILITY, QoS.DEFAULT, QoS.USER_INITIATED]


async def test_an_urgent_job_interrupts_a_kernel_at_the_end_of_its_quantum() -> None:
    """Woken by another device's worker, in the middle of a long kernel."""
    moments: dict[str, float] = {}
    event = coro_rt.Event()

    async with simulated(devices=["sim", SimDevice("other")]) as (runtime, clock):

        async def urgent() -> None:
            await event.wait()
            moments["begun"] = clock.now()
            await sim_work(1)
            moments["urgent"] = clock.now()

        async def long() -> None:
            await sim_work(10)
            moments["long"] = clock.now()

        async def other() -> None:
            await coro_rt.sleep(3.0011)
            event.set()

        async with anyio.create_task_group() as tg:
            with clock.hold():
                with coro_rt.qos(QoS.USER_INTERACTIVE):
                    tg.start_soon(runtime.run, urgent)
                await until(lambda: runtime.stats().jobs_ready == 1)
                with coro_rt.qos(QoS.BACKGROUND):
                    tg.start_soon(runtime.run, long)
                await until(lambda: runtime.stats().jobs_ready == 2)
                helper = runtime.start(other, device="other")
                await helper.__aenter__()
            await helper.result()
        await helper.__aexit__(None, None, None)
    assert 3.0011 <= moments["begun"] < 3.0011 + 0.0021
    assert moments["urgent"] == pytest.approx(moments["begun"] + 1)
    assert moments["long"] == pytest.approx(11.0, abs=1e-6)


async def test_a_sleeping_urgent_job_interrupts_when_it_wakes() -> None:
    moments = {}

    async with simulated() as (runtime, clock):

        async def urgent() -> None:
            await coro_rt.sleep(0.5003)
            moments["woken"] = clock.now()
            await sim_work(0.1)
            moments["urgent"] = clock.now()

        async def long() -> None:
            await sim_work(2)
            moments["long"] = clock.now()

        async with anyio.create_task_group() as tg:
            with clock.hold():
                with coro_rt.qos(QoS.USER_INTERACTIVE):
                    tg.start_soon(runtime.run, urgent)
                await until(lambda: runtime.stats().jobs_ready == 1)
                with coro_rt.qos(QoS.BACKGROUND):
                    tg.start_soon(runtime.run, long)
                await until(lambda: runtime.stats().jobs_ready == 2)
    assert 0.5003 <= moments["woken"] < 0.5003 + 0.0021  # within one quantum
    assert moments["long"] == pytest.approx(2.1, abs=1e-6)


class Backwards(Policy):
    """Last come, first served."""

    def key(self, job: Entry, now: float) -> float:
        return -job.id


async def test_a_policy_can_be_changed_and_a_job_explained() -> None:
    gate = Gate()
    async with opened(policy="fifo") as runtime, runtime.start(gate.job) as holder:
        await gate.closed()
        jobs, order = await _order_behind_a_gate(runtime, gate, [QoS.UTILITY, QoS.DEFAULT, QoS.BACKGROUND])
        text = str(runtime.explain(jobs[1]))
        assert "note" in text
        runtime.explain(holder)
        runtime.set_policy(Backwards)
        with pytest.raises(coro_rt.SchedulerError, match="no policy 'nonsense'"):
            runtime.set_policy("nonsense")
        gate.open()
        await until(lambda: all(job.state is State.DONE for job in jobs))
        with pytest.raises(RuntimeError, match="has not started"):
            runtime.explain(runtime.stream(one_entry))
    assert order == [QoS.BACKGROUND, QoS.DEFAULT, QoS.UTILITY]


async def test_streams_and_handles_change_their_jobs_urgency() -> None:
    async def job() -> None:
        await coro_rt.sleep(math.inf)

    async with opened() as runtime, runtime.start(job) as handle:
        await until_state(handle, State.WAITING)
        handle.set_qos(QoS.UTILITY, within_s=4)
        assert handle.job.entry.qos is QoS.UTILITY
        with pytest.raises(RuntimeError, match="has not started"):
            runtime.stream(one_entry).set_qos(QoS.UTILITY)


def test_a_scope_takes_a_level_and_a_number() -> None:
    with pytest.raises(TypeError, match=r"one of QoS\.BACKGROUND"):
        coro_rt.qos(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        coro_rt.qos(QoS.DEFAULT, within_s=math.nan)
    with pytest.raises(TypeError, match="tenant"):
        coro_rt.qos(QoS.DEFAULT, tenant=3)  # type: ignore[arg-type]
    scope = coro_rt.qos(QoS.DEFAULT)
    with scope, pytest.raises(RuntimeError, match="entered already"), scope:
        pass
    with scope:
        pass


@pytest.mark.parametrize("within_s", [-5.0, 0.0, math.inf])
async def test_a_deadline_that_has_passed_is_urgent_and_cancels_nothing(within_s: float) -> None:
    async with opened() as runtime:
        with coro_rt.qos(QoS.DEFAULT, within_s=within_s):
            assert (await runtime.run(this)).qos is QoS.DEFAULT


class Later(Policy):
    """Everybody has to wait for a quarter of an hour."""

    def key(self, job: Entry, now: float) -> float:
        return now

    def defer_until(self, job: Entry, now: float) -> float:
        return now + 900


@pytest.mark.parametrize("ends", ["goes on", "is cancelled"])
async def test_a_job_that_was_put_off_goes_on_at_once_on_an_idle_device_when_its_urgency_changes(
    ends: str,
) -> None:
    async with (
        opened(devices=["sim"], policy=Later(), max_wait_s=3600) as runtime,
        runtime.start(this) as job,
    ):
        await until(lambda: runtime._engine.workers["sim"].idle)
        assert job.state is State.READY
        with anyio.fail_after(PATIENCE_S):
            if ends == "goes on":
                job.set_qos(QoS.USER_INTERACTIVE)
                await job.result()
            else:
                job.cancel()
                with pytest.raises(coro_rt.JobCancelled):
                    await job.result()
