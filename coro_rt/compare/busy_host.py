"""Decoding while the host's own thread runs pure Python without a pause, with one thread for the kernels.

Whoever runs Python needs the GIL, and the host gives it up only every `sys.getswitchinterval()`. Both are
measured alone and together: the tokens that a job writes (nobody reads them meanwhile; the stream's buffer
takes them all), and the turns that the host's loop makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from os import PathLike
from typing import Any

import anyio

from coro_rt import QoS, qos
from coro_rt.bench.prompts import text_ids
from coro_rt.compare.drivers import DRIVERS, driven
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Figures, Noise

DECODING, HOST = "decoding beside a busy host", "a busy host beside decoding"
DECODING_ALONE, HOST_ALONE = "decoding, the host idle", "a busy host, nobody decodes"


def measure(
    figures: Figures, model: str | PathLike[str], seconds: float, repeat: int,
    tick: Callable[[str], object], noise: Noise,
) -> None:  # fmt: skip
    """Under coro_rt, and with the job on a thread of its own: percent of what each does alone."""
    for turn in range(repeat):
        for driver in DRIVERS:
            if driver.key in ("threads", "dynamic"):
                tick(f"busy host: {driver.title}")
                noise.look()
                run_on("trio", _one, figures, model, seconds, driver, turn)


async def _one(figures: Figures, model: str | PathLike[str], seconds: float, driver: Any, turn: int) -> None:
    options = {"threads": 1} if driver.is_ours else {}
    async with driven(driver, model, 1, **options) as runs:
        host_alone = _spin(seconds)
        prompt = text_ids(runs.llm, 16, turn)
        room = runs.llm.context - len(prompt)
        device = runs.runtime.devices[0].name
        with qos(QoS.USER_INTERACTIVE):
            stream = runs.llm.generate(prompt, max_tokens=room, ignore_eos=True, buffer=room, device=device)
        async with stream:
            await anext(stream)
            alone, beside = [], []
            host = []
            for _ in range(3):
                began, before = time.perf_counter(), stream.usage.completion_tokens
                await anyio.sleep(seconds / 3)
                alone.append((stream.usage.completion_tokens - before) / (time.perf_counter() - began))
                began, before = time.perf_counter(), stream.usage.completion_tokens
                host.append(_spin(seconds / 3))
                beside.append((stream.usage.completion_tokens - before) / (time.perf_counter() - began))
    for what, unit, value in (
        (DECODING_ALONE, "tokens/s", sum(alone) / 3),
        (DECODING, "%", 100 * sum(beside) / max(sum(alone), 1e-9)),
        (HOST_ALONE, "turns/s", host_alone),
        (HOST, "%", 100 * sum(host) / 3 / host_alone),
    ):
        figures.add(what, driver.key, unit, value)


def _spin(seconds: float) -> float:
    """Pure Python for so long; how many turns a second it made."""
    began = time.perf_counter()
    turns = 0
    while time.perf_counter() - began < seconds:
        for _ in range(1000):
            turns += 1
    return turns / (time.perf_counter() - began)
