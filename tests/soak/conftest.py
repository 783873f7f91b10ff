"""The model's file for the tests of this folder."""

from pathlib import Path

import pytest

from coro_rt.errors import ModelError
from coro_rt.llm.catalog import pull


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The default model's file, fetched if it is missing; skips where it cannot be had."""
    try:
        return pull("smollm2-135m-instruct")
    except ModelError as error:
        pytest.skip(f"no model: {error}")
