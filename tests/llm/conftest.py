"""Models for the tests of this folder."""

from pathlib import Path

import pytest
from tiny import Tiny

from coro_rt.errors import ModelError
from coro_rt.llm.catalog import pull


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model's file, fetched if it is missing; skips where it cannot be had."""
    try:
        return pull("smollm2-135m-instruct")
    except ModelError as error:
        pytest.skip(f"no model: {error}")


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights, in Q4_1."""
    return Tiny(form="Q4_1").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
