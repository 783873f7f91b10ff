"""A reader: a device that reads prompts for the place on a CPU that writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .sequence import Sequence

__all__ = ["Reader", "ReadingTimes"]


@dataclass(frozen=True, slots=True)
class ReadingTimes:
    """Seconds of a reader: for reading, and for handing over what it read, where that is a thing of its own;
    NaN: others had a part in it, or nothing came of it."""

    read_s: float = math.nan
    handed_s: float = math.nan


class Reader(Protocol):
    """A device that reads prompts for the one that decodes: `npu.NpuReader`, `gpu_reader.GpuReader`."""

    async def read(self, sequence: Sequence, tokens: list[int], following_s: float) -> ReadingTimes:
        """Put keys and values of `tokens` behind what the sequence holds; then be where the job was. What
        comes then is predicted to take `following_s`. The sequence has room for them, and is pinned.

        If the device fails, the sequence holds fewer of them: who decodes reads the rest.
        """
