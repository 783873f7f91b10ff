"""A mixed run: generations that begin and go on at random on all devices that there are, are preempted,
cancelled, and lose their devices; and the checks that nothing was lost, nothing leaked, and no token changed.

Everything random comes from seeds: what is asked, what is cancelled and when, where texts go, and at which
quantum which device fails how. What the machine does in between is its own affair, so each device is worked
on until all its faults have come.

A text is judged by the CPU alone, afterwards: it is fed with the text, and wherever its best token leads the
next by `MARGIN` or more, the text should have that token. That is to equal the undisturbed run wherever the
margin is clear, and it goes on judging after a difference where it is not. Devices differ in the last bits,
though, which in some models moves a margin by more than `MARGIN` now and then (see docs/design.md): where the
token is another, all other devices are asked, undisturbed, and one of them must say what the text says.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from soak_cancels import nothing_left, threads_now

import coro_rt
from coro_rt import Device, DeviceError, DeviceLost, JobCancelled, QoS
from coro_rt.devices.cpu import CpuDevice
from coro_rt.faults import REASONS
from coro_rt.llm.chooser import Chooser, Place, Wanted
from coro_rt.llm.step import step
from coro_rt.schedulers.entry import State
from coro_rt.testing import Fault, FaultInjection, SimDevice, sim_work
from coro_rt.traps import move_to

MARGIN = 0.3
ROWS = 32  # of a text that are judged in one step


Prompts = Callable[[random.Random], list[int]]
"""Makes prompts."""


class Fate(Enum):
    """How a generation ends."""

    RUN = "ran to the end"
    BREAK = "left by a break"
    SCOPE = "cancelled with its scope"
    HAND = "cancelled by hand"


@dataclass(slots=True)
class Outcome:
    """What came of a run. `judged` positions had a clear margin; at `others` the token is what another device
    says that was not disturbed, at `wrong` what nobody says.
    """

    ended: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Counter[str]] = field(default_factory=dict)  # by device
    began: Counter[str] = field(default_factory=Counter)  # where generations were sent
    moves: int = 0
    suspensions: int = 0
    preemptions: int = 0
    losses: int = 0
    readmitted: int = 0
    texts: int = 0
    judged: int = 0
    others: list[float] = field(default_factory=list)  # the margins
    wrong: list[tuple[float, int, int]] = field(default_factory=list)  # margin, the CPU's token, the text's

    def __str__(self) -> str:
        faults = "; ".join(f"{name}: {_listed(counted)}" for name, counted in self.faults.items())
        return (
            f"{_listed(self.ended)}; begun on {_listed(self.began)}; {self.moves} moves, "
            f"{self.suspensions} suspensions, {self.preemptions} preemptions; faults on {faults}; "
            f"{self.losses} fences, {self.readmitted} times readmitted; of {self.judged} clear tokens of "
            f"{self.texts} texts {len(self.others)} are another device's {self.others}, "
            f"{len(self.wrong)} nobody's"
        )


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))


class Wandering(Chooser):
    """Anywhere, and on to anywhere else now and then."""

    def __init__(self, rng: random.Random, outcome: Outcome) -> None:
        self.rng, self.outcome = rng, outcome

    def begin(
        self, wanted: Wanted, places: Sequence[Place], readers: Sequence[str]
    ) -> tuple[str, str | None]:
        place = self.rng.choice(places)
        self.outcome.began[place.name] += 1
        if readers and place.kind == "cpu" and self.rng.random() < 0.7:
            reader = self.rng.choice(readers)
            self.outcome.began[f"{reader} (prompt)"] += 1
            return place.name, reader
        return place.name, None

    def next(self, here: str, wanted: Wanted, places: Sequence[Place]) -> str:
        others = [place.name for place in places if place.name != here]
        if others and self.rng.random() < 0.05:
            self.outcome.moves += 1
            return self.rng.choice(others)
        return here


class Readmissions(coro_rt.Instrument):
    """Counts them."""

    count = 0

    def device_readmitted(self, device: Device, now: float) -> None:
        self.count += 1


def all_kinds(rng: random.Random, rounds: int, every: float) -> Iterable[Fault]:
    """Each kind of fault `rounds` times, in random order, one in `every` quanta or so."""
    at = 0
    for _ in range(rounds):
        for reason in rng.sample(REASONS, len(REASONS)):
            at += 2 + int(rng.expovariate(1 / every))
            yield Fault(reason, at, tries=rng.choice((0, 1)))


def devices_here(npu_options: dict[str, Any]) -> list[Device]:
    """The CPU, a GPU and an NPU where there are, else a second CPU; and the simulated one."""
    found: list[Device] = [CpuDevice(threads=1, watchdog_s=600.0)]
    with suppress(DeviceError, ImportError):
        found.append(_started_once(_gpu()))
    with suppress(DeviceError, ImportError):
        found.append(_started_once(_npu(npu_options)))
    if len(found) < 2:
        found.append(CpuDevice(name="cpu2", threads=1, watchdog_s=600.0))
    found.append(SimDevice(watchdog_s=60.0))
    for device in found:
        device.pauses_s = (0.01,) * 1000
    return found


def _gpu() -> Device:
    from coro_rt.devices.gpu import GpuDevice

    return GpuDevice(watchdog_s=60.0)


def _npu(options: dict[str, Any]) -> Device:
    from coro_rt.devices.npu import NpuDevice

    return NpuDevice(provider="cpu", threads=1, watchdog_s=8.0, **options)


def _started_once(device: Device) -> Device:
    """Raises DeviceError where it cannot be used."""
    try:
        device.start()
    finally:
        device.close()
    return device


class Mixed:
    """One run of several lanes of generations, beside jobs that wander between the devices."""

    def __init__(
        self, runtime: coro_rt.Runtime, llm: Any, rng: random.Random, prompts: Prompts, outcome: Outcome
    ) -> None:
        self.runtime, self.llm, self.rng, self.outcome = runtime, llm, rng, outcome
        self.prompts = prompts
        self.texts: list[tuple[list[int], list[int]]] = []  # prompt, what followed

    async def batch(self, lanes: int, of: int) -> None:
        """Some generations in each of several tasks."""
        async with anyio.create_task_group() as group:
            for _ in range(lanes):
                group.start_soon(self._lane, of)
            group.start_soon(self._wander)

    async def _lane(self, of: int) -> None:
        for _ in range(of):
            await self.one()

    async def _wander(self) -> None:
        try:
            await self.runtime.run(wanderer, [device.name for device in self.runtime.devices])
        except DeviceLost:
            self.outcome.ended["wanderers that had nowhere to go"] += 1
        else:
            self.outcome.ended["wanderers"] += 1

    async def one(self) -> None:
        """A generation, its fate, and what must be true then."""
        rng = self.rng
        prompt = self.prompts(rng)
        tokens = rng.randint(4, 24)
        fate = rng.choices(list(Fate), (6, 1, 2, 1))[0]
        after = rng.randint(0, tokens - 1)  # tokens, before its fate
        delay_s = rng.choice((0.0, 0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.3)))
        got: list[int] = []
        stream: Any = None
        with coro_rt.qos(rng.choice(list(QoS))):
            async with anyio.create_task_group() as group:
                scope = anyio.CancelScope()

                async def strike() -> None:
                    await anyio.sleep(delay_s)
                    if fate is Fate.SCOPE:
                        scope.cancel()
                    elif stream.job is not None:
                        stream.job.cancel()

                with scope:
                    try:
                        async with self.llm.generate(prompt, max_tokens=tokens, ignore_eos=True) as stream:
                            if not after and fate in (Fate.SCOPE, Fate.HAND):
                                group.start_soon(strike)
                            async for token in stream:
                                got.append(token.id)
                                if len(got) == after and fate in (Fate.SCOPE, Fate.HAND):
                                    group.start_soon(strike)
                                if len(got) > after and fate is Fate.BREAK:
                                    break
                    except JobCancelled:
                        assert fate is Fate.HAND, "nobody cancelled it by hand"
                    except DeviceLost:
                        self.outcome.ended["lost with all devices"] += 1
                        fate = Fate.BREAK  # what it has written is right as far as it goes
        if stream is None:  # refused at once, as all were fenced
            await anyio.sleep(0.005)
            return
        assert stream.job is None or stream.job.state is State.DONE, f"{stream.job} lives on"
        if fate is Fate.RUN:
            assert len(got) == tokens, f"{len(got)} tokens of {tokens} came"
            assert stream.finish_reason == "length"
        self.outcome.ended[fate.value] += 1
        if got:
            self.texts.append((prompt, got))


async def wanderer(names: list[str]) -> None:
    """A job that is here and there, and works on `sim` only."""
    for _ in range(5):
        for name in names:
            try:
                await move_to(name)
                if name == "sim":
                    for _ in range(4):
                        await sim_work(0.001)
            except DeviceLost:
                await coro_rt.sleep(0.002)


async def mixed_run(
    path: Path,
    *,
    seed: int,
    rounds: int,
    lanes: int,
    of: int,
    prompts: Prompts,
    npu_options: dict[str, Any] | None = None,
    most_batches: int = 1000,
    every: float = 6.0,
    spare: bool = True,
) -> Outcome:
    """Batches until every device has failed in each way `rounds` times. With a `spare`, a CPU that does not
    fail, every text has somewhere to go on; without it may end with DeviceLost.
    """
    rng, outcome = random.Random(seed), Outcome()
    before = threads_now()
    devices = devices_here(npu_options or {})
    injected = {
        device.name: FaultInjection(
            device, *all_kinds(random.Random(f"{seed} {device.name}"), rounds, every), hurry=True
        )
        for device in devices
    }
    if spare:
        devices.append(CpuDevice(name="spare", threads=1))
    readmissions = Readmissions()
    async with coro_rt.open_runtime(devices=devices, instruments=[readmissions]) as runtime:
        names = [device.name for device in devices if device.kind != "sim"]
        async with await runtime.load_model(path, devices=names) as llm:
            llm.places.chooser = Wandering(random.Random(rng.random()), outcome)
            mixed = Mixed(runtime, llm, rng, prompts, outcome)
            for _ in range(most_batches):
                await mixed.batch(lanes, of)
                stats = runtime.stats()
                assert (stats.jobs_ready, stats.jobs_running, stats.jobs_waiting) == (0, 0, 0)
                if all(len(one.happened) >= rounds * len(REASONS) for one in injected.values()):
                    break
        nothing_left(runtime, 0)
        stats = runtime.stats()
        outcome.suspensions, outcome.preemptions = stats.suspensions, stats.preemptions
        outcome.losses = stats.device_losses
    assert runtime.memory.used == 0
    assert threads_now() <= before, f"threads are left: {threads_now() - before}"
    outcome.readmitted = readmissions.count
    outcome.faults = {name: Counter(fault.reason for fault in one.happened) for name, one in injected.items()}
    await judge(path, mixed.texts, devices_here(npu_options or {}), outcome)
    return outcome


# The judge.


class Fixed(Chooser):
    """Always there."""

    place, reader = "cpu", None

    def begin(
        self, wanted: Wanted, places: Sequence[Place], readers: Sequence[str]
    ) -> tuple[str, str | None]:
        return self.place, self.reader


async def judge(
    path: Path, texts: list[tuple[list[int], list[int]]], devices: list[Device], outcome: Outcome
) -> None:
    """What the CPU alone would have written, wherever that is clear; else any other device."""
    names = [device.name for device in devices if device.kind != "sim"]
    kinds = {device.name: device.kind for device in devices}
    async with (
        coro_rt.open_runtime(devices=devices) as runtime,
        await runtime.load_model(path, devices=names, prefix_reuse=False) as llm,
    ):
        llm.places.chooser = chooser = Fixed()

        async def said(text: list[int], name: str) -> int:
            chooser.place, chooser.reader = ("cpu", name) if kinds[name] == "npu" else (name, None)
            async with llm.generate(text, max_tokens=1, ignore_eos=True) as stream:
                (token,) = [token.id async for token in stream]
                return token

        for prompt, got in texts:
            best, margins = await runtime.run(forced, llm.places.first, prompt + got, device="cpu")
            at = slice(len(prompt) - 1, None)
            for nth, (token, wanted, margin) in enumerate(zip(got, best[at], margins[at], strict=True)):
                if margin >= MARGIN:
                    outcome.judged += 1
                    if token != wanted:
                        text = prompt + got[:nth]
                        if token in [await said(text, name) for name in names]:
                            outcome.others.append(round(float(margin), 2))
                        else:
                            outcome.wrong.append((float(margin), int(wanted), token))
        outcome.texts = len(texts)


async def forced(model: Any, ids: list[int]) -> tuple[Any, Any]:
    """(best token, its lead over the next) after each token but the last."""
    best: list[Any] = []
    margins: list[Any] = []
    async with model.in_use():
        with model.lend([], reuse=False) as sequence:
            for start in range(0, len(ids) - 1, ROWS):
                chunk = ids[start : min(start + ROWS, len(ids) - 1)]
                end = start + len(chunk)
                await sequence.make_room(end, rows=len(chunk), own=True)
                workspace = sequence.workspace
                positions = np.arange(start, end, dtype=np.int32)
                tables = [sequence.table] * len(chunk)
                workspace.begin(np.array(chunk, np.int32), positions, tables, tail=len(chunk))
                with sequence.pinned():
                    await step(model.program, workspace)
                sequence.extend(chunk)
                two = np.partition(workspace.logits, -2, axis=1)[:, -2:]
                best += list(workspace.logits.argmax(1))
                margins += list(two[:, 1] - two[:, 0])
                del workspace
    return best, margins
