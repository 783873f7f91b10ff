"""llama.cpp compiled for this machine: `native_child` in a process of the peer's own environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .child import Child

SCRIPT = Path(__file__).with_name("native_child.py")


def start(python: Path) -> Child:
    """The process, run by the Python that has `llama_cpp`."""
    return Child([str(python), str(SCRIPT)], "the native llama.cpp")


class Native:
    """One context of the process."""

    name = "llama.cpp (native)"

    def __init__(
        self, child: Child, model: Path, *, threads: int, flash: bool, ubatch: int, context: int
    ) -> None:
        self._child = child
        opened = child.ask(
            "open", model=str(model), threads=threads, flash=flash, ubatch=ubatch, context=context
        )
        self._number = opened["number"]

    async def decode(self, ids: Sequence[int], tokens: int) -> float:
        answer = self._child.ask("decode", number=self._number, ids=list(ids), tokens=tokens)
        return float(answer["rate"])

    async def prefill(self, ids: Sequence[int]) -> float:
        return float(self._child.ask("prefill", number=self._number, ids=list(ids))["rate"])
