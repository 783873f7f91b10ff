"""A device that fails is fenced: jobs get DeviceLost where they launch, and may go on elsewhere.

Each kind of fault at each stage of a job's life, on `sim` in virtual time; and the same with the job
cancelled on the way.
"""

import math
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest
from rt_tools import simulated, until
from scene import LIMIT_S, elsewhere, failing, poke, started

import coro_rt
from coro_rt import DeviceLost, JobCancelled, QoS, Runtime, RuntimeClosed, current_job, move_to, sleep, spawn
from coro_rt.faults import REASONS
from coro_rt.testing import Fault, FaultInjection, SimDevice, sim_work

pytestmark = pytest.mark.anyio

STAGES = ("running", "queued", "suspended", "asleep", "moving", "moved")
FAILS_AT, CANCELLED_AT = 0.1, 0.2


async def culprit() -> None:
    """Whose launch finds out that the device fails."""
    await sleep(FAILS_AT)
    with suppress(DeviceLost):
        await poke()


async def hog() -> None:
    with suppress(DeviceLost):
        await sim_work(10.0)


def stand(stage: str, log: list[str]) -> tuple[Callable[[], Any], str]:
    """A job that is at this stage when the device "near" fails, and where it starts."""

    async def victim() -> str:
        try:
            if stage == "asleep":
                await sleep(FAILS_AT + 0.5 * LIMIT_S)
            if stage in ("moving", "moved"):
                await sleep(FAILS_AT * (1.5 if stage == "moving" else 0.5))
                try:
                    await move_to("near")
                except DeviceLost as lost:
                    log.append(lost.reason)
                    assert current_job().worker.name == "far"
            return await elsewhere(log)
        finally:
            log.append("clean")

    return victim, "far" if stage in ("moving", "moved") else "near"


