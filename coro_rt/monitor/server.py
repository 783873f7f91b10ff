"""The watched side: a thread that answers one request at a time and sleeps otherwise.

It cannot hurt the runtime: the thread is neither the host's nor a worker's; a client has one answer under way
at most, and is not read from until it has taken that; of too many clients the one that was silent longest is
dropped; and after each answer the thread rests for long enough to take a twentieth of one core at most.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coro_rt.errors import MonitorError
from coro_rt.monitor import place
from coro_rt.monitor.protocol import MAX_LIMIT, MAX_REQUEST, decode, encode

if TYPE_CHECKING:
    from coro_rt.runtime import Runtime

logger = logging.getLogger("coro_rt")

MAX_CLIENTS = 16
MAX_EXPLAINED = 16  # jobs of one name
REST = 19  # times what an answer took
_naming = threading.Lock()  # two runtimes of one process must not find the same name free
_NO_ROOM_S = 0.5  # before accepting is tried again when the process has no file descriptor left


class _Client:
    """One connection: what came of a line, and what is still to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.unsent = b""
        self.last = False  # drop it when that is sent


class Monitor:
    """One runtime's monitor: listens from `Monitor(runtime)` on until `close()`. Raises MonitorError."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._about = {"pid": os.getpid(), "program": _program()}
        self._closing = threading.Event()
        self._clients: OrderedDict[socket.socket, _Client] = OrderedDict()  # silent longest first
        folder = place.folder(create=True)
        try:
            with _naming:
                self._listener, self.path = _listen(folder)
        except OSError as error:
            raise MonitorError(f"no socket for the monitor in {folder}: {error}") from error
        self._waker, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="coro_rt-monitor", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._shut()
            self._waker.close()
            self._woken.close()
            raise

    def close(self) -> None:
        """Drop all clients, remove the socket and end the thread. Further calls do nothing."""
        if not self._closing.is_set():
            self._closing.set()
            self._waker.send(b"\0")
        self._thread.join()
        self._waker.close()  # not by the thread, which may see that it is to end before it is woken
        self._woken.close()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                for key, _ in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif (client := self._clients.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                        self._serve(client)
        except Exception:
            logger.exception("the monitor has failed; the runtime goes on without it")
        finally:
            self._shut()

    def _shut(self) -> None:
        self.path.unlink(missing_ok=True)
        for connection in (*self._clients, self._listener):
            connection.close()
        self._clients.clear()
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone already
            return
        except OSError:
            self._closing.wait(_NO_ROOM_S)
            return
        if not _same_user(connection):
            connection.close()
            return
        connection.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(next(iter(self._clients.values())))
        self._clients[connection] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection]
        self._selector.unregister(client.connection)
        client.connection.close()

    def _serve(self, client: _Client) -> None:
        """Send on, or read on; at the end of a line, answer it."""
        self._clients.move_to_end(client.connection)
        try:
            if client.unsent:
                self._send(client)
                return
            read = client.connection.recv(MAX_REQUEST)
            client.received += read
            line, end, rest = client.received.partition(b"\n")
            if end:
                client.received = b""
                self._answer(client, line, alone=not rest)
            elif not read or len(client.received) > MAX_REQUEST:
                self._drop(client)
        except BlockingIOError:
            pass
        except OSError:  # it has gone
            self._drop(client)

    def _answer(self, client: _Client, line: bytes, *, alone: bool) -> None:
        began = time.perf_counter()
        try:
            if not alone:
                raise ValueError("the next request comes after the answer to the one before")
            client.unsent = encode(self._about | self._found(decode(line)))
        except Exception as error:
            if not isinstance(error, ValueError):
                logger.exception("the monitor could not answer")
            client.unsent = encode({"error": str(error) or type(error).__name__})
            client.last = True
        took = time.perf_counter() - began
        self._send(client)
        self._closing.wait(min(1.0, REST * took))

    def _send(self, client: _Client) -> None:
        """As much as the client takes now. It is read from again when it has all."""
        with suppress(BlockingIOError):
            client.unsent = client.unsent[client.connection.send(client.unsent) :]
        if client.unsent:
            self._selector.modify(client.connection, selectors.EVENT_WRITE)
        elif client.last:
            self._drop(client)
        else:
            self._selector.modify(client.connection, selectors.EVENT_READ)

    def _found(self, request: dict[str, Any]) -> dict[str, Any]:
        """What is asked for. Raises ValueError."""
        match request:
            case {"get": "hello"}:
                return {}
            case {"get": "snapshot", "limit": int(limit)} if 0 <= limit <= MAX_LIMIT:
                return {"snapshot": self._runtime.snapshot(limit=limit).as_json()}
            case {"get": "explain", "job": str(wanted)}:
                jobs = self._runtime.jobs(wanted, limit=MAX_EXPLAINED)
                return {"explanations": [self._runtime.explain(job).as_json() for job in jobs]}
            case _:
                raise ValueError(
                    f'it takes "get": "hello", "snapshot" with "limit" from 0 to {MAX_LIMIT}, or "explain" '
                    'with "job"'
                )


def _listen(folder: Path) -> tuple[socket.socket, Path]:
    """A socket that listens under the first name that is free; a name left by a dead process is."""
    for number in count(1):
        path = folder / f"{os.getpid()}-{number}.sock"
        if not _in_use(path):
            break
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unfinished = path.with_suffix(".new")
    try:
        unfinished.unlink(missing_ok=True)
        listener.bind(str(unfinished))
        unfinished.chmod(0o600)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
        unfinished.rename(path)  # seen only when it answers
    except BaseException:
        listener.close()
        unfinished.unlink(missing_ok=True)
        raise
    return listener, path


def _in_use(path: Path) -> bool:
    if not path.exists():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _same_user(connection: socket.socket) -> bool:
    """Whether the other end runs as the same user, where the system tells; the folder keeps others out
    too."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    size = struct.calcsize("3i")
    try:
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, size))
    except OSError:
        return False
    return bool(uid == os.geteuid())


def _program() -> str:
    """What people know this process by."""
    path = Path(sys.argv[0] if sys.argv else "")
    return (path.parent.name if path.name == "__main__.py" else path.name) or "python"
