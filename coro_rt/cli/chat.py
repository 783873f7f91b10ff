"""`coro-rt chat`: a conversation at the terminal, or one question with `-p`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import click

from coro_rt.cli.answer import described, listen
from coro_rt.cli.loop import run_async
from coro_rt.cli.opened import circumstances, opened_model
from coro_rt.cli.options import Settings, text, with_json, with_model
from coro_rt.cli.output import Output


@click.command()
@click.option("-p", "--prompt", metavar="TEXT", callback=text, help="Ask this, print the answer, and end.")
@with_model(max_tokens=256)
@with_json
def chat(settings: Settings, output: Output, prompt: str | None) -> None:
    """Talk with the model: a line is a question, Ctrl-D ends.

    It remembers what was said. Where standard input is not a terminal, each of its lines is asked.
    """
    run_async(partial(_chat, settings, output, prompt), settings.backend)


async def _chat(settings: Settings, output: Output, prompt: str | None) -> None:
    turns: list[dict[str, Any]] = []
    async with opened_model(settings, output) as (runtime, llm):
        with llm.conversation() as conversation:
            async for question in _lines(output) if prompt is None else _only(prompt):
                answer = await listen(
                    partial(conversation.ask, question, **settings.generation), output.write
                )
                output.write("\n")
                turns.append({"question": question, **described(answer)})
        output.json({**circumstances(settings, runtime), "turns": turns})


async def _only(line: str) -> AsyncIterator[str]:
    yield line


async def _lines(output: Output) -> AsyncIterator[str]:
    """The lines of standard input that are not blank. Waits on the event loop, where Ctrl-C reaches it."""
    fd = sys.stdin.fileno()
    mode = os.fstat(fd).st_mode
    terminal = os.isatty(fd)
    can_wait = terminal or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)  # a file is never waited for
    rest = b""
    while True:
        if terminal:
            output.results.print("> ", end="", style="bold")
        if can_wait:
            await anyio.wait_readable(fd)
        read = os.read(fd, 1 << 16)
        *lines, rest = (rest + read).split(b"\n") if read else (rest, b"")
        for line in lines:
            if question := line.decode(errors="replace").strip():
                yield question
        if not read:
            if terminal:
                output.write("\n")
            return
