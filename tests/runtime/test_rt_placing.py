"""Of several devices, a launch of a free job runs where it is done first; a pinned one where it is told."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rt_tools import simulated, until_state

import coro_rt
from coro_rt import (
    Cancelled,
    DeviceError,
    DeviceLost,
    JobCancelled,
    Kernel,
    KernelError,
    QoS,
    Runtime,
    current_job,
)
from coro_rt.faults import REASONS
from coro_rt.kernel import Launch
from coro_rt.placing import Sent
from coro_rt.schedulers import Reason
from coro_rt.schedulers.entry import State
from coro_rt.testing import Fault, FaultInjection, SimDevice, sim_work
from coro_rt.trace.reader import Trace
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio

SECONDS = {"slow": 0.001, "quick": 0.0001, "odd": 0.01}  # for each unit, by kind of device


class OfKind(SimDevice):
    """A simulated device that is of another kind."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(kind, **options)
        self.kind = kind


def spend(device: OfKind, launch: Launch[Any], slice_s: float) -> bool:
    left = launch.args[0] * SECONDS[device.kind] if launch.state is None else launch.state
    launch.state = device.spend(left, slice_s)
    launch.result = device.name
    return bool(launch.state < 1e-9)


work: Kernel[[float], str] = Kernel("work", size=lambda units: units, slow=spend, quick=spend)
fixed: Kernel[[float], str] = Kernel("fixed", slow=spend)
elsewhere: Kernel[[float], str] = Kernel("elsewhere", odd=spend)


def several(**options: Any) -> dict[str, Any]:
    return {"devices": [OfKind("slow"), OfKind("quick"), OfKind("odd")], **options}


async def asks(times: int, units: float = 20.0) -> list[str]:
    return [await work(units) for _ in range(times)]


async def test_a_free_jobs_launches_are_measured_on_each_device_and_then_go_to_the_best() -> None:
    async with simulated(**several()) as (runtime, _):
        places = await runtime.run(asks, 20)
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            assert await runtime.run(asks, 3) == ["quick"] * 3
    assert places[0] == "slow"
    assert places.count("slow") <= 4
    assert places[-10:] == ["quick"] * 10


async def test_somebody_urgent_tries_nothing() -> None:
    async with simulated(**several()) as (runtime, _):
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            assert await runtime.run(asks, 10) == ["slow"] * 10


async def test_a_device_that_is_busy_is_left_to_others() -> None:
    async def both() -> list[str]:
        with coro_rt.qos(QoS.USER_INITIATED):  # an equal would only take turns with it
            before = coro_rt.spawn(asks, 1, 100_000.0)
        before.predict(10.0)
        await coro_rt.sleep(0.001)
        after = coro_rt.spawn(asks, 1, 100.0)
        return [*await after, *await before]

    async with simulated(**several()) as (runtime, _):
        await runtime.run(asks, 20)
        assert await runtime.run(both) == ["slow", "quick"]


async def test_device_pins_a_job_and_on_pins_a_launch() -> None:
    async def pinned() -> list[str]:
        assert current_job().home == "slow"
        found = [await work(10.0), await work(10.0, on="quick"), await work(10.0), await fixed(1.0)]
        return [*found, current_job().worker.name]

    async with simulated(**several()) as (runtime, _):
        await runtime.run(asks, 20)
        assert await runtime.run(pinned, device="slow") == ["slow", "quick", "slow", "slow", "slow"]


async def test_move_to_pins_a_job_where_it_goes() -> None:
    async def moves() -> list[str]:
        await coro_rt.move_to("slow")
        first = await work(10.0)
        await coro_rt.move_to("quick")
        return [first, await work(10.0)]

    async with simulated(**several()) as (runtime, _):
        await runtime.run(asks, 20)
        assert await runtime.run(moves) == ["slow", "quick"]


async def test_a_free_job_goes_to_the_only_device_that_has_a_kernel_and_back() -> None:
    async def both() -> list[str]:
        return [await elsewhere(1.0), await fixed(1.0)]

    async with simulated(**several()) as (runtime, _):
        assert await runtime.run(both) == ["odd", "slow"]


async def test_a_kernel_that_no_open_device_has_is_an_error_at_the_launch() -> None:
    nowhere: Kernel[[], None] = Kernel("nowhere", moon=spend)

    async def asks_it() -> str:
        with pytest.raises(KernelError, match="'nowhere' has no implementation for devices of kind 'slow'"):
            await nowhere()
        return await work(1.0)

    async with simulated(**several()) as (runtime, _):
        assert await runtime.run(asks_it) == "slow"


