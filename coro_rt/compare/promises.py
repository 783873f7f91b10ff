"""What this project wants of itself."""

from __future__ import annotations

from coro_rt.compare import (
    busy_host,
    decisions,
    kernel_length,
    roundtrip,
    scene,
    starting,
    switch,
    thread_switch,
    tracing,
)
from coro_rt.compare.claim import BETTER_PLACED, OURS, Judge
from coro_rt.compare.hosts import BACKENDS, placements


def promises(judge: Judge) -> None:
    """What this project wants of itself."""
    of = judge.of
    ours = of.median(switch.READY, switch.OURS, 1000)
    judge.say(OURS, "a switch with 1,000 ready jobs takes 2.5 µs at most", ours, "µs", "switch", most=2.5)
    for peer, bound in ((thread_switch.EVENT, 80), (thread_switch.LOCK, 60)):
        theirs = of.best(switch.DEPENDENT, placements(peer), 1000)
        judge.say(
            OURS,
            f"a switch costs {bound} % less than between {peer}",
            judge.less(ours, theirs),
            "% less",
            "switch",
            least=bound,
        )
    judge.say(
        OURS,
        "100,000 ready jobs: a switch costs at most 3 times what it does with 1,000",
        judge.times(of.median(switch.READY, switch.OURS, 100_000), ours),
        "times",
        "switch",
        most=3,
    )
    for backend in BACKENDS:
        ratio = judge.times(
            of.best(roundtrip.WHAT, placements(f"{roundtrip.OURS}, {backend}")),
            of.best(roundtrip.WHAT, placements(f"{roundtrip.ANYIO}, {backend}")),
        )
        judge.say(
            OURS,
            f"host → device → host takes 0.8 of anyio.to_thread on {backend}",
            ratio,
            "times",
            "roundtrip",
            most=0.8,
            note=BETTER_PLACED,
        )
    judge.say(
        OURS,
        "jobs that chain kernels of 100 µs pay 5 % at most",
        of.median(kernel_length.WHAT, kernel_length.JOB, 100.0),
        "%",
        "kernels",
        most=5,
    )
    found = of.of(starting.MEMORY)
    judge.say(
        OURS,
        "a waiting job takes 2 KB at most",
        next((one.median for one in found if one.who == starting.OURS), None),
        "bytes",
        "starting",
        most=2048,
    )
    by_who = {one.who: one.median for one in of.of(starting.START)}
    judge.say(
        OURS,
        "start and join is 10 times faster than of threads",
        judge.times(by_who.get(starting.THREADS), by_who.get(starting.OURS)),
        "times",
        "starting",
        least=10,
    )
    for what, name in ((scene.TTFT, "median"), (scene.TTFT_P99, "P99")):
        judge.say(
            OURS,
            f"the first token comes 5 times sooner than with a thread per task ({name})",
            judge.times(judge.scene(what, "threads"), judge.scene(what, "dynamic")),
            "times",
            "scene",
            least=5,
        )
    judge.say(
        OURS,
        "no fewer tokens than a thread per task, read and written together",
        judge.times(judge.scene(scene.WORKED, "dynamic"), judge.scene(scene.WORKED, "threads")),
        "times",
        "scene",
        least=1,
    )
    judge.say(
        OURS,
        "half the involuntary context switches of a thread per task",
        judge.less(judge.scene(scene.INVOLUNTARY, "dynamic"), judge.scene(scene.INVOLUNTARY, "threads")),
        "% fewer",
        "scene",
        least=50,
    )
    for what, name in ((busy_host.DECODING, "decoding"), (busy_host.HOST, "the host")):
        judge.say(
            OURS,
            f"beside a host that never pauses, {name} keeps 90 % of its rate",
            of.median(what, "dynamic"),
            "%",
            "busy",
            least=90,
        )
    ready = of.median(scene.LEDGER_READY, "dynamic")
    judge.say(
        OURS,
        "the ledgers' device seconds are the worker's CPU time, within 3 %",
        of.median(scene.LEDGER, "dynamic"),
        "times",
        "scene",
        least=0.97,
        most=1.03,
        note="" if ready is None else f"{ready:.3g} times with what it waited for a core",
    )
    for kind in (decisions.TURN, decisions.ARRIVAL):
        growth = judge.times(of.median(kind, "dynamic", 100_000), of.median(kind, "dynamic", 1_000))
        judge.say(
            OURS,
            f"{kind} with 100,000 ready costs at most 3 times what it does with 1,000 (dynamic)",
            growth,
            "times",
            "decisions",
            most=3,
        )
    slower = judge.times(of.median(tracing.WHAT, tracing.ON), of.median(tracing.WHAT, tracing.OFF))
    judge.say(
        OURS,
        "a trace of everything slows jobs that chain kernels of 100 µs by 5 % at most",
        None if slower is None else 100 * (slower - 1),
        "%",
        "tracing",
        most=5,
    )
