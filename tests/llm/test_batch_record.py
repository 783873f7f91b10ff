"""Generations that share steps, recorded: a replay decides the same again, with costs learned on the way."""

import json
import math
import random
from pathlib import Path

import anyio
import pytest

from coro_rt import QoS, open_runtime, qos
from coro_rt.trace.reader import Trace
from coro_rt.trace.replay import replay

pytestmark = pytest.mark.anyio


async def record(tiny_path: Path, path: Path, *, cancels: bool) -> None:
    """Generations at every level, that share steps; some are cancelled on the way."""
    rng = random.Random(4)

    async def ask(level: QoS, tokens: int, patience_s: float) -> None:
        for _ in range(4):
            with anyio.move_on_after(patience_s), qos(level):
                async with llm.generate([int(level)] * tokens, max_tokens=40, ignore_eos=True) as stream:
                    async for _ in stream:
                        pass

    async def ask_for_one() -> None:
        """Leaves in the middle of a launch, however late this task comes to read."""
        for _ in range(4):
            async with llm.generate([1] * 3, max_tokens=250, buffer=250, ignore_eos=True) as stream:
                await anext(stream)

    async with open_runtime(threads=1, record=path) as runtime, await runtime.load_model(tiny_path) as llm:
        async with anyio.create_task_group() as group:
            for nth, level in enumerate([*QoS, QoS.BACKGROUND, QoS.BACKGROUND]):
                patience_s = rng.uniform(0.0, 0.03) if cancels and nth % 2 else math.inf
                group.start_soon(ask, level, rng.choice((3, 60, 200)), patience_s)
            if cancels:
                group.start_soon(ask_for_one)
        assert runtime.stats().rides > 10


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("cancels", [False, True])
async def test_a_replay_of_shared_steps_decides_exactly_as_recorded(
    anyio_backend: object, tiny_path: Path, tmp_path: Path, cancels: bool
) -> None:
    path = tmp_path / "trace.jsonl"
    await record(tiny_path, path, cancels=cancels)
    found = replay(Trace(path))
    assert not found, (found.broke_off, [str(difference) for difference in found.first])
    assert found.complete
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"offer", "alight", "learn"} <= {line.get("call") for line in read}
    assert not cancels or "leave" in {line.get("call") for line in read}
    shared = [at for at, line in enumerate(read) if len(line.get("aboard", ())) > 1]
    assert len(shared) > 10

    # One decision altered: a member has a row more.
    read[shared[5]]["aboard"][1][1] += 1
    path.write_text("".join(json.dumps(line) + "\n" for line in read))
    altered = replay(Trace(path))
    assert [difference.line for difference in altered.first] == [shared[5] + 1]