@pytest.mark.parametrize("devices", [1, 3])
async def test_a_device_that_is_not_open_is_an_error_at_the_launch(devices: int) -> None:
    async def asks_it() -> str:
        with pytest.raises(DeviceError, match="no device 'moon' is open, only slow"):
            await work(1.0, on="moon")
        return await work(1.0, on="slow")

    async with simulated(devices=several()["devices"][:devices]) as (runtime, _):
        assert await runtime.run(asks_it) == "slow"


async def test_a_size_that_cannot_be_found_is_an_error_at_the_launch() -> None:
    odd_size: Kernel[[str], str] = Kernel("odd_size", size=lambda text: -1, slow=spend, quick=spend)

    async def asks_it() -> str:
        for _ in range(3):
            with pytest.raises(KernelError, match="the size of 'odd_size' cannot be found"):
                await odd_size("x")
        return await work(1.0)

    async with simulated(**several()) as (runtime, _):
        assert await runtime.run(asks_it) == "slow"


async def test_children_are_as_free_as_their_parents() -> None:
    async def parent() -> list[str]:
        return await coro_rt.spawn(asks, 1)

    async with simulated(**several()) as (runtime, _):
        await runtime.run(asks, 20)
        assert await runtime.run(parent) == ["quick"]
        assert await runtime.run(parent, device="slow") == ["slow"]


async def test_why_a_device_was_chosen_is_explained() -> None:
    explained: list[str] = []

    async def looks(runtime: Runtime) -> None:
        await work(1000.0)
        explained.append(str(runtime.explain(current_job())))

    async with simulated(**several()) as (runtime, _):
        await runtime.run(asks, 20)
        async with runtime.start(looks, runtime) as job:
            await job.result()
            choice = job.job.placed
            assert str(runtime.explain(job)).endswith("is done.")
        assert choice is not None
        assert (choice.device, choice.reason) == ("quick", Reason.EARLIEST)
        assert "work goes to quick: it is done there first (slow: 1 s; quick: 0.1" in explained[0]
        async with runtime.start(asks, 1, 1000.0, device="slow") as job:
            await until_state(job, State.DONE)
            assert job.job.placed is None


async def test_a_device_that_is_lost_is_not_chosen_until_it_is_back() -> None:
    options = several()
    options["devices"][1].pauses_s = ()  # it stays out until it is tried below
    async with simulated(**options) as (runtime, _):
        await runtime.run(asks, 20)
        engine = runtime._engine
        quick = engine.workers["quick"]
        engine.fence(quick, DeviceLost("quick", "lost"))
        assert await runtime.run(asks, 2) == ["slow"] * 2
        engine.tried(quick, sound=True, failure=None)
        assert await runtime.run(asks, 2) == ["quick"] * 2


# A device that is lost while it is idle is found out by who uses it next.

again: Kernel[[float], str] = Kernel("again", size=work.size, idempotent=True, slow=spend, quick=spend)


async def repeats(times: int, units: float = 20.0) -> list[str]:
    return [await again(units) for _ in range(times)]


def losing(reason: str) -> tuple[dict[str, Any], FaultInjection]:
    """Devices of which the quick one, should it fail, stays out."""
    options = several()
    quick = OfKind("quick", watchdog_s=0.5)
    quick.pauses_s, quick.remembers = (), False  # as a GPU
    options["devices"][1] = quick
    return options, FaultInjection(quick, hurry=reason == "hung")


@pytest.mark.parametrize("reason", REASONS)
async def test_who_finds_out_that_a_device_is_lost_runs_its_launch_again_elsewhere(reason: str) -> None:
    options, faults = losing(reason)
    async with simulated(**options) as (runtime, _):
        assert (await runtime.run(repeats, 20))[-1] == "quick"
        faults.add(Fault(reason), from_now=True)
        assert await runtime.run(repeats, 3) == ["slow"] * 3
        assert [fault.reason for fault in faults.happened] == [reason]
        assert runtime.stats().device_losses == 1


@pytest.mark.parametrize("reason", REASONS)
async def test_a_launch_that_may_be_half_done_is_not_run_again_and_one_that_has_not_begun_is(
    reason: str,
) -> None:
    options, faults = losing(reason)
    found: list[str] = []

    async def ask() -> None:
        try:
            found.append(await work(20.0))
        except DeviceLost as lost:
            found.append(lost.reason)

    async def several_ask() -> None:
        asking = [coro_rt.spawn(ask) for _ in range(4)]
        for each in asking:
            await each

    async with simulated(**options) as (runtime, _):
        await runtime.run(asks, 20)
        faults.add(Fault(reason), from_now=True)
        await runtime.run(several_ask)
    assert sorted(found) == sorted([reason, "slow", "slow", "slow"])


