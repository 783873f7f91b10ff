"""Models for the tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tiny import Tiny

from coro_rt import Runtime
from coro_rt.llm.model import LLM


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights, in Q4_1."""
    return Tiny(form="Q4_1").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
async def llm(runtime: Runtime, tiny_path: Path) -> AsyncIterator[LLM]:
    """Loaded on the test's own `runtime`; in the end no job has kept any memory."""
    async with await runtime.load_model(tiny_path) as llm:
        weights = runtime.memory.used
        yield llm
        assert runtime.memory.used == weights, "a job kept memory"
    assert runtime.memory.used == 0


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bursts: the models are so small that nobody would come in time to share a step, and at every token
    there is a chance to go elsewhere.
    """
    monkeypatch.setattr("coro_rt.llm.turnaround.USUAL_S", 0.0)
    monkeypatch.setattr("coro_rt.llm.turnaround.PART", 0)
