"""llama.cpp's server with four slots, and the scene's tasks around it, behind a pipe: see `child`.

Timing is done here, in the threads that ask. Requests, by `do`:

    open    model, threads, batch, and the fields of Prompts → info
    ask     ids → arrivals_s, reading
    begin   the background's threads start         end   they end: those that read, at their first token
    count   → at_s, read, written, begun
"""

from __future__ import annotations

import json
import os
import sys
import threading
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from .prompts import Prompts
from .scene import ANSWER, CONTEXT, JOBS, READ, WRITE
from .wheel import complete, open_server, system_info


class Background:
    """Three threads, each asking again and again."""

    def __init__(self, server: Any, prompts: Prompts, numbers: count[int]) -> None:
        self._server, self._prompts, self._numbers = server, prompts, numbers
        self._lock = threading.Lock()
        self._read = self._written = 0
        self._begun: set[int] = set()
        self._reading: set[int] = set()
        self._ending = False
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._renew, args=(task,)) for task in range(JOBS)]
        for thread in self._threads:
            thread.start()

    @property
    def reading(self) -> int:
        """How many prompts are being read."""
        return len(self._reading)

    def count(self) -> dict[str, Any]:
        """The fields of a Count. Raises what a thread raised."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            return {
                "at_s": perf_counter(), "read": self._read, "written": self._written,
                "begun": len(self._begun),
            }  # fmt: skip

    def end(self) -> None:
        """Join the threads."""
        self._ending = True
        for thread in self._threads:
            thread.join()

    def _renew(self, task: int) -> None:
        tokens = WRITE * (task + 1) // JOBS  # of the first answer
        try:
            while not self._ending:
                self._one(task, self._prompts.take(next(self._numbers), READ), tokens)
                tokens = WRITE
        except BaseException as error:  # told by the next count
            self._failure = error

    def _one(self, task: int, ids: list[int], tokens: int) -> None:
        arrived = 0

        def on_token() -> bool:
            nonlocal arrived
            with self._lock:
                if not arrived:
                    self._reading.discard(task)
                    self._read += READ
                    self._begun.add(task)
                arrived += 1
                self._written += 1
            return self._ending

        self._reading.add(task)
        written = complete(self._server, ids, tokens, on_token)
        if not self._ending:
            with self._lock:
                self._written += written - arrived  # those that came two at a time


class Peer:
    """The server and its background."""

    def __init__(
        self, model: str, threads: int, batch: int | None, text: list[int], vocabulary: int, seed: int
    ) -> None:
        self._server = open_server(
            Path(model), threads=threads, context=CONTEXT, slots=JOBS + 1, batch=batch, ubatch=batch
        )
        self._prompts, self._numbers = Prompts(text, vocabulary, seed), count(1, 2)
        self._background: Background | None = None

    def ask(self, ids: list[int]) -> dict[str, Any]:
        arrivals: list[float] = []

        def on_token() -> bool:
            arrivals.append(perf_counter() - began)
            return False

        reading = self._background.reading if self._background else 0
        began = perf_counter()
        complete(self._server, ids, ANSWER, on_token)
        if not arrivals:  # no token of it ended a character
            on_token()
        return {"arrivals_s": arrivals, "reading": reading}

    def begin(self) -> dict[str, Any]:
        self._background = Background(self._server, self._prompts, self._numbers)
        return {}

    def count(self) -> dict[str, Any]:
        assert self._background is not None
        return self._background.count()

    def end(self) -> dict[str, Any]:
        assert self._background is not None
        self._background.end()
        self._background = None
        return {}


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    peer: Peer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer: dict[str, Any] = {}
        try:
            if do == "open":
                peer = Peer(**request)
                answer["info"] = system_info()
            else:
                answer = getattr(peer, do)(**request)
        except Exception as error:  # told to the parent, which raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # the background's threads are not waited for: nobody is left who wants to know


if __name__ == "__main__":
    main()