@pytest.mark.parametrize("reason", ["lost", "hung"])
async def test_so_is_a_launch_that_is_suspended_but_not_one_that_is_pinned(reason: str) -> None:
    options, faults = losing(reason)
    found: list[str] = []

    async def long() -> None:
        found.append(await again(10_000.0))

    async def pinned() -> None:
        with pytest.raises(DeviceLost):
            await again(10_000.0, on="quick")
        found.append("pinned")

    async def scene() -> None:
        with coro_rt.qos(QoS.UTILITY):
            asking = [coro_rt.spawn(long), coro_rt.spawn(pinned)]
        await coro_rt.sleep(0.1)
        faults.add(Fault(reason), from_now=True)
        for each in asking:
            await each

    async with simulated(**options) as (runtime, _):
        await runtime.run(repeats, 20)
        await runtime.run(scene)
    assert sorted(found) == ["pinned", "slow"]


async def test_where_no_device_is_left_its_job_is_told() -> None:
    options, faults = losing("lost")
    async with simulated(**options) as (runtime, _):
        await runtime.run(repeats, 20)
        engine = runtime._engine
        engine.fence(engine.workers["slow"], DeviceLost("slow", "lost"))
        faults.add(Fault("lost"), from_now=True)
        with pytest.raises(DeviceLost):
            await runtime.run(repeats, 1)


async def test_a_device_that_is_lost_while_a_job_is_on_its_way_there_sends_it_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, _ = losing("lost")
    go = Sent._go

    def going(sent: Sent) -> None:
        assert sent.job is not None
        engine = sent.job.engine
        if sent.device == "quick":
            engine.fence(engine.workers["quick"], DeviceLost("quick", "lost"))
        go(sent)

    async with simulated(**options) as (runtime, _):
        await runtime.run(asks, 20)
        monkeypatch.setattr(Sent, "_go", going)
        assert await runtime.run(asks, 1) == ["slow"]


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("at", range(0, 50, 7))
async def test_a_job_that_is_cancelled_while_its_launch_goes_elsewhere_ends(at: int, reason: str) -> None:
    options, faults = losing(reason)

    async def cancels(target: coro_rt.Job[Any]) -> None:
        await coro_rt.sleep(at * 0.00097)
        target.cancel()
        with suppress(JobCancelled):
            await target

    async with simulated(**options) as (runtime, _):
        await runtime.run(repeats, 20)
        faults.add(Fault(reason, at=2), from_now=True)
        async with runtime.start(repeats, 20) as handle:
            await runtime.run(cancels, handle.job, device="odd")
        assert runtime.stats().jobs_waiting == 0


@pytest.mark.parametrize("at", range(0, 60, 7))
async def test_a_job_that_is_cancelled_on_its_way_ends_wherever_it_is(at: int) -> None:
    cleaned: list[str] = []

    async def wanders() -> None:
        try:
            for number in range(100):
                await work(5.0, on=("slow", "quick")[number % 2])
        except Cancelled:
            cleaned.append(current_job().worker.name)
            raise

    async def cancels(seconds: float) -> None:
        await coro_rt.sleep(seconds)
        target.cancel()
        with pytest.raises(JobCancelled):
            await target

    async with simulated(**several()) as (runtime, _):
        handle = runtime.start(wanders, device="odd")
        async with handle:
            target = handle.job
            await runtime.run(cancels, at * 0.00097, device="odd")
        assert runtime.stats().jobs_waiting == 0
    assert len(cleaned) <= 1


async def test_what_was_placed_is_recorded_and_replayed_with_what_was_known_before(tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        async with simulated(**several(record=path, profile=tmp_path / "profiles")) as (runtime, _):
            with coro_rt.qos(QoS.USER_INITIATED):
                places = await runtime.run(asks, 5)
                await runtime.run(asks, 5, 1.0)
            await runtime.run(asks, 10)
        text = path.read_text()
        assert text.count('"call":"place"') == 20
        assert text.count('"call":"measured"') == 20
        assert ('"placement":{' in text) is bool(number)
        found = replay(Trace(path))
        assert not found, found
        assert found.complete
    assert places == ["quick"] * 5  # which the second run knew


async def test_a_runtime_with_one_kind_of_device_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def plain() -> None:
        await sim_work(0.01)

    devices = [SimDevice("near"), SimDevice("far")]
    async with simulated(devices=devices, record=path) as (runtime, _):
        await runtime.run(plain)
        assert runtime.stats().device_busy_s["far"] == 0.0
    assert '"call":"place"' not in path.read_text()
