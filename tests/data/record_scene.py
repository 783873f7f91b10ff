"""How `scene.jsonl.gz` was made (in 15 s): a real run of the scene, on a machine that others used, too.

Usage: record_scene.py FILE SECONDS. Three generations in the background, always renewed, beside short asks
with pauses between them. To keep the file small, times are counted from the beginning, to a tenth of a
microsecond.
"""

import gzip
import json
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from coro_rt import QoS, open_runtime, qos
from coro_rt.llm.catalog import resolve

PAUSE_S = 0.4
VOCABULARY = 40_000


async def play(trace: Path, seconds: float) -> None:
    """Record it."""
    rng = random.Random(7)

    async def ask(llm: Any, level: QoS, length: int, tokens: int) -> None:
        prompt = [rng.randrange(VOCABULARY) for _ in range(length)]
        with qos(level):
            async with llm.generate(prompt, max_tokens=tokens, ignore_eos=True) as stream:
                async for _ in stream:
                    pass

    async def background(llm: Any) -> None:
        while True:
            await ask(llm, QoS.BACKGROUND, 600, 200)

    model = resolve("smollm2-135m-instruct")
    async with (
        open_runtime(record=trace) as runtime,
        await runtime.load_model(model, context=1024, prefix_reuse=False) as llm,
        anyio.create_task_group() as group,
    ):
        for _ in range(3):
            group.start_soon(background, llm)
        with anyio.move_on_after(seconds):
            while True:
                await anyio.sleep(rng.expovariate(1 / PAUSE_S))
                await ask(llm, QoS.USER_INTERACTIVE, rng.randint(10, 40), 16)
        group.cancel_scope.cancel()


def shorten(trace: Path, file: Path) -> None:
    """Write it small."""
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    began = lines[0]["now"]
    for line in lines:
        for key, value in line.items():
            if isinstance(value, float):
                line[key] = round(value - began if key in ("now", "deadline") else value, 7)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        anyio.run(play, Path(folder) / "trace.jsonl", float(sys.argv[2]))
        shorten(Path(folder) / "trace.jsonl", Path(sys.argv[1]))
