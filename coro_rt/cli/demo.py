"""`coro-rt demo`: the same urgent question twice, on an idle runtime and beside four background jobs.

The part to read is `measure`: everything else here is words and tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
import click
from rich.table import Table

from coro_rt import QoS, Stats, qos
from coro_rt.cli.answer import Answer, listen
from coro_rt.cli.loop import run_async
from coro_rt.cli.opened import circumstances, opened_model
from coro_rt.cli.options import Settings, with_json, with_model
from coro_rt.cli.output import Output

if TYPE_CHECKING:
    from coro_rt.llm.model import LLM

QUESTION = "Give me three tips for a good night's sleep."
SUMMARY_TOKENS = 96
PATIENCE_S = 30.0


@click.command()
@with_model(max_tokens=64)
@with_json
def demo(settings: Settings, output: Output) -> None:
    """Ask an urgent question, alone and under load.

    First the runtime is idle; then four background jobs summarise texts of about 500 tokens each.
    """
    run_async(partial(_demo, settings, output), settings.backend)


async def _demo(settings: Settings, output: Output) -> None:
    found = await measure(settings, output)
    output.line("\n{model}, {threads} threads, policy {policy}, on {backend}".format(**found.circumstances))
    output.table(found.table())
    if found.loaded.text == found.idle.text:
        output.line("Under load the model said the same, token for token.")
    output.json(found.as_json())


async def measure(settings: Settings, output: Output) -> Figures:
    """Ask twice, and count."""
    async with opened_model(settings, output) as (runtime, llm):
        ask = partial(llm.chat, QUESTION, **settings.generation)
        with qos(QoS.USER_INTERACTIVE):
            await listen(partial(llm.chat, QUESTION, max_tokens=8))  # brings the weights into memory
            output.line(f"\n{QUESTION}  (the runtime is idle)", style="bold")
            idle = await listen(ask, output.write)

        output.note("\n\nfour background jobs begin to summarise texts of some 500 tokens each ...")
        before = runtime.stats()
        background = Background(llm)
        async with anyio.create_task_group() as group:
            with qos(QoS.BACKGROUND):  # inherited by the tasks that are started in it
                first, second, third, fourth = texts()
                began = anyio.current_time()
                group.start_soon(background.summarise, first)
                group.start_soon(background.summarise, second)
                await background.writes.wait()
                group.start_soon(background.summarise, third)
                group.start_soon(background.summarise, fourth)
                await anyio.sleep((background.since - began) / 2)  # these two are in the midst of their texts
            with qos(QoS.USER_INTERACTIVE):
                output.line(f"\n{QUESTION}  (beside {background})", style="bold")
                loaded = await listen(ask, output.write)
            output.write("\n")
            after = runtime.stats()
            with anyio.move_on_after(PATIENCE_S):  # there are policies under which not everybody has a turn
                await background.each_has_finished.wait()
            tokens_per_s = background.tokens_per_s
            group.cancel_scope.cancel()  # where the block is left, no job is left
        return Figures(circumstances(settings, runtime), idle, loaded, tokens_per_s, before, after)


class Background:
    """Four summaries, written again and again until cancelled, and how fast."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._reading: set[str] = set()
        self._writing: set[str] = set()
        self._finished: set[str] = set()  # their first summary
        self._tokens = 0
        self.since = 0.0  # when the first of them came
        self.writes = anyio.Event()
        self.each_has_finished = anyio.Event()

    async def summarise(self, text: str) -> None:
        """Summarise `text` until cancelled."""
        prompt = f"Summarise this text in a few sentences.\n\n{text}"
        while True:
            self._reading.add(text)
            async with self._llm.chat(prompt, max_tokens=SUMMARY_TOKENS) as summary:
                async for _ in summary:
                    if not self._tokens:
                        self.since = anyio.current_time()
                        self.writes.set()
                    self._tokens += 1
                    self._reading.discard(text)
                    self._writing.add(text)
            self._writing.discard(text)
            self._finished.add(text)
            if len(self._finished) == 4:
                self.each_has_finished.set()

    @property
    def tokens_per_s(self) -> float:
        """Written since the first token, while other texts were read and the question answered."""
        return self._tokens / (anyio.current_time() - self.since)

    def __str__(self) -> str:
        return f"four background jobs: {len(self._writing)} writing, {len(self._reading)} reading"


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demo found."""

    circumstances: dict[str, Any]
    idle: Answer
    loaded: Answer
    background_tokens_per_s: float
    before: Stats
    after: Stats

    @property
    def switches(self) -> int:
        return self.after.switches - self.before.switches

    @property
    def preemptions(self) -> int:
        return self.after.preemptions - self.before.preemptions

    def table(self) -> Table:
        idle, loaded = self.idle, self.loaded
        table = Table("", "idle", "under load")
        for column in table.columns[1:]:
            column.justify = "right"
        table.add_row("time to first token", f"{idle.ttft_s * 1e3:.0f} ms", f"{loaded.ttft_s * 1e3:.0f} ms")
        table.add_row("tokens/s", f"{idle.tokens_per_s:.0f}", f"{loaded.tokens_per_s:.0f}")
        table.add_row("background tokens/s", "", f"{self.background_tokens_per_s:.0f}")
        table.add_row("task switches", "", f"{self.switches:,}")
        table.add_row("... within a time slice", "", f"{self.preemptions:,}")
        table.add_row("a task switch takes", "", f"{self.after.switch_cost_s * 1e6:.1f} µs")
        return table

    def as_json(self) -> dict[str, Any]:
        return {
            **self.circumstances,
            "idle": self.idle.figures,
            "loaded": self.loaded.figures,
            "background": {"tokens_per_s": self.background_tokens_per_s},
            "switches": self.switches,
            "preemptions": self.preemptions,
            "switch_cost_s": self.after.switch_cost_s,
        }


def texts() -> Iterator[str]:
    """Four texts of some 500 tokens each."""
    for file in sorted(files("coro_rt.cli").joinpath("texts").iterdir(), key=lambda file: file.name):
        yield file.read_text(encoding="utf-8")
