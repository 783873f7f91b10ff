"""Decoding while the host's own thread runs pure Python without a pause, with one thread for the kernels.

Whoever runs Python needs the GIL, and the host gives it up only every `sys.getswitchinterval()`. Both are
measured alone and together, in turns: how fast a job writes an answer of so many tokens (nobody reads it
meanwhile; the stream's buffer takes it all), and how many turns a second the host's loop makes until then.
Whole answers, because tokens come in bursts: a window of time would count those of its last burst, which
nobody can see yet, for the next window.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from os import PathLike
from statistics import mean
from typing import Any

import anyio

from coro_rt import QoS, qos
from coro_rt.bench.prompts import text_ids
from coro_rt.compare.drivers import DRIVERS, Driven, Driver, driven
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Figures, Noise

DECODING, HOST = "decoding beside a busy host", "a busy host beside decoding"
DECODING_ALONE, HOST_ALONE = "decoding, the host idle", "a busy host, nobody decodes"

PARTS = 3
WARM = 32  # tokens of the first answer, which says how long the others are to be
POLL_S = 0.005  # how often an idle host looks whether the answer is there


def measure(
    figures: Figures, model: str | PathLike[str], seconds: float, repeat: int,
    tick: Callable[[str], object], noise: Noise,
) -> None:  # fmt: skip
    """Under coro_rt, and with the job on a thread of its own: percent of what each does alone."""
    for _ in range(repeat):
        for driver in DRIVERS:
            if driver.key in ("threads", "dynamic"):
                tick(f"busy host: {driver.title}")
                noise.look()
                run_on("trio", _one, figures, model, seconds / PARTS, driver)


async def _one(figures: Figures, model: str | PathLike[str], seconds: float, driver: Driver) -> None:
    """Parts of about so many seconds each."""
    options: dict[str, Any] = {"threads": 1} if driver.is_ours else {}
    host_alone, alone, beside, host = [], [], [], []
    async with driven(driver, model, 1, **options) as runs:
        rate, _ = await _write(runs, WARM, busy=False)
        tokens = max(2, round(rate * seconds))
        for _ in range(PARTS):
            host_alone.append(_spin(_passed(seconds)))
            alone.append((await _write(runs, tokens, busy=False))[0])
            rate, turns = await _write(runs, tokens, busy=True)
            beside.append(rate)
            host.append(turns)
    for what, unit, value in (
        (DECODING_ALONE, "tokens/s", mean(alone)),
        (DECODING, "%", 100 * mean(beside) / mean(alone)),
        (HOST_ALONE, "turns/s", mean(host_alone)),
        (HOST, "%", 100 * mean(host) / mean(host_alone)),
    ):
        figures.add(what, driver.key, unit, value)


async def _write(runs: Driven, tokens: int, *, busy: bool) -> tuple[float, float]:
    """Tokens a second of one answer after its first token, and turns a second of the host meanwhile."""
    prompt = text_ids(runs.llm, 16, 0)
    tokens = min(tokens, runs.llm.context - len(prompt))
    device = runs.runtime.devices[0].name
    turns = 0.0
    room = tokens + 1  # nobody reads them, and a job whose buffer is full waits until half of it is read
    stream = runs.llm.generate(prompt, max_tokens=tokens, ignore_eos=True, buffer=room, device=device)
    with qos(QoS.USER_INTERACTIVE):
        await anext(stream)
    async with stream:
        began = time.perf_counter()
        if busy:
            turns = _spin(lambda: stream.finish_reason is not None)
        else:
            while stream.finish_reason is None:  # noqa: ASYNC110 (waiting for its tokens would be work)
                await anyio.sleep(POLL_S)
        return (tokens - 1) / (time.perf_counter() - began), turns


def _passed(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def _spin(over: Callable[[], bool]) -> float:
    """Pure Python until it is `over`; how many turns a second it made."""
    began = time.perf_counter()
    turns = 0
    while not over():
        for _ in range(1000):
            turns += 1
    return turns / (time.perf_counter() - began)
