"""Decode and prefill of a model through `llm.generate`, beside the peers and the machine's limits.

Decode: tokens per second between the first token and the last, after a prompt of `context` tokens. Prefill:
a prompt and one token of answer, by the wall time of both. Every figure comes with the limit that was
measured between the repetitions: bandwidth by the bytes of weights that a token reads, or the peak of int8
products by those that it takes.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import coro_rt
from coro_rt.llm.model import LLM

from . import batch
from .busy import beside_busy_loop, core
from .limits import Limits, Weights
from .measure import Report, Row
from .ours import Ours
from .peers import Peers, asked
from .prompts import text_ids
from .turns import Side, in_turns


@dataclass(frozen=True)
class Wanted:
    """What is asked for. `tokens`: decoded in one sample; 0: prompts are read. `trace`: a file for one."""

    path: Path
    threads: tuple[int, ...]
    contexts: tuple[int, ...]
    tokens: int
    repeat: int
    batch: int = 0
    beside_busy: bool = False
    monitor: bool | None = None
    trace: str | None = None


async def measure(wanted: Wanted, peers: Peers) -> Report:
    """Rows for each number of threads and context: one for each peer, or one alone."""
    name = "decode" if wanted.tokens else "prefill"
    report = Report(name, f"{wanted.path.stem}, through llm.generate", peer="llama.cpp")
    report.notes += peers.infos
    weights = Weights.of(wanted.path)
    for threads in wanted.threads:
        async with (
            coro_rt.open_runtime(threads=threads, monitor=wanted.monitor) as runtime,
            await runtime.load_model(wanted.path, prefix_reuse=False) as llm,
        ):
            limits = Limits(threads)
            first = len(report.rows)
            for context in wanted.contexts:
                report.rows += await _one(wanted, peers, llm, limits, weights, context, report.notes)
            for row in report.rows[first:]:  # the best of all looks
                row.limit = weights.decoding(limits) if wanted.tokens else weights.reading(limits)
            if wanted.batch:
                report.rows += await _batched(wanted, llm, limits, weights, report.notes)
    for context in wanted.contexts:
        rates = {
            row.threads: median(row.ours)
            for row in report.rows
            if row.context == context and not row.what.endswith("at once")
        }
        if {1, 2} <= rates.keys():
            times = rates[2] / rates[1]
            report.notes.append(f"context {context}: 2 threads make {times:.2f} times the rate of 1")
    if wanted.beside_busy:
        await _disturbed(wanted, peers, report, weights)
    if wanted.trace is not None:
        await _traced(wanted, wanted.trace)
    return report


async def _one(
    wanted: Wanted, peers: Peers, llm: LLM, limits: Limits, weights: Weights, context: int, notes: list[str]
) -> list[Row]:
    ids = text_ids(llm, context, context)
    best = await peers.best(wanted.path, limits.threads, ids, wanted.tokens)
    notes += [f"{threads_of(limits.threads)}, context {context}, {words}" for _, words in best]
    sides: list[Side] = [Ours(llm), *(side for side, _ in best)]

    async def look() -> float:
        limits.look()
        return 0.0

    ours, *theirs, _ = await in_turns(
        [*(partial(asked, side, ids, wanted.tokens) for side in sides), look], wanted.repeat
    )
    name = "decode" if wanted.tokens else "prefill"

    def row(what: str, peer: list[float]) -> Row:
        return Row(
            what, "tokens/s", ours, peer,
            model=llm.name, format=weights.format, threads=limits.threads, context=context,
        )  # fmt: skip

    return [
        row(f"{name} beside {side.name}", samples) for side, samples in zip(sides[1:], theirs, strict=True)
    ] or [row(name, [])]


async def _batched(wanted: Wanted, llm: LLM, limits: Limits, weights: Weights, notes: list[str]) -> list[Row]:
    """One generation and `wanted.batch` of them at once."""
    rows = []
    for context in wanted.contexts:
        ids = text_ids(llm, context, context)
        counts = (1, wanted.batch)
        samples = [partial(batch.decode, llm, count, ids, wanted.tokens) for count in counts]
        found = await in_turns(samples, wanted.repeat)
        for count, rates in zip(counts, found, strict=True):
            what = f"decode, {count} sequence{'s'[: count > 1]} at once"
            rows.append(
                Row(
                    what, "tokens/s", rates, model=llm.name, format=weights.format, threads=limits.threads,
                    context=context, limit=weights.decoding(limits, count),
                )
            )  # fmt: skip
        times = median(found[1]) / median(found[0])
        notes.append(
            f"{threads_of(limits.threads)}, context {context}: a batch of {wanted.batch} makes {times:.2f} "
            "times the tokens/s of one sequence"
        )
    return rows


async def _disturbed(wanted: Wanted, peers: Peers, report: Report, weights: Weights) -> None:
    """One thread undisturbed, and each number of threads beside a busy loop, in turns."""
    context = wanted.contexts[0]
    async with AsyncExitStack() as stack:

        async def opened(threads: int) -> LLM:
            opening = coro_rt.open_runtime(threads=threads, monitor=wanted.monitor)
            runtime = await stack.enter_async_context(opening)
            return await stack.enter_async_context(await runtime.load_model(wanted.path, prefix_reuse=False))

        llm = await opened(1)
        ids = text_ids(llm, context, context)
        sides: list[tuple[str, int, Side]] = []
        for threads in wanted.threads:
            sides.append(("coro_rt", threads, Ours(await opened(threads))))
            for side, _ in await peers.best(wanted.path, threads, ids, wanted.tokens):
                sides.append((side.name, threads, side))

        async def beside(side: Side) -> float:
            async with beside_busy_loop():
                return await asked(side, ids, wanted.tokens)

        quiet, *found = await in_turns(
            [
                partial(asked, Ours(llm), ids, wanted.tokens),
                *(partial(beside, side) for _, _, side in sides),
            ],
            wanted.repeat,
        )
        name = "decode" if wanted.tokens else "prefill"

    def row(what: str, threads: int, ours: list[float], peer: list[float]) -> Row:
        return Row(
            what, "tokens/s", ours, peer,
            model=llm.name, format=weights.format, threads=threads, context=context,
        )  # fmt: skip

    report.rows.append(row(f"{name}, undisturbed", 1, quiet, []))
    for threads in wanted.threads:
        rates = {side: found[at] for at, (side, count, _) in enumerate(sides) if count == threads}
        ours = rates.pop("coro_rt")
        what = f"{name}, a busy loop on core {core()}"
        others = [row(f"{what}, beside {side}", threads, ours, peer) for side, peer in rates.items()]
        report.rows += others or [row(what, threads, ours, [])]
        report.notes.append(
            f"{threads_of(threads)} beside a busy loop: {median(ours) / median(quiet):.2f} times the "
            "undisturbed rate of 1 thread"
        )


async def _traced(wanted: Wanted, path: str) -> None:
    """A sample of each more, with the last number of threads: no figure is of a runtime that was watched."""
    opening = coro_rt.open_runtime(
        threads=wanted.threads[-1], monitor=wanted.monitor, instruments=[coro_rt.TraceEvents(path)]
    )
    async with opening as runtime, await runtime.load_model(wanted.path, prefix_reuse=False) as llm:
        for context in wanted.contexts:
            ids = text_ids(llm, context, context)
            await asked(Ours(llm), ids, wanted.tokens)
            if wanted.batch:
                await batch.decode(llm, wanted.batch, ids, wanted.tokens)


def threads_of(count: int) -> str:
    """In words."""
    return f"{count} thread{'s'[: count > 1]}"
