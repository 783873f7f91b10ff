"""`coro-rt complete`: go on from a text."""

from __future__ import annotations

from functools import partial

import click

from coro_rt.cli.answer import described, listen
from coro_rt.cli.loop import run_async
from coro_rt.cli.opened import circumstances, opened_model
from coro_rt.cli.options import Settings, text, with_json, with_model
from coro_rt.cli.output import Output


@click.command()
@click.argument("prompt", metavar="TEXT", callback=text)
@with_model(max_tokens=64)
@with_json
def complete(settings: Settings, output: Output, prompt: str) -> None:
    """Print how the model goes on from TEXT."""
    run_async(partial(_complete, settings, output, prompt), settings.backend)


async def _complete(settings: Settings, output: Output, prompt: str) -> None:
    async with opened_model(settings, output) as (runtime, llm):
        answer = await listen(partial(llm.generate, prompt, **settings.generation), output.write)
        output.write("\n")
        output.json({**circumstances(settings, runtime), "prompt": prompt, **described(answer)})
