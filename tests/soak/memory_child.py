"""A storm of generations in a process of its own, under a budget for the model and a few sequences: what did
the process take at its peak?

Usage: memory_child.py MODEL SEQUENCES WEIGHTS ROOM IMPATIENT (bytes; and how many of five have deadlines that
most of them miss). Prints JSON. The baseline is the process with the code loaded and compiled, which small
models see to; the peak is the kernel's own (VmHWM), file-backed pages included.
"""

import gc
import json
import math
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from tiny import Tiny

from coro_rt import QoS, open_runtime, qos
from coro_rt.llm.model import load_model

LEVELS = (QoS.BACKGROUND, QoS.BACKGROUND, QoS.DEFAULT, QoS.USER_INTERACTIVE)


def status(key: str) -> int:
    """Bytes, from /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Begin a new peak; what the process takes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


async def storm(path: Path, sequences: int, weights: int, room: int, impatient: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        for form in ("Q4_1", "Q8_0"):  # what the model has
            small = Tiny(form=form).write(Path(folder) / f"{form}.gguf")
            async with open_runtime() as runtime, await load_model(runtime, small) as llm:
                await answer(llm, [1] * 200, 2)
    gc.collect()
    before, need = reset_peak(), weights + room
    rng, served, cancelled = random.Random(1), 0, 0
    async with open_runtime(memory=need) as runtime, await load_model(runtime, path, context=512) as llm:
        loaded = status("VmHWM") - before
        system = [rng.randrange(40_000) for _ in range(64)]

        async def one(prompt: list[int], tokens: int, level: QoS, within_s: float) -> None:
            nonlocal served, cancelled
            with qos(level), anyio.move_on_after(within_s) as scope:
                assert await answer(llm, prompt, tokens) == tokens
                served += 1
            cancelled += scope.cancelled_caught

        async with anyio.create_task_group() as group:
            for _ in range(sequences):
                prompt = system if rng.random() < 0.5 else []
                prompt = prompt + [rng.randrange(40_000) for _ in range(rng.randint(5, 300))]
                within_s = rng.choice((5.0, 0.5)) if rng.randrange(5) < impatient else math.inf
                group.start_soon(one, prompt, rng.randint(1, 24), rng.choice(LEVELS), within_s)
        parked = runtime._residency.parkings
    return {
        "budget": need,
        "peak": status("VmHWM") - before,
        "loaded": loaded,
        "before": before,
        "served": served,
        "cancelled": cancelled,
        "parked": parked,
        "empty": runtime.stats().memory.held == 0,
    }


async def answer(llm: Any, prompt: list[int], tokens: int) -> int:
    async with llm.generate(prompt, max_tokens=tokens, ignore_eos=True) as stream:
        return len([token async for token in stream])


if __name__ == "__main__":
    print(json.dumps(anyio.run(storm, Path(sys.argv[1]), *map(int, sys.argv[2:]))))
