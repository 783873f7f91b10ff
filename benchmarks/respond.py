"""How long an urgent question waits for its first token, on the idle runtime and among four background
jobs.

Background: four tasks under qos(BACKGROUND), each always reading a new prompt of 500 tokens and writing 96.
Questions: 40 tokens under qos(USER_INTERACTIVE), 16 tokens of answer, no two alike; time to first token
from the call of `generate` to the first token in the task. Half of the questions are asked when the job
that runs is a background job in the middle of its prompt, the others when it is one that writes: the asking
task waits until `stream.job` says so, and what it saw is kept with each question. Rounds of ten: ten
questions on the idle runtime after two for warming up, the background alone for a while, and ten questions
(again after two) under load, half a second apart. The background's rate: tokens read and written per
second, of whole prompts and single tokens, over the whole loaded phase of a round, by the rate of the same
jobs alone in the same round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from statistics import median
from typing import Any

import anyio
import numpy as np

import coro_rt
from coro_rt import QoS
from coro_rt.bench.measure import Claim, Report, Row
from coro_rt.bench.prompts import text_ids
from coro_rt.schedulers.entry import State

from .hosts import run_on
from .options import Options

JOBS, BACKGROUND_PROMPT, BACKGROUND_ANSWER = 4, 500, 96
PROMPT, ANSWER = 40, 16
ROUND, WARM_UPS = 10, 2
ALONE_S, PAUSE_S = 6.0, (0.3, 0.7)


@dataclass
class Ask:
    """One question. `seen`: what the running background job did when it was asked."""

    round: int
    seen: str
    ttft_s: float
    tokens_per_s: float
    device_s: float


@dataclass
class Background:
    """The four jobs, and what they have done."""

    llm: Any
    seeds: count[int]
    read: int = 0
    written: int = 0
    reading: dict[int, Any] = field(default_factory=dict)  # streams, by task
    writing: dict[int, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.read + self.written

    async def renew(self, task: int) -> None:
        """One task: prompt after prompt, until cancelled."""
        while True:
            ids = text_ids(self.llm, BACKGROUND_PROMPT, next(self.seeds))
            async with self.llm.generate(ids, max_tokens=BACKGROUND_ANSWER, ignore_eos=True) as stream:
                self.reading[task] = stream
                try:
                    async for _ in stream:
                        if self.reading.pop(task, None) is not None:
                            self.writing[task] = stream
                            self.read += BACKGROUND_PROMPT
                        self.written += 1
                finally:
                    self.reading.pop(task, None)
                    self.writing.pop(task, None)

    def running(self) -> str:
        """What the job on the device does now: "reading", "writing" or "neither"."""
        for name, streams in (("reading", self.reading), ("writing", self.writing)):
            if any(
                stream.job is not None and stream.job.state is State.RUNNING for stream in streams.values()
            ):
                return name
        return "neither"

    async def moment(self, wanted: str, patience_s: float = 5.0) -> str:
        """Wait until the running job does what is wanted; what it does then."""
        with anyio.move_on_after(patience_s):
            while self.running() != wanted:  # noqa: ASYNC110 (it is the worker that changes this)
                await anyio.sleep(0.001)
        return self.running()


def run(options: Options) -> Report:
    """On the first of the backends."""
    report = Report("respond", "time to first token of an urgent question, idle and under load", peer="idle")
    run_on(options.backends[0], _measure, options, report)
    return report


async def _measure(options: Options, report: Report) -> None:
    rounds = max(1, round(options.asks / ROUND))
    rng = random.Random(0)
    seeds = count(1000)
    idle: list[Ask] = []
    loaded: list[Ask] = []
    kept, kept_of_rest, alone_rates, loaded_rates = [], [], [], []
    async with (
        coro_rt.open_runtime(threads=max(options.threads)) as runtime,
        await runtime.load_model(options.model) as llm,
    ):
        for turn in range(rounds):
            for at in range(-WARM_UPS, ROUND):
                one = await _ask(llm, next(seeds), lambda: "idle", turn)
                if at >= 0:
                    idle.append(one)
            background = Background(llm, seeds)
            async with anyio.create_task_group() as tasks:
                with coro_rt.qos(QoS.BACKGROUND):
                    for task in range(JOBS):
                        tasks.start_soon(background.renew, task)
                await anyio.sleep(1.0)
                began, before = time.perf_counter(), background.tokens
                await anyio.sleep(ALONE_S)
                alone = (background.tokens - before) / (time.perf_counter() - began)

                began, before = time.perf_counter(), background.tokens
                urgent_s = 0.0
                for at in range(-WARM_UPS, ROUND):
                    await anyio.sleep(rng.uniform(*PAUSE_S))
                    await background.moment("reading" if at % 2 else "writing")
                    one = await _ask(llm, next(seeds), background.running, turn)
                    urgent_s += one.device_s
                    if at >= 0:
                        loaded.append(one)
                took = time.perf_counter() - began
                rate = (background.tokens - before) / took
                tasks.cancel_scope.cancel()
            alone_rates.append(alone)
            loaded_rates.append(rate)
            kept.append(rate / alone)
            kept_of_rest.append(rate / alone / (1 - urgent_s / took))
        stats = runtime.stats()

    name = f"{options.backends[0]}, {max(options.threads)} threads"
    ours, peer = [one.ttft_s * 1e3 for one in loaded], [one.ttft_s * 1e3 for one in idle]
    report.rows.append(
        Row(f"first token, loaded beside idle ({name})", "ms", ours, peer, less_is_better=True)
    )
    for seen in ("reading", "writing"):
        some = [one.ttft_s * 1e3 for one in loaded if one.seen == seen]
        if some:
            report.rows.append(Row(f"  of these, background {seen}", "ms", some, peer, less_is_better=True))
    report.rows.append(
        Row(
            "urgent answer",
            "tokens/s",
            [one.tokens_per_s for one in loaded],
            [one.tokens_per_s for one in idle],
        )
    )
    report.rows.append(Row("background, loaded beside alone", "tokens/s", loaded_rates, alone_rates))
    reading = sum(one.seen == "reading" for one in loaded)
    report.claims += [
        Claim("first token, loaded by idle, medians", median(ours) / median(peer), 2.0, at_least=False),
        Claim("background keeps of its own rate", median(kept), 0.5, at_least=True),
        Claim("asked while the background was mid-prefill", reading / len(loaded), 0.4, at_least=True),
    ]
    p99 = [float(np.percentile(samples, 99)) for samples in (ours, peer)]
    report.notes += [
        f"first token: P99 {p99[0]:.1f} ms loaded, {p99[1]:.1f} ms idle; "
        f"max {max(ours):.1f} and {max(peer):.1f} ms",
        f"{reading} of {len(loaded)} questions met a background job in its prompt, "
        f"{sum(one.seen == 'writing' for one in loaded)} one that wrote",
        f"of its own rate in the device time that the questions left, the background made "
        f"{100 * median(kept_of_rest):.0f} %",
        f"{stats.switches} switches, {stats.preemptions} preemptions, "
        f"{stats.switch_cost_s * 1e6:.1f} µs a switch",
    ]
    report.details = {
        "idle": [asdict(one) for one in idle],
        "loaded": [asdict(one) for one in loaded],
        "background_kept": kept,
        "background_kept_of_what_was_left": kept_of_rest,
        "switches": stats.switches, "preemptions": stats.preemptions, "switch_cost_s": stats.switch_cost_s,
    }  # fmt: skip


async def _ask(llm: Any, seed: int, look: Callable[[], str], turn: int) -> Ask:
    ids = text_ids(llm, PROMPT, seed)
    arrivals = []
    with coro_rt.qos(QoS.USER_INTERACTIVE):
        seen, began = look(), time.perf_counter()
        async with llm.generate(ids, max_tokens=ANSWER, ignore_eos=True) as stream:
            async for _ in stream:
                arrivals.append(time.perf_counter())
    rate = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])
    return Ask(turn, seen, arrivals[0] - began, rate, stream.ledger.device_s)
