"""The assistant: background jobs that never end, and somebody who asks now and then, under each driver.

Every background task reads a prompt, writes an answer, and begins again. Beside them one task asks a short
question, reads the answer to its end, pauses, and asks the next; prompts and pauses are the same under every
driver. A round begins when the background has begun to write, and ends with the first answer that ends after
`window_s`. Times to the first token are samples of single asks; what is a percentile or a rate has a sample
for each round.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count, pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from coro_rt.bench.prompts import text_ids
from coro_rt.compare.drivers import DRIVERS, LOWEST, NICE, Driven, Driver, driven
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Figures, Noise
from coro_rt.compare.usage import Meter, ThreadTime, forget_freed_memory, network_sockets, thread_time
from coro_rt.stream import Stream

TTFT, TTFT_P99, GAP_P99 = "time to first token", "time to first token, P99", "between tokens, P99"
WORKED, WRITTEN, BACKGROUND = "tokens read and written", "tokens written", "background's tokens written"
CPU, JOULES, MEMORY = "CPU time per token", "energy per token", "peak memory"
VOLUNTARY, INVOLUNTARY = "voluntary context switches", "involuntary context switches"
LEDGER = "ledger's device time by the worker's CPU time"
LEDGER_READY = "ledger's device time by the worker's CPU time and its wait for a core"
SOCKETS = "network sockets open"


@dataclass(frozen=True, slots=True)
class Setting:
    """The scene's numbers: lengths in tokens, times in seconds."""

    model: str | PathLike[str]
    jobs: int = 8
    rounds: int = 4
    window_s: float = 5.0
    background_prompt: int = 128
    background_answer: int = 64
    prompt: int = 24
    answer: int = 12
    pause_s: tuple[float, float] = (0.02, 0.12)
    patience_s: float = 20.0  # after the window: an answer that has not ended then is given up

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "model": Path(self.model).name}  # in whose folder it lies is not said


@dataclass(slots=True)
class Round:
    """One round under one driver, while it goes on."""

    setting: Setting
    number: int
    seeds: count[int] = field(init=False)
    begun: anyio.Event = field(default_factory=anyio.Event)  # the background writes
    ttft_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    unanswered: int = 0
    read: int = 0  # tokens of prompts, counted with the first token after them
    written: int = 0
    by_background: int = 0  # of these
    device_s: float = 0.0  # in the ledgers of jobs that have ended

    def __post_init__(self) -> None:
        self.seeds = count(10_000 * (1 + self.number))

    async def answer(self, runs: Driven, prompt: int, length: int, *, urgent: bool) -> list[float]:
        """One answer, read to its end; when its tokens came."""
        moments: list[float] = []
        ids = text_ids(runs.llm, prompt, next(self.seeds))
        stream: Stream[Any] | None = None
        try:
            async with runs.generate(ids, urgent=urgent, max_tokens=length) as stream:
                async for _ in stream:
                    moments.append(time.perf_counter())
                    self.read += 0 if len(moments) > 1 else prompt
                    self.written += 1
                    if not urgent:
                        self.by_background += 1
                        self.begun.set()
        finally:  # cancelled or not, its job has ended
            if stream is not None:
                self.device_s += stream.ledger.device_s
        return moments

    async def background(self, runs: Driven) -> None:
        """A job that never ends."""
        while True:
            await self.answer(
                runs, self.setting.background_prompt, self.setting.background_answer, urgent=False
            )

    async def ask(self, runs: Driven) -> None:
        """Ask until the window is over."""
        setting, pauses = self.setting, random.Random(self.number)
        end = time.perf_counter() + setting.window_s
        while (left := end - time.perf_counter()) > 0:
            await anyio.sleep(pauses.uniform(*setting.pause_s))
            asked = time.perf_counter()
            moments: list[float] = []
            with anyio.move_on_after(left + setting.patience_s):
                moments = await self.answer(runs, setting.prompt, setting.answer, urgent=True)
            if not moments:
                self.unanswered += 1
                moments = [time.perf_counter()]  # it took longer than that
            self.ttft_s.append(moments[0] - asked)
            self.gaps_s += [later - earlier for earlier, later in pairwise(moments)]


def measure(
    figures: Figures, setting: Setting, tick: Callable[[str], object], noise: Noise,
    drivers: tuple[Driver, ...] = DRIVERS,
) -> None:  # fmt: skip
    """Play all rounds under all drivers, in turns; each round begins with another."""
    if os.getpriority(os.PRIO_PROCESS, 0) + NICE > LOWEST:
        figures.note(
            "this process is niced: the background's threads could not be lowered as far as they should"
        )
    for number in range(setting.rounds):
        first = number % len(drivers)
        for driver in drivers[first:] + drivers[:first]:
            tick(f"scene: {driver.title}")
            noise.look()
            run_on("trio", play, figures, Round(setting, number), driver)


async def play(figures: Figures | None, one: Round, driver: Driver, **options: Any) -> None:
    """One round. `options` are for `open_runtime`; without figures nothing is noted, for a trace alone."""
    setting = one.setting
    forget_freed_memory()
    async with driven(driver, setting.model, setting.jobs + 1, **options) as runs:
        async with runs.generate([1], urgent=True, max_tokens=4) as warm:
            async for _ in warm:
                pass
        # From here to where no job is left: none is booked halfway.
        before = _workers_time(runs)
        async with anyio.create_task_group() as tasks:
            for _ in range(setting.jobs):
                tasks.start_soon(one.background, runs)
            await one.begun.wait()
            one.read = one.written = one.by_background = 0
            meter = Meter()
            await one.ask(runs)
            usage = meter.stop()
            sockets = network_sockets()
            tasks.cancel_scope.cancel()
        worked_s = _workers_time(runs) - before
    if figures is None:
        return
    key, worked = driver.key, max(1, one.read + one.written)
    for seconds in one.ttft_s:
        figures.add(TTFT, key, "ms", seconds * 1e3)
    for what, unit, value in (
        (TTFT_P99, "ms", float(np.percentile(one.ttft_s, 99)) * 1e3),
        (GAP_P99, "ms", float(np.percentile(one.gaps_s or [0.0], 99)) * 1e3),
        (WORKED, "tokens/s", worked / usage.wall_s),
        (WRITTEN, "tokens/s", one.written / usage.wall_s),
        (BACKGROUND, "tokens/s", one.by_background / usage.wall_s),
        (CPU, "ms", usage.cpu_s / worked * 1e3),
        (JOULES, "J", usage.joules / worked),
        (VOLUNTARY, "per s", usage.voluntary / usage.wall_s),
        (INVOLUNTARY, "per s", usage.involuntary / usage.wall_s),
        (SOCKETS, "sockets", sockets),
    ):
        figures.add(what, key, unit, value)
    figures.joules_counted = usage.counted
    if usage.peak_bytes is not None:
        figures.add(MEMORY, key, "MB", usage.peak_bytes / 1e6)
    if worked_s.ran_s and driver.is_ours:
        figures.add(LEDGER, key, "", one.device_s / worked_s.ran_s)
        figures.add(LEDGER_READY, key, "", one.device_s / (worked_s.ran_s + worked_s.ready_s))
    if one.unanswered:
        figures.note(
            f"{driver.title}: an ask was given up after {setting.patience_s:g} s, and counts as that long"
        )


def _workers_time(runs: Driven) -> ThreadTime:
    """Of the workers' own threads, without the helpers of a gang."""
    names = {f"coro_rt-{device.name}" for device in runs.runtime.devices}
    return sum(
        (thread_time(thread) for thread in threading.enumerate() if thread.name in names), ThreadTime()
    )
