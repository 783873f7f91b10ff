"""Models for the tests of this folder."""

from pathlib import Path

import pytest
from tiny import Tiny


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights, in Q4_1."""
    return Tiny(form="Q4_1").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
