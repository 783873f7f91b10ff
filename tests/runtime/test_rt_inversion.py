"""Priority inversion: an urgent job that needs what a background job holds waits for no third one.

A background job does one piece of work before it gives out what it holds. Crowded out by busy jobs of the
default level, it has done a part of that when the urgent job comes and asks. Room in a stream's buffer is not
among the cases: a task makes it, not a job, so there is nobody to lend the urgency to.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
import pytest
from rt_tools import simulated, until

import coro_rt
from coro_rt import Event, Job, Lock, QoS
from coro_rt.schedulers import PowerSave, Scheduler
from coro_rt.schedulers.entry import State
from coro_rt.testing import SimDevice, VirtualClock, sim_work

pytestmark = pytest.mark.anyio

QUANTUM_S = 0.002  # of the simulated device
PIECE_S = 0.1  # the background job's work before it lets go
CROWD, CROWD_WORK_S = 3, 1.0  # busy jobs, and what each has to do
CROWDED_AT_S = 0.0101
ASKED_AT_S = 0.0313


@dataclass
class Scene:
    """What the jobs share, and what the urgent one saw."""

    clock: VirtualClock
    lock: Lock = field(default_factory=Lock)
    holder: "Job[None] | None" = None
    event: Event | None = None
    left_s: float = 0.0  # of the piece, when the urgent job asked
    waited_s: float = 0.0  # from when it was to come to when it had what it needs
    ended_s: dict[str, float] = field(default_factory=dict)

    async def hold(self) -> None:
        """The background job."""
        self.holder = coro_rt.current_job()
        self.event = Event(owner=self.holder)
        async with self.lock:
            await sim_work(PIECE_S)
        self.event.set()
        self.ended_s["holder"] = self.clock.now()

    async def crowd(self) -> None:
        """One of the busy jobs."""
        await coro_rt.sleep(CROWDED_AT_S)
        await sim_work(CROWD_WORK_S)
        self.ended_s["crowd"] = self.clock.now()

    async def ask(self, get: Callable[["Scene"], Awaitable[None]]) -> None:
        """The urgent job."""
        await coro_rt.sleep(ASKED_AT_S)
        assert self.holder is not None
        self.left_s = PIECE_S - self.holder.entry.served_s
        await get(self)
        self.waited_s = self.clock.now() - ASKED_AT_S


async def the_lock(scene: Scene) -> None:
    async with scene.lock:
        pass


async def the_event(scene: Scene) -> None:
    assert scene.event is not None
    await scene.event.wait()


async def the_result(scene: Scene) -> None:
    assert scene.holder is not None
    await scene.holder


async def a_result_that_needs_the_lock(scene: Scene) -> None:
    with coro_rt.qos(QoS.UTILITY):
        between = coro_rt.spawn(the_lock, scene)
    await between


NEEDS = [the_lock, the_event, the_result, a_result_that_needs_the_lock]


async def play(get: Callable[[Scene], Awaitable[None]], *, policy: str) -> Scene:
    """The whole scene, in virtual time."""
    async with simulated(policy=policy) as (runtime, clock), anyio.create_task_group() as group:
        scene = Scene(clock)
        with clock.hold():
            with coro_rt.qos(QoS.BACKGROUND):
                group.start_soon(runtime.run, scene.hold)
            for _ in range(CROWD):
                group.start_soon(runtime.run, scene.crowd)
            with coro_rt.qos(QoS.USER_INTERACTIVE):
                group.start_soon(runtime.run, scene.ask, get)
            await until(lambda: runtime.stats().jobs_ready == CROWD + 2)
    return scene


@pytest.mark.parametrize("policy", ["dynamic", "strict"])
@pytest.mark.parametrize("get", NEEDS)
async def test_it_waits_one_quantum_and_what_is_left_of_the_piece(
    get: Callable[[Scene], Awaitable[None]], policy: str
) -> None:
    scene = await play(get, policy=policy)
    assert PIECE_S / 2 < scene.left_s < PIECE_S  # the crowd had kept the holder from its work
    assert scene.left_s <= scene.waited_s <= QUANTUM_S + scene.left_s + 1e-6
    assert scene.ended_s["crowd"] > CROWD * CROWD_WORK_S


@pytest.mark.parametrize("policy", ["dynamic", "strict"])
@pytest.mark.parametrize("get", NEEDS)
async def test_without_inheritance_it_waits_for_the_crowd(
    get: Callable[[Scene], Awaitable[None]], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder has only background's share of the device, and under `strict` not even that."""
    monkeypatch.setattr("coro_rt.engine.Scheduler", partial(Scheduler, inheritance=False))
    scene = await play(get, policy=policy)
    assert scene.waited_s > 10 * (QUANTUM_S + scene.left_s)


