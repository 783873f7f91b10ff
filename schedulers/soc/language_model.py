"""What a language model asks of a chip: operations and bytes of a step, from its shape alone.

A step takes some rows of some sequences through all layers. Each row meets each weight once, so its
operations are twice the weights; the weights are read once for all rows, so a step of one row is bound by
memory, and one of many by arithmetic. Attention adds to both with the length of what is behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from coro_rt.schedulers.errors import SchedulerError

BYTES_PER_WEIGHT = {"int4": 4.5 / 8, "int8": 8.5 / 8, "fp16": 2.0}
"""By format: 32 weights share a float16 scale (GGUF's Q4_0 and Q8_0)."""


class Load(NamedTuple):
    """A piece of work: operations on weights of a format, and bytes from memory. `steps`: how many model
    steps it is, for what each takes besides."""

    operations: float
    bytes: float
    format: str
    steps: float = 1.0


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A decoder's shape. `embedding` are the weights of the vocabulary's table, of which a token reads a row;
    `tied`: it is the head as well, else there is another as large. `width` is that of all query heads
    together, `kv_width` that of all key heads. `format` is that of the weights; keys and values are float16.
    """

    name: str
    parameters: float
    embedding: float
    layers: int
    width: int
    kv_width: int
    tied: bool = True
    format: str = "int4"

    def __post_init__(self) -> None:
        if self.format not in BYTES_PER_WEIGHT:
            raise SchedulerError(f"no weights in {self.format!r}; there are {', '.join(BYTES_PER_WEIGHT)}")
        if not 0 < self.embedding < self.parameters or min(self.layers, self.width, self.kv_width) < 1:
            raise SchedulerError(f"the shape of {self.name!r} has positive numbers, and more than a table")

    def quantized(self, format: str) -> LanguageModel:
        """The same model in another format. Raises SchedulerError with those that there are."""
        return replace(self, format=format)

    @property
    def body(self) -> float:
        """The weights that each row of a step meets."""
        return self.parameters - self.embedding * (1 if self.tied else 2)

    @property
    def weight_bytes(self) -> float:
        """What a step reads of them: all but the table, or with it if that is the head."""
        return (self.body + self.embedding) * BYTES_PER_WEIGHT[self.format]

    @property
    def kv_bytes(self) -> float:
        """Keys and values of one position, all layers."""
        return 4.0 * self.layers * self.kv_width

    def step(self, rows: Iterable[tuple[int, int]]) -> Load:
        """One step with so many rows of each sequence, behind so many positions: `[(rows, behind), …]`.

        Each sequence's last row goes through the head.
        """
        operations, read = 0.0, self.weight_bytes
        for count, behind in rows:
            positions = count * (behind + (count + 1) / 2)  # that its rows attend to, in all
            operations += 2.0 * (self.body * count + self.embedding)
            operations += 4.0 * self.layers * self.width * positions
            read += self.kv_bytes * (behind + count)
        return Load(operations, read, self.format)
