"""What the figures say about what was claimed: by the article behind this project, by us, and where we lose.

A claim is judged by its bound, whatever comes out. Each names the command that measures it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from coro_rt.compare import (
    busy_host,
    decisions,
    formats,
    kernel_length,
    long_steps,
    roundtrip,
    scene,
    soc,
    starting,
    switch,
    thread_switch,
    tracing,
)
from coro_rt.compare.hosts import BACKENDS
from coro_rt.compare.statistics import Figures

ARTICLE, OURS, LOSES = "The article says", "coro_rt promises", "Where others win"


@dataclass(frozen=True, slots=True)
class Claim:
    """`figure` is None where there is nothing to measure. `kind`: "measured" or "modelled"."""

    source: str
    claim: str
    figure: float | None
    unit: str
    holds: bool | None
    section: str
    kind: str = "measured"
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "claim": self.claim,
            "figure": self.figure,
            "unit": self.unit,
            "holds": self.holds,
            "command": self.command,
            "kind": self.kind,
            "note": self.note,
        }

    @property
    def command(self) -> str:
        return f"coro-rt compare --only {self.section}"


class Judge:
    """Makes claims of figures; a claim whose figures were not measured is left out."""

    def __init__(self, figures: Figures) -> None:
        self._of = figures
        self.claims: list[Claim] = []

    def say(
        self,
        source: str,
        claim: str,
        figure: float | None,
        unit: str,
        section: str,
        *,
        least: float | None = None,
        most: float | None = None,
        kind: str = "measured",
        note: str = "",
    ) -> None:
        """One claim: the figure is to be at least, or at most, so much."""
        if figure is None:
            return
        holds = (least is None or figure >= least) and (most is None or figure <= most)
        self.claims.append(Claim(source, claim, figure, unit, holds, section, kind, note))

    def less(self, ours: float | None, theirs: float | None) -> float | None:
        """How much less than theirs ours is, in percent."""
        return None if ours is None or not theirs else 100 * (1 - ours / theirs)

    def times(self, above: float | None, below: float | None) -> float | None:
        """One by the other."""
        return None if above is None or not below else above / below

    def scene(self, what: str, driver: str) -> float | None:
        return self._of.median(what, driver)

    def article(self) -> None:
        """The claims of the article, in its order."""
        of = self._of
        ours = of.median(switch.READY, switch.OURS, 1000)
        for peer in (thread_switch.EVENT, thread_switch.LOCK):
            theirs = of.best(switch.DEPENDENT, thread_switch.best_of(peer), 1000)
            self.say(
                ARTICLE,
                f"coroutines save 50 % of a task switch (1,000 ready, beside {peer})",
                self.less(ours, theirs),
                "% saved",
                "switch",
                least=50,
                note="threads at the better of pinned and unpinned",
            )
        self.say(
            ARTICLE,
            "dynamic priorities cut delay, unlike fair scheduling (first token, median)",
            self.times(self.scene(scene.TTFT, "fair"), self.scene(scene.TTFT, "dynamic")),
            "times",
            "scene",
            least=1.1,
        )
        joules = of.get(scene.JOULES, "dynamic")
        if joules is not None:
            self.say(
                ARTICLE,
                "dynamic priorities significantly cut energy, unlike fair scheduling (per token)",
                self.less(joules.median, self.scene(scene.JOULES, "fair")),
                "% saved",
                "scene",
                least=10,
                kind="measured" if of.joules_counted else "modelled",
                note="" if of.joules_counted else "nothing counts joules here: CPU seconds, 5 W a core",
            )
        for name in soc.WORKLOADS:
            together = of.median(soc.WHAT, f"{soc.TOGETHER}, {name}")
            rates = {device: of.median(soc.WHAT, f"{device}, {name}") for device in soc.ASSUMED}
            known = [rate for rate in rates.values() if rate is not None]
            for against, rate in (
                ("the CPU alone", rates["cpu"]),
                ("the best alone", max(known, default=None)),
            ):
                gain = self.times(together, rate)
                self.say(
                    ARTICLE,
                    f"CPU, GPU and NPU together are over 60 % more efficient ({name}, than {against})",
                    None if gain is None else 100 * (gain - 1),
                    "% more jobs",
                    "soc",
                    least=60,
                    kind="modelled",
                    note="a simulated phone; its speeds are assumptions",
                )
        self._formats()
        for billions in (1, 3, 7, 10):
            memory = of.median(formats.BYTES, formats.INT4)
            per_weight = of.median(formats.WRITING, formats.INT4)
            if memory is not None and per_weight is not None:
                gigabytes = memory * billions
                self.say(
                    ARTICLE,
                    f"models of {billions} billion weights run on the device, bound by memory",
                    1 / (per_weight * 1e-12 * billions * 1e9),
                    "tokens/s",
                    "formats",
                    least=4,
                    kind="modelled",
                    note=f"{gigabytes:.1f} GB in {formats.INT4}; the speed of our product on this machine",
                )
        self.claims.append(
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
        self.say(
            ARTICLE,
            "data never leaves the device (network sockets open in the scene)",
            self.scene(scene.SOCKETS, "dynamic"),
            "sockets",
            "scene",
            most=0,
        )

    def _formats(self) -> None:
        of = self._of
        small, large = of.median(formats.BYTES, formats.INT4), of.median(formats.BYTES, formats.FLOAT)
        self.say(
            ARTICLE, "INT4 saves memory beside FP32", self.less(small, large), "% saved", "formats", least=80
        )
        self.say(
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
            faster = self.times(eight, four)
            self.say(
                ARTICLE,
                f"INT4 is about 90 % faster than INT8 ({when})",
                None if faster is None else 100 * (faster - 1),
                "% faster",
                "formats",
                least=75,
            )
            self.say(
                ARTICLE,
                f"INT4 uses about 60 % less energy than INT8 ({when})",
                self.less(four, eight),
                "% less",
                "formats",
                least=50,
                kind="modelled",
                note="energy taken as proportional to time",
            )

    def promises(self) -> None:
        """What this project wants of itself."""
        of = self._of
        ours = of.median(switch.READY, switch.OURS, 1000)
        self.say(OURS, "a switch with 1,000 ready jobs takes 2.5 µs at most", ours, "µs", "switch", most=2.5)
        for peer, bound in ((thread_switch.EVENT, 80), (thread_switch.LOCK, 60)):
            theirs = of.best(switch.DEPENDENT, thread_switch.best_of(peer), 1000)
            self.say(
                OURS,
                f"a switch costs {bound} % less than between {peer}",
                self.less(ours, theirs),
                "% less",
                "switch",
                least=bound,
            )
        self.say(
            OURS,
            "100,000 ready jobs: a switch costs at most 3 times what it does with 1,000",
            self.times(of.median(switch.READY, switch.OURS, 100_000), ours),
            "times",
            "switch",
            most=3,
        )
        for backend in BACKENDS:
            ratio = self.times(
                of.median(roundtrip.WHAT, f"{roundtrip.OURS}, {backend}"),
                of.median(roundtrip.WHAT, f"{roundtrip.ANYIO}, {backend}"),
            )
            self.say(
                OURS,
                f"host → device → host takes 0.8 of anyio.to_thread on {backend}",
                ratio,
                "times",
                "roundtrip",
                most=0.8,
            )
        self.say(
            OURS,
            "jobs that chain kernels of 100 µs pay 5 % at most",
            of.median(kernel_length.WHAT, kernel_length.JOB, 100.0),
            "%",
            "kernels",
            most=5,
        )
        found = of.of(starting.MEMORY)
        self.say(
            OURS,
            "a waiting job takes 2 KB at most",
            next((one.median for one in found if one.who == starting.OURS), None),
            "bytes",
            "starting",
            most=2048,
        )
        by_who = {one.who: one.median for one in of.of(starting.START)}
        self.say(
            OURS,
            "start and join is 10 times faster than of threads",
            self.times(by_who.get(starting.THREADS), by_who.get(starting.OURS)),
            "times",
            "starting",
            least=10,
        )
        for what, name in ((scene.TTFT, "median"), (scene.TTFT_P99, "P99")):
            self.say(
                OURS,
                f"the first token comes 5 times sooner than with a thread per task ({name})",
                self.times(self.scene(what, "threads"), self.scene(what, "dynamic")),
                "times",
                "scene",
                least=5,
            )
        self.say(
            OURS,
            "no fewer tokens than a thread per task, read and written together",
            self.times(self.scene(scene.WORKED, "dynamic"), self.scene(scene.WORKED, "threads")),
            "times",
            "scene",
            least=1,
        )
        self.say(
            OURS,
            "half the involuntary context switches of a thread per task",
            self.less(self.scene(scene.INVOLUNTARY, "dynamic"), self.scene(scene.INVOLUNTARY, "threads")),
            "% fewer",
            "scene",
            least=50,
        )
        for what, name in ((busy_host.DECODING, "decoding"), (busy_host.HOST, "the host")):
            self.say(
                OURS,
                f"beside a host that never pauses, {name} keeps 90 % of its rate",
                of.median(what, "dynamic"),
                "%",
                "busy",
                least=90,
            )
        self.say(
            OURS,
            "the ledgers' device seconds are the worker's CPU time, within 3 %",
            of.median(scene.LEDGER, "dynamic"),
            "times",
            "scene",
            least=0.97,
            most=1.03,
        )
        for kind in (decisions.TURN, decisions.ARRIVAL):
            growth = self.times(of.median(kind, "dynamic", 100_000), of.median(kind, "dynamic", 1_000))
            self.say(
                OURS,
                f"{kind} with 100,000 ready costs at most 3 times what it does with 1,000 (dynamic)",
                growth,
                "times",
                "decisions",
                most=3,
            )

        slower = self.times(of.median(tracing.WHAT, tracing.ON), of.median(tracing.WHAT, tracing.OFF))
        self.say(
            OURS,
            "a trace of everything slows jobs that chain kernels of 100 µs by 5 % at most",
            None if slower is None else 100 * (slower - 1),
            "%",
            "tracing",
            most=5,
        )

    def losses(self) -> None:
        """Workloads that threads, event loops or fair scheduling should win: a claim holds where they do."""
        of = self._of
        self.say(
            LOSES,
            "beside a job that runs Python for 20 ms at a time, threads answer a short ask sooner",
            self.times(
                of.median(long_steps.WHAT, long_steps.OURS), of.median(long_steps.WHAT, long_steps.THREADS)
            ),
            "times",
            "steps",
            least=1,
            note="a coroutine is not taken off in the middle of its Python",
        )
        self.say(
            LOSES,
            "an event loop (asyncio) switches cheaper between 1,000 tasks that wait for each other",
            self.times(
                of.median(switch.DEPENDENT, switch.OURS, 1000), of.median(switch.DEPENDENT, "asyncio", 1000)
            ),
            "times",
            "switch",
            least=1,
            note="it has one thread, no priorities and no ledger",
        )
        start = {one.who: one.median for one in of.of(starting.START)}
        self.say(
            LOSES,
            "an event loop (asyncio) starts and joins tasks cheaper",
            self.times(start.get(starting.OURS), start.get("asyncio")),
            "times",
            "starting",
            least=1,
        )
        self.say(
            LOSES,
            "a kernel of 100 µs is called in place cheaper than asked for one by one",
            of.median(kernel_length.WHAT, kernel_length.ASKED, 100.0),
            "% cheaper",
            "kernels",
            least=1,
        )
        self.say(
            LOSES,
            "a thread pool hands a short kernel over and back sooner (run_in_executor, asyncio)",
            self.times(
                of.median(roundtrip.WHAT, f"{roundtrip.OURS}, asyncio"),
                of.median(roundtrip.WHAT, "run_in_executor, asyncio"),
            ),
            "times",
            "roundtrip",
            least=1,
        )
        self.say(
            LOSES,
            "fair scheduling leaves the background more tokens than dynamic priorities do",
            self.times(self.scene(scene.BACKGROUND, "fair"), self.scene(scene.BACKGROUND, "dynamic")),
            "times",
            "scene",
            least=1,
            note="what urgent answers get, the background does not",
        )
        self.say(
            LOSES,
            "a thread pool leaves the background more tokens than dynamic priorities do",
            self.times(self.scene(scene.BACKGROUND, "pool"), self.scene(scene.BACKGROUND, "dynamic")),
            "times",
            "scene",
            least=1,
            note="most of its time nobody is answered there",
        )


def judge(figures: Figures) -> list[Claim]:
    """All claims that the figures say something about."""
    found = Judge(figures)
    found.article()
    found.promises()
    found.losses()
    return found.claims


def by_source(claims: list[Claim]) -> Iterator[tuple[str, list[Claim]]]:
    """In the order in which people want to read them."""
    for source in (ARTICLE, OURS, LOSES):
        yield source, [claim for claim in claims if claim.source == source]
