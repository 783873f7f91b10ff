"""The scene on all sides: coro_rt, and llama.cpp's server with its own batch and with a small one.

Sides take turns of up to `BLOCK` asks each, in changing order: first asks on the idle side, then the
background alone, then asks beside it. A part of the asks is played under `fifo` as well, which shows what can
be done in all. What comes of it: `figures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import anyio

import coro_rt
from coro_rt.devices.cpu import CpuDevice
from coro_rt.errors import CoroRtError

from . import wheel
from .assistant import Assistant
from .decisions import watch
from .figures import claims, rows
from .measure import Report, Row
from .prompts import Prompts, text_ids
from .scene import ALONE_S, CONTEXT, GAP_S, IDLE_GAP_S, Script, Seen, Side, busy, idle
from .server import Server

BLOCK = 30
"""Asks of one turn, beside the background and on the idle side each."""

FIFO_PART = 5
"""Under `fifo` an ask waits for whole jobs: one in five is played."""

TEXT = 4096
"""Tokens of the text that prompts are pieces of."""

SMALL_BATCH = 64
"""Tokens in a step of the second server, which reads prompts in smaller pieces."""

REST_S = 0.3
"""Between turns: threads that spin after their work sleep before the next side begins."""

OUR_ASK_S, FIFO_ASK_S, SERVER_ASK_S = 1.0, 3.0, 3.0
"""What a turn takes for each ask beside the background, on two free cores: for the estimate at the start."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for. `threads`: None for all that this process may use."""

    path: Path
    asks: int
    policy: str = "dynamic"
    threads: int | None = None
    peer: bool = False
    seed: int = 0
    monitor: bool | None = None
    record: str | None = None
    trace: str | None = None


async def measure(
    wanted: Wanted, *, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> Report:
    """Play the scene on all sides. `say` gets a line at the start, `progress` how many asks are done, of how
    many.

    CoroRtError if a peer is asked for and not installed.
    """
    if wanted.peer and not wheel.available():
        raise CoroRtError("llama.cpp is not here: install the extra `bench` (the wheel xllamacpp)")
    notes = []
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(
            coro_rt.open_runtime(
                policy=wanted.policy,
                threads=wanted.threads,
                monitor=wanted.monitor,
                record=wanted.record,
                instruments=[] if wanted.trace is None else [coro_rt.TraceEvents(wanted.trace)],
            )
        )
        llm = await stack.enter_async_context(
            await runtime.load_model(wanted.path, context=CONTEXT, prefix_reuse=False)
        )
        threads = next(one.threads for one in runtime.devices if isinstance(one, CpuDevice))
        prompts = Prompts(text_ids(llm, TEXT, wanted.seed), llm.tokenizer.vocab_size, wanted.seed)
        decisions = watch(runtime)
        numbers = count(1, 2)
        ours = Assistant(runtime, llm, wanted.policy, prompts, numbers, decisions)
        fifo = Assistant(runtime, llm, "fifo", prompts, numbers, decisions)
        servers = []
        for batch in (None, SMALL_BATCH) if wanted.peer else ():
            server = Server(wanted.path, prompts, threads=threads, batch=batch)
            stack.enter_context(closing(server))
            notes.append(f"{server.name}: {await server.open()}")
            servers.append(server)

        seconds = wanted.asks * (OUR_ASK_S + FIFO_ASK_S / FIFO_PART + SERVER_ASK_S * len(servers))
        sides: list[Side] = [ours, *servers]
        names = ", ".join(side.name for side in sides)
        say(f"{names}: {wanted.asks} asks on each, some {max(1, round(seconds / 60))} min on a free machine")
        seen, under_fifo = await _play(sides, fifo, wanted, prompts, progress)
        stats = runtime.stats()

    peers = {server.name: found for server, found in zip(servers, seen[1:], strict=True)}
    row = partial(Row, model=llm.name, threads=threads)
    report = Report("respond", f"{llm.name}, {threads} threads, policy {wanted.policy}", peer="llama.cpp")
    report.rows = rows(seen[0], under_fifo, peers, row)
    report.claims = claims(seen[0], under_fifo, peers)
    for name, found in {wanted.policy: seen[0], **peers}.items():
        reading = sum(answer.reading > 0 for answer in found.loaded)
        notes.append(f"{name}: {reading} of {len(found.loaded)} asks came while a prompt was being read")
    notes.append(
        f"{stats.switches} switches, {stats.preemptions} preemptions, "
        f"{stats.switch_cost_s * 1e6:.1f} µs a switch, {decisions.calls} calls of the scheduler, "
        f"{decisions.seconds / decisions.calls * 1e6:.2f} µs each"
    )
    report.notes = notes
    return report


async def _play(
    sides: Sequence[Side], fifo: Side, wanted: Wanted, prompts: Prompts, progress: Callable[[int, int], None]
) -> tuple[list[Seen], Seen]:
    """What each of `sides` did, and what `fifo` did with its part of the asks."""
    blocks = math.ceil(wanted.asks / BLOCK)
    sizes = [wanted.asks * (nth + 1) // blocks - wanted.asks * nth // blocks for nth in range(blocks)]
    done, total = 0, sum(len(sides) * (2 * size + 1) + math.ceil(size / FIFO_PART) for size in sizes)

    def asked() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    seen, under_fifo = [Seen() for _ in sides], Seen()
    script = Script(prompts, wanted.seed)
    for nth, size in enumerate(sizes):
        alone_s = ALONE_S * size / BLOCK
        quiet, loaded = script.asks(size + 1, IDLE_GAP_S), script.asks(size, GAP_S)
        for at in range(len(sides))[:: -1 if nth % 2 else 1]:
            await anyio.sleep(REST_S)
            await idle(sides[at], quiet, seen[at], asked)
            await busy(sides[at], loaded, seen[at], asked, alone_s=alone_s)
        await anyio.sleep(REST_S)
        await busy(fifo, script.asks(math.ceil(size / FIFO_PART), GAP_S), under_fifo, asked, alone_s=0)
    return seen, under_fifo
