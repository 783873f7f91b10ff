"""The watching side: which processes can be watched, and asking one of them."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from coro_rt.errors import MonitorError
from coro_rt.monitor import place
from coro_rt.monitor.protocol import MAX_ANSWER, decode, encode

PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Watchable:
    """A runtime that can be watched. `name` is its process's id, with a number if that has several."""

    name: str
    pid: int
    program: str  # "" if it does not answer
    path: Path

    def __str__(self) -> str:
        return f"{self.name} ({self.program or 'does not answer'})"


def find() -> list[Watchable]:
    """The runtimes of this user that can be watched. Sockets of dead processes are removed.

    Raises MonitorError.
    """
    found = []
    folder = place.folder(create=False)
    for path in sorted(folder.glob("*.sock")) if folder.is_dir() else []:
        pid = place.pid_of(path)
        if pid is None:
            continue
        try:
            with Connection(path) as connection:
                program = str(connection.ask(get="hello").get("program", ""))
        except (OSError, MonitorError) as error:
            if place.is_dead(pid):
                with suppress(OSError):
                    path.unlink()
                continue
            if isinstance(error, ConnectionError):  # it is closing
                continue
            program = ""
        number = path.stem.removeprefix(f"{pid}-")
        found.append(Watchable(str(pid) if number == "1" else path.stem, pid, program, path))
    return found


class Connection:
    """A connection to one runtime; a context manager. Raises ConnectionError once that has closed."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE_S)
        self._received = b""
        try:
            self._socket.connect(os.fspath(path))
        except FileNotFoundError as error:
            self._socket.close()
            raise ConnectionResetError("the runtime has closed") from error
        except BaseException:
            self._socket.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer. Raises MonitorError for an error that came instead, or for none."""
        try:
            self._socket.sendall(encode(request))
            while b"\n" not in self._received:
                read = self._socket.recv(1 << 16)
                if not read:
                    raise ConnectionResetError("the runtime has closed")
                self._received += read
                if len(self._received) > MAX_ANSWER:
                    raise MonitorError("the answer has no end")
        except TimeoutError:
            raise MonitorError(f"the process has not answered for {PATIENCE_S:g} s: is it stopped?") from None
        line, _, self._received = self._received.partition(b"\n")
        try:
            answer = decode(line)
        except ValueError as error:
            raise MonitorError(f"not understood, is it another version of coro_rt? {error}") from None
        if "error" in answer:
            raise MonitorError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
