"""A sequence: the tokens whose keys and values are in memory, and the pages that hold them.

Pages are reserved in the runtime's memory budget one by one, as the text grows, and given back together.
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

import numpy as np
from numpy.typing import NDArray

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.kernels.formats import Bytes
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape, new_page
from coro_rt.memory import MemoryBudget, Reservation


class Sequence:
    """`tokens` are those whose keys and values are stored. One job at a time may use it.

    While it is `busy`, a step that is not finished has rows of it, and its pages must stay where they are.
    """

    def __init__(self, shape: KVShape, budget: MemoryBudget, spare: Callable[[], None]) -> None:
        self.tokens: list[int] = []
        self.busy = False
        self._shape = shape
        self._budget = budget
        self._spare = spare  # gives memory back that can be done without, when there is none for a page
        self._pages: list[Bytes] = []
        self._reservations: list[Reservation] = []
        self.table: NDArray[np.int64] = np.zeros(0, np.int64)  # the pages' addresses

    @property
    def room(self) -> int:
        """How many more tokens the pages have room for."""
        return len(self._pages) * PAGE_POSITIONS - len(self.tokens)

    def make_room(self, length: int) -> None:
        """Have pages for `length` tokens. Raises MemoryBudgetExceeded; what there was stays."""
        missing = -(-length // PAGE_POSITIONS) - len(self._pages)
        if missing <= 0:
            return
        for _ in range(missing):
            try:
                reservation = self._reserve()
            except MemoryBudgetExceeded:
                self._spare()
                reservation = self._reserve()
            self._reservations.append(reservation)
            self._pages.append(new_page(self._shape))
        self.table = np.array([page.ctypes.data for page in self._pages], np.int64)

    def _reserve(self) -> Reservation:
        return self._budget.reserve(self._shape.page_bytes, "a page of keys and values")

    def keep_prefix(self, tokens: Tokens[int]) -> int:
        """Forget all but what `tokens` begins with, and of that always the last token; how many are kept.

        (The last token is computed again because its logits are not stored.)
        """
        limit = min(len(self.tokens), len(tokens) - 1)
        kept = next((i for i in range(limit) if self.tokens[i] != tokens[i]), max(limit, 0))
        del self.tokens[kept:]
        return kept

    def release(self) -> None:
        """Give the pages back. The sequence is empty then, and may be used again."""
        self.tokens.clear()
        self._pages.clear()
        self.table = np.zeros(0, np.int64)
        while self._reservations:
            self._reservations.pop().release()

    def __del__(self) -> None:
        self.release()
