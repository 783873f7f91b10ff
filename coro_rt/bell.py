"""A bell: a file descriptor by which any thread wakes an event loop.

Python's own calls let go of the interpreter's lock around a write. That is right for a thread that has
nothing else to do: the loop finds the lock free. But a worker that goes on would have to wait for it again,
up to `sys.getswitchinterval()` where the host's thread is busy, with every token. So it rings with the lock
held, which takes less than a microsecond.
"""

import ctypes
import os
from contextlib import suppress


class Bell:
    """One may ring and one may listen at the same time. Open until nobody has it any more."""

    def __init__(self) -> None:
        # not an eventfd: Linux lets a pipe's reader run where the writer is about to sleep, in half the time
        self._heard, self._rung = os.pipe()
        os.set_blocking(self._heard, False)
        os.set_blocking(self._rung, False)
        library = ctypes.PyDLL(None)  # keeps the lock
        self._write = library.write
        self._read = library.read
        self._buffer = ctypes.create_string_buffer(4096)

    def fileno(self) -> int:
        """What is readable once it was rung."""
        return self._heard

    def ring(self, *, keep_lock: bool) -> None:
        """From any thread, any number of times; never blocks."""
        if keep_lock:
            self._write(self._rung, b"!", 1)
        else:
            try:  # noqa: SIM105 (`suppress` takes as long as the rest)
                os.write(self._rung, b"!")
            except BlockingIOError:  # it rings already
                pass

    def silence(self) -> None:
        """Before looking for what it was rung for."""
        self._read(self._heard, self._buffer, 4096)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            os.close(self._heard)
            os.close(self._rung)
