"""A peer in a process of its own: a request is a line of JSON on its standard input, the answer a line on its
standard output. Between requests it sleeps, so its threads disturb nobody.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from coro_rt.errors import CoroRtError


class Child:
    """The process that `command` starts; `what` names it in errors."""

    def __init__(self, command: Sequence[str], what: str) -> None:
        self._what = what
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            command,
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
            raise CoroRtError(f"{self._what} ended: {self._log.read()[-500:]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CoroRtError(f"{self._what}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._log.close()