async def play(stage: str, reason: str, log: list[str], *, cancel: bool) -> str:
    """The job's result: the device on which it ended."""
    devices, _ = failing(Fault(reason, kernel="sim_work" if stage == "running" else "poke"))
    victim, where = stand(stage, log)
    victims: list[coro_rt.Job[Any]] = []

    async def canceller() -> None:
        await sleep(CANCELLED_AT)
        if cancel:
            victims[0].cancel()

    async with (
        simulated(devices=devices, background_share=0.0) as (runtime, clock),
        AsyncExitStack() as stack,
    ):
        with clock.hold():
            if stage in ("queued", "moved"):
                await started(stack, runtime, hog, qos=QoS.DEFAULT)
            handle = await started(stack, runtime, victim, qos=QoS.BACKGROUND, device=where)
            victims.append(handle.job)
            await started(stack, runtime, culprit, qos=QoS.USER_INTERACTIVE)
            await started(stack, runtime, canceller, qos=QoS.USER_INTERACTIVE, device="far")
        place: str = await handle.result()
        assert devices[0].fenced == reason
    return place


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reason", REASONS)
async def test_a_job_learns_of_it_where_it_launches_and_goes_on_elsewhere(reason: str, stage: str) -> None:
    log: list[str] = []
    assert await play(stage, reason, log, cancel=False) == "far"
    assert log == [reason, "clean"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reason", REASONS)
async def test_a_job_that_is_cancelled_on_the_way_cleans_up_and_ends(reason: str, stage: str) -> None:
    log: list[str] = []
    with pytest.raises(JobCancelled):
        await play(stage, reason, log, cancel=True)
    assert log in ([reason, "clean"], ["clean"]) or (stage == "queued" and not log)


@pytest.mark.parametrize("reason", REASONS)
async def test_a_job_that_does_not_catch_it_ends_with_it_after_its_clean_up(reason: str) -> None:
    devices, faults = failing(Fault(reason))
    clean = []

    async def job() -> None:
        try:
            await sim_work(0.01)
        finally:
            await sleep(0.1)
            clean.append(1)

    async with simulated(devices=devices) as (runtime, _):
        with pytest.raises(DeviceLost, match=r"the device 'near' .*: go on elsewhere") as caught:
            await runtime.run(job)
        assert (caught.value.device, caught.value.reason) == ("near", reason)
        assert clean == [1]
        assert runtime.stats().device_losses == 1
    assert [fault.reason for fault in faults.happened] == [reason]


@pytest.mark.parametrize("reason", REASONS)
async def test_closing_the_runtime_ends_the_jobs_of_a_device_that_has_just_failed(reason: str) -> None:
    devices, faults = failing(Fault(reason))
    log: list[str] = []
    held = []

    async def closer() -> None:
        """At a moment when a quantum hangs, nothing more happens until the runtime is being closed."""
        await sleep(0.5 * LIMIT_S)
        hold = clock.hold()
        hold.__enter__()
        held.append(hold)

    async def ask(runtime: Runtime) -> None:
        with pytest.raises(RuntimeClosed):
            await runtime.run(elsewhere, log, 10.0)
        log.append("told")

    async def release(runtime: Runtime) -> None:
        await until(lambda: runtime.closed)
        held[0].__exit__(None, None, None)

    async with (
        anyio.create_task_group() as group,
        simulated(devices=devices) as (runtime, clock),
        AsyncExitStack() as stack,
    ):
        with clock.hold():
            group.start_soon(ask, runtime)
            await started(stack, runtime, closer, device="far")
            await anyio.wait_all_tasks_blocked()
        await until(lambda: held)
        group.start_soon(release, runtime)
    assert log[-1] == "told"
    assert faults.happened


async def test_what_is_submitted_to_it_is_refused_at_once_and_goes_elsewhere_where_it_may() -> None:
    devices, _ = failing(Fault("lost"))

    async def where() -> str:
        await sim_work(0.01)
        return current_job().worker.name

    async def parent() -> str:
        with pytest.raises(DeviceLost):
            await sim_work(0.01)
        with pytest.raises(DeviceLost):
            spawn(where)
        await move_to("far")
        return await spawn(where)

    async with simulated(devices=devices) as (runtime, _):
        assert await runtime.run(parent) == "far"
        assert await runtime.run(where) == "far"  # the next of its kind
        with pytest.raises(DeviceLost):
            await runtime.run(where, device="near")
        with pytest.raises(DeviceLost):
            async for _ in runtime.stream(words, device="near"):
                pass


async def words() -> Any:
    yield "word"


async def test_where_all_devices_are_fenced_everything_is_a_clear_error_and_nothing_hangs() -> None:
    devices = [SimDevice("near", watchdog_s=LIMIT_S), SimDevice("far", watchdog_s=LIMIT_S)]
    for device in devices:
        device.pauses_s = ()
        FaultInjection(device, Fault("hung"))
    log: list[str] = []
    async with simulated(devices=devices) as (runtime, _):
        with pytest.raises(DeviceLost, match="'far' hung"):
            await runtime.run(elsewhere, log)
        for device in (None, "near", "far"):
            with pytest.raises(DeviceLost):
                await runtime.run(elsewhere, log, device=device)
        await runtime._tidy(nothing)  # what launches nothing goes on
        assert [device.fenced for device in runtime.snapshot().devices] == [
            "hung since 0.6 s, for good",
            "hung since 0.0 s, for good",
        ]
    assert log == ["hung"]


async def nothing() -> None:
    """A job that only cleans up."""


async def test_a_policy_that_breaks_at_the_same_moment_is_ejected_and_nothing_is_lost() -> None:
    devices, _ = failing(Fault("hung", kernel="poke"))

    class Breaks(coro_rt.Policy):
        name = "breaks"

        def key(self, job: Any, now: float) -> float:
            if devices[0].fenced:
                raise ArithmeticError("all at once")
            return float(job.ready_since)

    log: list[str] = []
    async with (
        simulated(devices=devices, policy=Breaks()) as (runtime, clock),
        AsyncExitStack() as stack,
    ):
        with clock.hold():
            handles = [await started(stack, runtime, elsewhere, log, 1.0) for _ in range(5)]
            await started(stack, runtime, culprit)
        assert [await handle.result() for handle in handles] == ["far"] * 5
        assert runtime.snapshot().policy == "dynamic"
    assert log == ["hung"] * 5


@pytest.mark.parametrize("reason", REASONS)
async def test_time_and_jobs_are_booked_right(reason: str) -> None:
    devices, _ = failing(Fault(reason, at=3, kernel="sim_work"))
    log: list[str] = []
    async with simulated(devices=devices) as (runtime, clock), AsyncExitStack() as stack:
        with clock.hold():
            handles = [await started(stack, runtime, elsewhere, log, 0.1) for _ in range(4)]
        for handle in handles:
            await handle.result()
        busy = runtime.stats().device_busy_s
        assert sum(handle.ledger.device_s for handle in handles) == pytest.approx(sum(busy.values()))
        assert busy["near"] >= (LIMIT_S if reason == "hung" else 0.0)
        assert runtime.stats().jobs_done == 4


async def test_no_fault_touches_a_device_on_which_none_is_injected() -> None:
    async with simulated(devices=[SimDevice("near")]) as (runtime, clock):
        worker = runtime._engine.workers["near"]
        assert worker._run_launch == worker._launch
        assert runtime._engine.watchdog is None
        await runtime.run(sim_job)
        assert clock() == pytest.approx(0.01)
    device = SimDevice("near")
    FaultInjection(device).remove()
    assert vars(device).keys() == vars(SimDevice("near")).keys() | {"faults"}
    assert device.faults is None


async def sim_job() -> None:
    await sim_work(0.01)


async def test_the_same_seed_gives_the_same_faults() -> None:
    async def launches() -> float:
        for _ in range(40):
            with suppress(DeviceLost):
                await sim_work(0.001)
            if current_job().worker.device.fenced:
                await sleep(20.0)
        return current_job().engine.clock()

    runs = []
    for seed in (1, 1, 2):
        device = SimDevice("near", watchdog_s=LIMIT_S)
        faults = FaultInjection.at_random(device, seed=seed, every=10)
        async with simulated(devices=[device]) as (runtime, _):
            runs.append((faults.happened, await runtime.run(launches)))
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0]


def test_what_cannot_be_injected_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="not by 'tired'"):
        Fault("tired")
    with pytest.raises(ValueError, match="counted from 1, not 0"):
        Fault("lost", at=0)
    with pytest.raises(ValueError, match="set its watchdog_s first"):
        FaultInjection(SimDevice(), Fault("hung"))
    with pytest.raises(ValueError, match="set its watchdog_s first"):
        FaultInjection.at_random(SimDevice(), seed=1, every=10)
    with pytest.raises(ValueError, match="watchdog_s is a positive number of seconds, or inf, not 0"):
        SimDevice(watchdog_s=0)
    assert SimDevice().watchdog_s == math.inf