async def test_an_urgent_job_that_is_cancelled_takes_its_urgency_along() -> None:
    """Cancelled in the middle of its wait: the holder is background work again, and nothing is lost."""
    seen: list[tuple[str, QoS]] = []

    async with (
        simulated(devices=["sim", SimDevice("other")]) as (runtime, clock),
        anyio.create_task_group() as group,
    ):
        scene = Scene(clock)
        asking: list[Job[None]] = []

        async def ask() -> None:
            asking.append(coro_rt.current_job())
            await scene.ask(the_lock)

        async def cancels() -> None:
            await coro_rt.sleep(ASKED_AT_S + PIECE_S / 4)
            assert scene.holder is not None
            seen.append(("before", scene.holder.entry.effective_qos))
            asking[0].cancel()
            seen.append(("after", scene.holder.entry.effective_qos))

        async def asked() -> None:
            with pytest.raises(coro_rt.JobCancelled):
                await runtime.run(ask)

        with clock.hold():
            with coro_rt.qos(QoS.BACKGROUND):
                group.start_soon(runtime.run, scene.hold)
            for _ in range(CROWD):
                group.start_soon(runtime.run, scene.crowd)
            with coro_rt.qos(QoS.USER_INTERACTIVE):
                group.start_soon(asked)
            group.start_soon(partial(runtime.run, cancels, device="other"))
            await until(lambda: runtime.stats().jobs_ready == CROWD + 3)
    assert seen == [("before", QoS.USER_INTERACTIVE), ("after", QoS.BACKGROUND)]
    assert asking[0].state is State.DONE
    assert scene.waited_s == 0.0
    assert not scene.lock.locked()
    assert scene.ended_s["holder"] > ASKED_AT_S + PIECE_S  # later than with the urgency that it lost


WINDOW_S, COMES_S, RAISED_S, CANCELLED_S = 8.0, 1.0, 2.0, 2.05
"""Background is put off until the window ends; meanwhile somebody comes who waits for it, and so on."""


async def put_off_elsewhere(level: QoS, *, cancel: bool = False) -> dict[str, float]:
    """A job of this level waits for background work that is put off on another device, which is idle. It is
    made urgent a second later, if it is not yet, and perhaps cancelled then. Who ended, and when."""
    ended_s: dict[str, float] = {}
    devices = [SimDevice("near"), SimDevice("far")]
    policy = PowerSave(window_s=WINDOW_S)

    async def work(clock: VirtualClock) -> None:
        await sim_work(PIECE_S)
        ended_s["put off"] = clock.now()

    async def ask(clock: VirtualClock, other: Job[None]) -> None:
        await other
        ended_s["asking"] = clock.now()

    async def scene(clock: VirtualClock, other: Job[None]) -> None:
        await coro_rt.sleep(COMES_S)
        with coro_rt.qos(level):
            asking = coro_rt.spawn(ask, clock, other)
        await coro_rt.sleep(RAISED_S - COMES_S)
        asking.set_qos(QoS.USER_INTERACTIVE)
        await coro_rt.sleep(CANCELLED_S - RAISED_S)
        if cancel:
            asking.cancel()
        with suppress(coro_rt.JobCancelled):
            await asking

    async with (
        simulated(policy=policy, devices=devices, max_wait_s=100.0) as (runtime, clock),
        AsyncExitStack() as stack,
    ):
        with clock.hold():
            with coro_rt.qos(QoS.BACKGROUND):
                far = await stack.enter_async_context(runtime.start(work, clock, device="far"))
            with coro_rt.qos(QoS.USER_INTERACTIVE):
                near = await stack.enter_async_context(runtime.start(scene, clock, far.job))
        await near.result()
        await far.result()
    return ended_s


async def test_what_is_put_off_on_an_idle_device_begins_when_somebody_urgent_waits_for_it() -> None:
    ended_s = await put_off_elsewhere(QoS.USER_INTERACTIVE)
    assert ended_s["put off"] == pytest.approx(COMES_S + PIECE_S)
    assert ended_s["asking"] == pytest.approx(COMES_S + PIECE_S)


async def test_it_begins_when_who_waits_for_it_becomes_urgent() -> None:
    ended_s = await put_off_elsewhere(QoS.BACKGROUND)
    assert ended_s["put off"] <= RAISED_S + PIECE_S + 1e-6
    assert ended_s["asking"] == pytest.approx(ended_s["put off"])


@pytest.mark.parametrize("level", [QoS.USER_INTERACTIVE, QoS.BACKGROUND])
async def test_it_ends_though_who_waited_for_it_is_cancelled(level: QoS) -> None:
    ended_s = await put_off_elsewhere(level, cancel=True)
    assert ended_s["put off"] <= RAISED_S + PIECE_S + 1e-6
