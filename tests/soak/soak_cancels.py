"""Random cancels of real generations, at every stage of their lives; and the checks that nothing is left
behind.

One idea: a cancel is counted by what was seen at the moment of cancelling (`Stage`), never by what was
intended. Everything random comes from one seeded generator; when something is seen still depends on the
machine, so the counts decide when to stop.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Any

import anyio

import coro_rt
from coro_rt import QoS
from coro_rt.schedulers.entry import State

VOCABULARY = 40_000
QUESTION = list(range(1000, 1024))
HOST_THREADS = ("AnyIO worker", "Trio thread", "asyncio_")
"""What the hosts keep for their own to_thread calls."""


class Stage(Enum):
    """Where a generation stands."""

    WAITING = "waiting"  # submitted, not started
    PREFILL = "prefill"  # started, no token yet
    DECODE = "decode"
    CLOSE = "at close"
    ENDED = "ended"  # too late to count
    NEW = "not submitted"  # too early


STAGES = (Stage.WAITING, Stage.PREFILL, Stage.DECODE)


class Ways(Enum):
    """How a generation is cancelled."""

    SCOPE = "its task's scope"
    BREAK = "a break out of the loop"
    HAND = "job.cancel()"
    ACLOSE = "aclose() by another task"
    CROWD = "a scope around many"


def stage_of(stream: Any) -> Stage:
    """What can be seen of a stream now, from the host."""
    job = stream.job
    if job is None:
        return Stage.NEW
    if job.state is State.DONE:
        return Stage.ENDED
    if not job.entry.started:
        return Stage.WAITING
    usage = stream.usage
    return Stage.DECODE if usage is not None and usage.completion_tokens else Stage.PREFILL


ALONE = tuple(way for way in Ways if way is not Ways.CROWD)


class Cancels:
    """Cancels generations of one model until every stage has been met `each` times, and `total` are counted.

    `counted` says where, `ways` how.
    """

    def __init__(
        self, runtime: coro_rt.Runtime, llm: Any, rng: random.Random, *, each: int, total: int
    ) -> None:
        self.runtime, self.llm, self.rng, self.each, self.total = runtime, llm, rng, each, total
        self.counted: Counter[Stage] = Counter()
        self.ways: Counter[Ways] = Counter()

    def missing(self) -> list[Stage]:
        """The stages to go for: all of them, when it is only the sum that is missing."""
        missing = [stage for stage in STAGES if self.counted[stage] < self.each]
        if not missing and sum(self.counted[stage] for stage in STAGES) < self.total:
            return list(STAGES)
        return missing

    async def batch(self, lanes: int = 4, of: int = 10) -> None:
        """Some cancels in each of several tasks at once, beside a generation that keeps the device busy; then
        as many by one scope."""
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(self._keep_busy, scope)
            await anyio.sleep(0.005)
            async with anyio.create_task_group() as lane:
                for _ in range(lanes):
                    lane.start_soon(self._lane, of)
            if self.missing():
                await self._crowd(lanes * of)
            scope.cancel()

    async def _keep_busy(self, scope: anyio.CancelScope) -> None:
        with scope, coro_rt.qos(QoS.USER_INTERACTIVE):
            while True:
                async with self.llm.generate(QUESTION, max_tokens=1000, ignore_eos=True) as stream:
                    async for _ in stream:
                        pass

    async def _lane(self, of: int) -> None:
        for _ in range(of):
            missing = self.missing()
            if not missing:
                return
            await self.one(self.rng.choice(missing))

    async def _crowd(self, size: int) -> None:
        """Generations of all levels in one scope, which is cancelled wherever they are."""
        rng = self.rng
        streams: list[Any] = []

        async def consume(stream: Any, level: QoS) -> None:
            with coro_rt.qos(level):
                async with stream:
                    async for _ in stream:
                        pass

        async with anyio.create_task_group() as tasks:
            for _ in range(size):
                prompt = [rng.randrange(VOCABULARY) for _ in range(rng.choice((4, 30, 300)))]
                streams.append(self.llm.generate(prompt, max_tokens=200, ignore_eos=True))
                tasks.start_soon(consume, streams[-1], rng.choice(list(QoS)))
            await anyio.sleep(rng.uniform(0, 0.2))
            seen = [stage_of(stream) for stream in streams]
            tasks.cancel_scope.cancel()
        for stream, stage in zip(streams, seen, strict=True):
            assert stream.job is None or stream.job.state is State.DONE, f"{stream.job} lives on"
            if stage is not Stage.NEW:
                self.counted[stage] += 1
                self.ways[Ways.CROWD] += 1

    async def one(self, wanted: Stage) -> None:
        """Start a generation, cancel it when it is at the wanted stage or past it, and wait for its end."""
        rng = self.rng
        length = rng.randint(150, 400) if wanted is Stage.PREFILL else rng.randint(2, 40)
        prompt = [rng.randrange(VOCABULARY) for _ in range(length)]
        level = rng.choice((QoS.BACKGROUND, QoS.UTILITY)) if wanted is Stage.WAITING else QoS.USER_INTERACTIVE
        way = rng.choice(ALONE if wanted is Stage.DECODE else (Ways.SCOPE, Ways.HAND, Ways.ACLOSE))
        pause_s = rng.choice((0.0, 0.0, rng.uniform(0, 0.004), rng.uniform(0, 0.03)))
        after = rng.randint(1, 8)  # tokens, before a break
        seen = Stage.NEW
        with coro_rt.qos(level):
            stream = self.llm.generate(
                prompt, max_tokens=200, temperature=rng.choice((0.0, 0.8)), ignore_eos=True
            )
            async with anyio.create_task_group() as tasks:
                scope = anyio.CancelScope()

                async def consume() -> None:
                    nonlocal seen
                    taken = 0
                    with scope:
                        try:
                            async with stream:
                                async for _ in stream:
                                    taken += 1
                                    if way is Ways.BREAK and taken == after:
                                        seen = stage_of(stream)
                                        break
                        except coro_rt.JobCancelled:
                            assert way is Ways.HAND, "nobody cancelled it by hand"

                tasks.start_soon(consume)
                if way is not Ways.BREAK:
                    order = [*STAGES, Stage.ENDED]
                    # no event for these: it is the worker that goes on
                    while (now := stage_of(stream)) is Stage.NEW or order.index(now) < order.index(wanted):  # noqa: ASYNC110
                        await anyio.sleep(0.0005)
                    if pause_s:
                        await anyio.sleep(pause_s)
                    seen = stage_of(stream)
                    if way is Ways.SCOPE:
                        scope.cancel()
                    elif way is Ways.HAND:
                        stream.job.cancel()
                    else:
                        await stream.aclose()
                        assert stream.job.state is State.DONE, "aclose() came back before the job's end"
        assert stream.job.state is State.DONE, f"{stream.job} lives on after {way.value} while {seen.value}"
        self.counted[seen] += 1
        self.ways[way] += 1


async def answer(llm: Any, tokens: int = 24) -> list[int]:
    """Greedy tokens after a fixed prompt."""
    async with llm.generate(QUESTION, max_tokens=tokens, ignore_eos=True) as stream:
        return [token.id async for token in stream]


def nothing_left(runtime: coro_rt.Runtime, memory: int) -> None:
    """No job, and `memory` bytes reserved."""
    stats = runtime.stats()
    alive = (stats.jobs_ready, stats.jobs_running, stats.jobs_waiting)
    assert alive == (0, 0, 0), f"jobs are left: {alive} are ready, running, waiting"
    assert runtime.memory.used == memory, (
        f"{runtime.memory.used - memory} bytes of the sequences' memory are left"
    )


def threads_now() -> set[str]:
    """The names of all threads, without those that the hosts keep for themselves."""
    return {one.name for one in threading.enumerate() if not one.name.startswith(HOST_THREADS)}


async def cancel_many(model: Path, *, seed: int, each: int, total: int = 0, check_every: int = 40) -> Cancels:
    """`each` cancels at every stage on one runtime, `total` in all; checked all along and at the end."""
    before = threads_now()
    async with coro_rt.open_runtime() as runtime:
        llm = await runtime.load_model(model)
        undisturbed = await answer(llm)
        weights = runtime.memory.used
        assert weights > 0
        cancels = Cancels(runtime, llm, random.Random(seed), each=each, total=total)
        while cancels.missing():
            await cancels.batch(of=max(1, check_every // 4))
            nothing_left(runtime, weights)
            assert await answer(llm) == undisturbed, "the next answer is another one"
            nothing_left(runtime, weights)
        await llm.aclose()
        nothing_left(runtime, 0)
    assert runtime.memory.used == 0
    assert threads_now() <= before, f"threads are left: {threads_now() - before}"
    return cancels


async def cancel_at_close(model: Path, *, seed: int, jobs: int = 12) -> Counter[Stage]:
    """Leave a runtime while `jobs` generations are somewhere. Where those were that had not ended."""
    rng = random.Random(seed)
    before = threads_now()
    outcomes: Counter[str] = Counter()
    streams: list[Any] = []
    closed = False  # the model, before the runtime

    async def consume(stream: Any, level: QoS) -> None:
        with coro_rt.qos(level):
            try:
                async for _ in stream:
                    pass
            except coro_rt.JobCancelled:
                assert closed, "nobody cancelled it by hand"
            except coro_rt.RuntimeClosed:
                outcomes["closed"] += 1
            else:
                outcomes["ended"] += 1

    async with anyio.create_task_group() as tasks:
        async with coro_rt.open_runtime(policy=rng.choice(("dynamic", "fair", "strict", "fifo"))) as runtime:
            llm = await runtime.load_model(model)
            weights = runtime.memory.used
            for _ in range(jobs):
                prompt = [rng.randrange(VOCABULARY) for _ in range(rng.choice((4, 20, 300)))]
                streams.append(llm.generate(prompt, max_tokens=300, ignore_eos=True))
                tasks.start_soon(consume, streams[-1], rng.choice(list(QoS)))
            await anyio.sleep(rng.uniform(0.0, 0.25))
            seen = Counter(stage_of(stream) for stream in streams)
            if closed := rng.random() < 0.3:
                await llm.aclose()  # its jobs end here already, and that must not be in the way of closing
                seen.clear()
        nothing_left(runtime, 0 if closed else weights)
        await llm.aclose()
        nothing_left(runtime, 0)
        assert threads_now() <= before, f"threads are left: {threads_now() - before}"
    started = [stream for stream in streams if stream.job is not None]
    assert all(stream.job.state is State.DONE for stream in started)
    if seen:
        alive = sum(seen[stage] for stage in STAGES)
        assert outcomes["closed"] >= alive, f"{outcomes} of {seen}"
    return Counter({stage: seen[stage] for stage in STAGES})
