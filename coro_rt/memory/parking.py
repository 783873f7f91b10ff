"""Where pages are parked that are not in memory now: an area of memory of fixed size, then a file.

The file is temporary and private: without a name from the start where the system can do that, readable by
this user alone, gone with the process. What is in it is what people said, so it lies where `TMPDIR` says.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from mmap import mmap
from typing import IO, Any

from coro_rt.memory.budget import Kind, MemoryBudget

logger = logging.getLogger("coro_rt")


class Slot:
    """Where one page is parked: `data` in the area, else `offset` in the file."""

    __slots__ = ("data", "nbytes", "offset")

    def __init__(self, nbytes: int, data: bytes | None, offset: int) -> None:
        self.nbytes, self.data, self.offset = nbytes, data, offset


class Parking:
    """Thread-safe. `area_bytes` are reserved at once; the file is made when it is first needed."""

    def __init__(self, budget: MemoryBudget, area_bytes: int) -> None:
        self.in_area = 0
        self.on_file = 0
        self._area_bytes = area_bytes
        self._area = budget.reserve(area_bytes, "the area of parked pages", Kind.PARKING)
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._end = 0  # of the file
        self._holes: dict[int, list[int]] = {}  # offsets of what was freed, by size
        self._full = False  # the disk is; until something is freed

    def takes(self, nbytes: int) -> bool:
        """Whether `put` has a chance."""
        return not self._full or self.in_area + nbytes <= self._area_bytes

    def put(self, data: mmap) -> Slot | None:
        """Copy a page out; None if the disk is full, or cannot be written."""
        nbytes = len(data)
        with self._lock:
            if self.in_area + nbytes <= self._area_bytes:
                self.in_area += nbytes
                return Slot(nbytes, bytes(data), 0)
            holes = self._holes.get(nbytes)
            offset = holes.pop() if holes else self._end
            try:
                self._write(offset, data)
            except OSError as error:
                logger.warning("no page can be parked: %s", error)
                self._full = True
                if offset != self._end:
                    self._holes[nbytes].append(offset)
                return None
            self._end = max(self._end, offset + nbytes)
            self.on_file += nbytes
            return Slot(nbytes, None, offset)

    def get(self, slot: Slot, out: mmap) -> None:
        """Copy a page back; the slot is kept. Raises OSError if the disk fails."""
        if slot.data is not None:
            out[:] = slot.data
            return
        with self._lock:
            assert self._file is not None
            self._file.seek(slot.offset)
            view, done = memoryview(out), 0
            while done < slot.nbytes:
                read: Any = self._file.readinto(view[done:])  # type: ignore[attr-defined]
                if not read:
                    raise OSError(f"the file of parked pages ends at {slot.offset + done}")
                done += read

    def free(self, slot: Slot) -> None:
        """The page is not needed any more. Once for each slot."""
        with self._lock:
            if slot.data is not None:
                self.in_area -= slot.nbytes
                slot.data = None
                return
            self._full = False
            self.on_file -= slot.nbytes
            self._holes.setdefault(slot.nbytes, []).append(slot.offset)
            if not self.on_file and self._file is not None:
                self._holes.clear()
                self._end = 0
                self._file.truncate(0)

    def close(self) -> None:
        """Nothing is parked any more."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
        self._area.release()

    def _write(self, offset: int, data: mmap) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="coro_rt-", buffering=0)  # noqa: SIM115 (until close)
        self._file.seek(offset)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
