"""What is in memory, at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes. The parts from `weights` to `other`, `parking` included, add up to `held`."""

    budget: int | None  # None: unlimited
    held: int
    weights: int  # of the models that are loaded
    pages: int  # of keys and values in use; one that several sequences share counts once
    cached: (
        int  # pages that nobody uses, kept in case a prompt begins like them; given up when memory is short
    )
    workspaces: int  # buffers of steps
    parking: int  # the area of memory for parked pages, full or empty
    other: int  # vocabularies, and what the application reserved
    shared: int  # what sharing saves: of pages in use, the bytes that the copies would take
    parked_in_area: int  # pages that were moved out of the way
    parked_on_file: int  # the same, in a file: not part of `held`
