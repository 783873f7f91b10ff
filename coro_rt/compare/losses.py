"""Workloads that threads, event loops or fair scheduling should win."""

from __future__ import annotations

from coro_rt.compare import (
    kernel_length,
    long_steps,
    roundtrip,
    scene,
    starting,
    switch,
)
from coro_rt.compare.claim import BETTER_PLACED, LOSES, Judge
from coro_rt.compare.hosts import placements


def losses(judge: Judge) -> None:
    """Workloads that threads, event loops or fair scheduling should win: a claim holds where they do."""
    of = judge.of
    judge.say(
        LOSES,
        "beside a job that runs Python for 20 ms at a time, threads answer a short ask sooner",
        judge.times(
            of.median(long_steps.WHAT, long_steps.OURS), of.median(long_steps.WHAT, long_steps.THREADS)
        ),
        "times",
        "steps",
        least=1,
        note="a coroutine is not taken off in the middle of its Python",
    )
    judge.say(
        LOSES,
        "an event loop (asyncio) switches cheaper between 1,000 tasks that wait for each other",
        judge.times(
            of.median(switch.DEPENDENT, switch.OURS, 1000), of.median(switch.DEPENDENT, "asyncio", 1000)
        ),
        "times",
        "switch",
        least=1,
        note="it has one thread, no priorities and no ledger",
    )
    start = {one.who: one.median for one in of.of(starting.START)}
    judge.say(
        LOSES,
        "an event loop (asyncio) starts and joins tasks cheaper",
        judge.times(start.get(starting.OURS), start.get("asyncio")),
        "times",
        "starting",
        least=1,
    )
    judge.say(
        LOSES,
        "a kernel of 100 µs is called in place cheaper than asked for one by one",
        of.median(kernel_length.WHAT, kernel_length.ASKED, 100.0),
        "% cheaper",
        "kernels",
        least=1,
    )
    judge.say(
        LOSES,
        "a thread pool hands a short kernel over and back sooner (run_in_executor, asyncio)",
        judge.times(
            of.best(roundtrip.WHAT, placements(f"{roundtrip.OURS}, asyncio")),
            of.best(roundtrip.WHAT, placements("run_in_executor, asyncio")),
        ),
        "times",
        "roundtrip",
        least=1,
        note=BETTER_PLACED,
    )
    judge.say(
        LOSES,
        "fair scheduling leaves the background more tokens than dynamic priorities do",
        judge.times(judge.scene(scene.BACKGROUND, "fair"), judge.scene(scene.BACKGROUND, "dynamic")),
        "times",
        "scene",
        least=1,
        note="what urgent answers get, the background does not",
    )
    judge.say(
        LOSES,
        "a thread pool leaves the background more tokens than dynamic priorities do",
        judge.times(judge.scene(scene.BACKGROUND, "pool"), judge.scene(scene.BACKGROUND, "dynamic")),
        "times",
        "scene",
        least=1,
        note="most of its time nobody is answered there",
    )
