"""The claims of the article behind this project, in its order."""

from __future__ import annotations

from coro_rt.compare import (
    formats,
    scene,
    soc,
    switch,
    thread_switch,
)
from coro_rt.compare.claim import ARTICLE, BETTER_PLACED, Claim, Judge
from coro_rt.compare.hosts import placements


def article(judge: Judge) -> None:
    """The claims of the article, in its order."""
    of = judge.of
    ours = of.median(switch.READY, switch.OURS, 1000)
    for peer in (thread_switch.EVENT, thread_switch.LOCK):
        theirs = of.best(switch.DEPENDENT, placements(peer), 1000)
        judge.say(
            ARTICLE,
            f"coroutines save 50 % of a task switch (1,000 ready, beside {peer})",
            judge.less(ours, theirs),
            "% saved",
            "switch",
            least=50,
            note=BETTER_PLACED,
        )
    judge.say(
        ARTICLE,
        "dynamic priorities cut delay, unlike fair scheduling (first token, median)",
        judge.times(judge.scene(scene.TTFT, "fair"), judge.scene(scene.TTFT, "dynamic")),
        "times",
        "scene",
        least=1.1,
    )
    joules = of.get(scene.JOULES, "dynamic")
    if joules is not None:
        judge.say(
            ARTICLE,
            "dynamic priorities significantly cut energy, unlike fair scheduling (per token)",
            judge.less(joules.median, judge.scene(scene.JOULES, "fair")),
            "% saved",
            "scene",
            least=10,
            kind="measured" if of.joules_counted else "modelled",
            note="" if of.joules_counted else "nothing counts joules here: CPU seconds, 5 W a core",
        )
    for name in soc.WORKLOADS:
        together = of.median(soc.WHAT, f"{soc.TOGETHER}, {name}")
        rates = {device: of.median(soc.WHAT, f"{device}, {name}") for device in soc.PROCESSORS}
        known = [rate for rate in rates.values() if rate is not None]
        for against, rate in (
            ("the CPU alone", rates["cpu"]),
            ("the best alone", max(known, default=None)),
        ):
            gain = judge.times(together, rate)
            judge.say(
                ARTICLE,
                f"CPU, GPU and NPU together are over 60 % more efficient ({name}, than {against})",
                None if gain is None else 100 * (gain - 1),
                "% more jobs",
                "soc",
                least=60,
                kind="modelled",
                note="a model of a phone's chip: docs/soc.md",
            )
    _formats(judge)
    for billions in (1, 3, 7, 10):
        memory = of.median(formats.BYTES, formats.INT4)
        per_weight = of.median(formats.WRITING, formats.INT4)
        if memory is not None and per_weight is not None:
            gigabytes = memory * billions
            judge.say(
                ARTICLE,
                f"models of {billions} billion weights run on the device, bound by memory",
                1 / (per_weight * 1e-12 * billions * 1e9),
                "tokens/s",
                "formats",
                least=4,
                kind="modelled",
                note=f"{gigabytes:.1f} GB in {formats.INT4}; the speed of our product on this machine",
            )
    judge.claims.append(
        Claim(
            ARTICLE,
            "it recommends, summarises, retrieves, translates, and works with other apps",
            None,
            "",
            None,
            "scene",
            note="abilities, not a figure: see examples/assistant.py",
        )
    )
    judge.say(
        ARTICLE,
        "data never leaves the device (network sockets open in the scene)",
        judge.scene(scene.SOCKETS, "dynamic"),
        "sockets",
        "scene",
        most=0,
    )


def _formats(judge: Judge) -> None:
    of = judge.of
    small, large = of.median(formats.BYTES, formats.INT4), of.median(formats.BYTES, formats.FLOAT)
    judge.say(
        ARTICLE, "INT4 saves memory beside FP32", judge.less(small, large), "% saved", "formats", least=80
    )
    judge.say(
        ARTICLE,
        "INT4 leaves accuracy largely unchanged (cosine to the exact product)",
        of.median(formats.COSINE, formats.INT4),
        "",
        "formats",
        least=0.99,
        note="random weights, the hardest case; of a whole model: docs/quantizing.md",
    )
    for what, when in ((formats.WRITING, "writing"), (formats.READING, "reading a prompt")):
        four, eight = of.median(what, formats.INT4), of.median(what, formats.INT8)
        faster = judge.times(eight, four)
        judge.say(
            ARTICLE,
            f"INT4 is about 90 % faster than INT8 ({when})",
            None if faster is None else 100 * (faster - 1),
            "% faster",
            "formats",
            least=75,
        )
        judge.say(
            ARTICLE,
            f"INT4 uses about 60 % less energy than INT8 ({when})",
            judge.less(four, eight),
            "% less",
            "formats",
            least=50,
            kind="modelled",
            note="energy taken as proportional to time",
        )
