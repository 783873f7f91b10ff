"""Devices that fail; the runtimes and models of the other rooms' tests."""

import sys
from pathlib import Path

import pytest

for room in ("runtime", "llm"):
    sys.path.insert(0, str(Path(__file__).parent.parent / room))


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights, in Q4_1."""
    from tiny import Tiny

    return Tiny(form="Q4_1").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
