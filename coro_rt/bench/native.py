"""llama.cpp compiled for this machine: `native_child` in a process of the peer's own environment."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coro_rt.errors import CoroRtError


class Child:
    """The process. It sleeps unless it is asked."""

    def __init__(self, python: Path) -> None:
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in close)
        script = Path(__file__).with_name("native_child.py")
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Its answer. Raises CoroRtError with its own words if it fails or is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise CoroRtError(f"the native llama.cpp ended: {self._log.read()[-500:]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CoroRtError(f"the native llama.cpp: {answer['error']}")
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._log.close()


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
