"""What the process takes under a storm stays within the budget, and all that was not cancelled is served."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coro_rt import open_runtime
from coro_rt.llm.model import load_model

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.model,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is asked of Linux"),
]

PAGES = 13  # beside the model: a prompt's buffers, and two sequences or three


async def storm(model_path: Path, sequences: int, *, impatient: int) -> dict[str, Any]:
    """`impatient` of five sequences have deadlines that most of them miss."""
    async with open_runtime() as runtime, await load_model(runtime, model_path, context=512) as llm:
        model, room = runtime.memory.used, PAGES * llm._open().sizes.kv.page_bytes
    child = Path(__file__).with_name("memory_child.py")
    numbers = map(str, (sequences, model, room, impatient))
    command = [sys.executable, str(child), str(model_path), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: ASYNC221 (nothing else)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["empty"], "something is held after the end"
    assert result["parked"] > 0
    assert result["served"] + result["cancelled"] == sequences
    assert result["peak"] <= result["budget"] * 1.05
    return result


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_small_storm_stays_within_the_budget(anyio_backend: object, model_path: Path) -> None:
    await storm(model_path, 12, impatient=2)


@pytest.mark.soak
@pytest.mark.parametrize("impatient", [0, 2], ids=["patient", "impatient"])
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_storm_of_200_sequences_stays_within_the_budget_and_none_fails_that_can_wait(
    anyio_backend: object, model_path: Path, impatient: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = await storm(model_path, 200, impatient=impatient)
    with capsys.disabled():
        print(f"\n  {result}", flush=True)
    assert (result["cancelled"] == 0) is (impatient == 0)
