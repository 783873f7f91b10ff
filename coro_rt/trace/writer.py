"""The writer of a trace: takes notes without waiting for anything, and writes them from a thread of its own.

Recording must not hurt what is recorded. If the disk fails or cannot keep up, the recording ends, with a
warning, and the runtime goes on.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable
from io import FileIO
from typing import Any

logger = logging.getLogger("coro_rt")

MOST_NOTES = 100_000  # kept in memory; some 50 MB
GATHER_S = 0.1  # how long notes are gathered before they are written


class TraceWriter:
    """A trace file, compressed if its name ends in ".gz". `as_line` makes of a note what is written."""

    def __init__(
        self, path: str | os.PathLike[str], as_line: Callable[[tuple[Any, ...]], dict[str, Any]]
    ) -> None:
        self._as_line = as_line
        self.path = os.fspath(path)
        self._zip = zlib.compressobj(wbits=31) if self.path.endswith(".gz") else None
        self._notes: deque[tuple[Any, ...]] = deque()
        self._calls = 0
        self._some = threading.Event()  # there is something to do
        self._closing = threading.Event()
        self._lost = False  # a call could not be noted: what comes later would not fit
        self._broken = False  # the file ends in the middle of something
        self._thread = threading.Thread(target=self._run, name="coro_rt-trace", daemon=True)
        self._file: FileIO | None = None  # unbuffered: a forked copy of this process has nothing to write

    def open(self, header: dict[str, Any]) -> None:
        """Begin the file with its first line, and start to write. Raises OSError."""
        self._file = FileIO(self.path, "w")
        self._write([header])
        self._thread.start()

    def note(self, note: tuple[Any, ...]) -> None:
        """One call more. Under the engine's lock; returns at once."""
        notes = self._notes
        if self._lost:
            return
        if len(notes) >= MOST_NOTES:
            self._lost = True
            return
        notes.append(note)
        if len(notes) == 1:
            self._some.set()

    def close(self) -> None:
        """Write what is left, end the thread, and close the file. No notes come any more."""
        self._closing.set()
        self._some.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._file is not None:
            self._file.close()

    def _run(self) -> None:
        closing = warned = False
        while not closing:
            self._some.wait()
            self._some.clear()  # before looking: whatever is missed below, a note or the end, sets it again
            closing = self._closing.wait(GATHER_S)
            self._write_notes()
            if self._lost and not self._broken and not warned:
                warned = True
                self._warn(f"{MOST_NOTES:,} calls could not be written in time")
        if not self._lost:
            self._try_to_write([{"end": self._calls}], last=True)

    def _write_notes(self) -> None:
        lines: list[dict[str, Any]] = []
        while self._notes:
            lines.append(self._as_line(self._notes.popleft()))
        self._calls += len(lines)
        if lines:
            self._try_to_write(lines)

    def _try_to_write(self, lines: list[dict[str, Any]], *, last: bool = False) -> None:
        if self._broken:
            return
        try:
            self._write(lines, last=last)
        except OSError as error:
            self._lost = self._broken = True
            self._warn(error.strerror or str(error))

    def _warn(self, why: str) -> None:
        logger.warning("the recording in %s has ended before its runtime: %s", self.path, why)

    def _write(self, lines: list[dict[str, Any]], *, last: bool = False) -> None:
        data = "".join(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines)
        raw = data.encode()
        if self._zip is not None:  # flushed to the byte each time: a trace that breaks off can be read
            raw = self._zip.compress(raw) + self._zip.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        view = memoryview(raw)
        assert self._file is not None, "the trace is not open"
        while view:
            view = view[self._file.write(view) or 0 :]
