"""A sequence: the tokens whose keys and values were computed, and the pages that hold them.

Pages that are full may be shared with other sequences (memory/prefixes.py). When memory is short, the others
are parked, from the last to the first, and come back before the next step (memory/residency.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.job import Job
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.memory.budget import Kind, Reservation
from coro_rt.memory.pages import Page
from coro_rt.memory.prefixes import Node, Prefixes
from coro_rt.traps import checkpoint, current_job

if TYPE_CHECKING:
    from .decoder import Model


class Sequence:
    """`tokens` are those whose keys and values were computed. One job at a time may use it.

    `table` holds the addresses of its pages. It is valid for a step after `make_room`, while `pinned`.
    """

    def __init__(self, model: Model, prefixes: Prefixes | None) -> None:
        self.tokens: list[int] = []
        self.table: NDArray[np.int64] = np.zeros(0, np.int64)
        self.job: Job[Any] | None = None
        self.pins = 0
        self.rows = 0  # of the model's buffers, that its next step needs
        self.model = model
        self._residency = model.residency
        self._store = model.residency.pages
        self._prefixes = prefixes
        self._page_bytes = model.sizes.kv.page_bytes
        self._pages: list[Page] = []
        self._parked = 0  # of the pages, the last ones
        self._nodes: list[Node] = []  # the places of the first pages among the prefixes
        self._claims: list[Node] = []  # of pages that its job is computing
        self._own: tuple[Any, Reservation] | None = None  # its buffers: a workspace, or a row of logits
        self._limit = 0  # tokens that it may come to hold
        self._favoured_to = 0  # tokens

    # For its job.

    @contextmanager
    def used_by(self, job: Job[Any]) -> Iterator[Sequence]:
        """While a job works with it. What others wait for, and it has not computed then, is left to them."""
        self.job = job
        if job.outlet is not None:
            job.outlet.on_full = self._residency.stalled
        self._residency.holders[job.worker.name].add(self)
        try:
            yield self
        finally:
            self.job = None
            self._favoured_to = 0
            self._abandon()
            self._drop_own()
            self._residency.changed()

    async def begin(self, prompt: Tokens[int], limit: int) -> int:
        """Keep or find as much of `prompt` as is computed already, but its last token; how many tokens it is.

        (The last token is computed again because its logits are not stored.) If another job is computing
        more of it, waits for that. `limit`: tokens that the sequence may come to hold.
        """
        self._limit = limit
        kept = self._keep(prompt)
        if self._prefixes is None:
            return kept
        keys = [
            tuple(prompt[at : at + PAGE_POSITIONS])
            for at in range(0, len(prompt) - PAGE_POSITIONS + 1, PAGE_POSITIONS)
        ]
        usable = keys[: (len(prompt) - 1) // PAGE_POSITIONS]
        while len(usable) * PAGE_POSITIONS > kept:
            found, pending = self._prefixes.use(usable)
            if pending is not None:
                await pending.wait()
                kept = self._keep(prompt)  # parked and cut meanwhile, perhaps
                continue
            pages = [node.page for node in found if node.page is not None]
            if len(found) * PAGE_POSITIONS > kept:
                self._pages, pages = pages, self._pages
                self._nodes, self._parked = found, 0
                kept = len(found) * PAGE_POSITIONS
                self.tokens = list(prompt[:kept])
                self._set_table()
            self._store.leave(reversed(pages))
            break
        self._commit()  # what is full must have its place before what follows
        if len(self._nodes) == len(self.tokens) // PAGE_POSITIONS:
            job = current_job()
            self._claims = self._prefixes.claim(self._last_node, keys[len(self._nodes) :], job)
        return kept

    async def make_room(self, length: int, rows: int, *, own: bool = False, logits: bool = False) -> None:
        """Have pages for `length` tokens in memory, and buffers for a step of `rows`.

        Those are the model's; or its `own`, in `workspace`, with logits for each row. With `logits` there is
        a row of them in `logits`, for the step to fill.

        Before each step, also if nothing is missing: it waits while more urgent jobs need the memory. Raises
        MemoryBudgetExceeded if waiting could not help; OSError if the disk fails that it was parked on;
        DeviceLost.
        """
        self.model.check_lost()
        self.rows = 0 if own else rows
        missing = partial(self._missing, length, rows, own=own, logits=logits)
        while missing() or self._residency.crowded:
            what = f"a step of {rows} tokens after {len(self.tokens)}"
            with await self._residency.room(what, missing, Kind.PAGES, self) as grant:
                await self._fill(length, rows, grant, own=own, logits=logits)
            if not missing():
                break

    @property
    def workspace(self) -> Any:
        """After `make_room`, until the next `await` that is not the step's. Keep no reference to it."""
        assert self._own is not None
        assert not isinstance(self._own[0], np.ndarray)
        return self._own[0]

    @property
    def logits(self) -> Floats:
        """float32 [vocabulary]. As for `workspace`."""
        assert self._own is not None
        assert isinstance(self._own[0], np.ndarray)
        return self._own[0]

    @property
    def shares(self) -> bool:
        """Whether its full pages may come to serve others."""
        return self._prefixes is not None

    @property
    def room(self) -> int:
        """How many more tokens the pages have room for."""
        return len(self._pages) * PAGE_POSITIONS - len(self.tokens)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """While a step is under way that uses its pages: nothing is taken from it."""
        assert not self._parked
        self.pins += 1
        try:
            yield
        finally:
            self.pins -= 1
            self._residency.unpinned()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """While its job is on another device: what only a step needs is given back. Nothing is taken from it,
        since that is up to the worker of the device that it is on.
        """
        self._abandon()
        self._drop_own()
        self.pins += 1
        try:
            yield
        finally:
            self.pins -= 1
            self._residency.unpinned()

    def extend(self, tokens: Tokens[int]) -> None:
        """A step has put `tokens` after the others."""
        self.tokens.extend(tokens)
        if len(self._nodes) < len(self.tokens) // PAGE_POSITIONS:
            self._commit()

    def release(self) -> None:
        """Give the memory back, once. Full pages are kept for others as long as nobody needs the memory."""
        self._drop_own()
        with self._store.lock:
            pages, self._pages = self._pages, []
        self._store.leave(reversed(pages))
        self.tokens, self._nodes, self._parked = [], [], 0
        self._set_table()
        self._residency.changed()

    def __del__(self) -> None:
        if self._pages:
            self._residency.bury(self._pages)

    # For the residency: what may be taken.

    @property
    def begun(self) -> bool:
        return bool(self.tokens)

    @property
    def favoured(self) -> bool:
        return len(self.tokens) < self._favoured_to

    def favour(self) -> None:
        self._favoured_to = len(self.tokens) + PAGE_POSITIONS

    @property
    def next_bytes(self) -> int:
        return self._page_bytes if len(self._pages) * PAGE_POSITIONS < self._limit else 0

    @property
    def takeable(self) -> int:
        held = 0 if self._own is None else self._own[1].nbytes
        if self._store.parking.takes(self._page_bytes):
            held += self._page_bytes * sum(1 for page in self._pages if page.users == 1 and not page.slot)
        return held

    def take(self) -> int:
        """The buffers first, then page after page."""
        assert not self.pins
        if self._own is not None:
            nbytes = self._own[1].nbytes
            self._drop_own()
            return nbytes
        self._abandon()  # what follows the page that goes cannot be found
        with self._store.lock:
            at = len(self._pages) - self._parked - 1
            if at < 0 or self._pages[at].users > 1:
                return 0
            page = self._pages[at]
            if page.node is not None:
                assert self._prefixes is not None
                self._prefixes.forget_locked(page.node)
                del self._nodes[at:]
            data = page.data
        assert data is not None
        slot = self._store.parking.put(data)
        if slot is None:
            return 0
        with self._store.lock:
            if not page.users:  # released meanwhile
                self._store.parking.free(slot)
                return 0
            page.slot = slot
            page.drop()
        self._parked += 1
        return page.nbytes

    # Inside.

    @property
    def _last_node(self) -> Node | None:
        return self._nodes[-1] if self._nodes else None

    def _missing(self, length: int, rows: int, *, own: bool, logits: bool) -> int:
        """Bytes."""
        pages = max(-(-length // PAGE_POSITIONS) - len(self._pages), 0) + self._parked
        shared = 0 if own else self.model.workspaces.lacking(rows)
        return pages * self._page_bytes + shared + self._own_missing(rows, own=own, logits=logits)

    def _own_missing(self, rows: int, *, own: bool, logits: bool) -> int:
        if self._own is not None or not (own or logits):
            return 0
        return self.model.workspace_bytes(rows, rows) if own else self.model.sizes.vocabulary * 4

    async def _fill(self, length: int, rows: int, grant: Reservation, *, own: bool, logits: bool) -> None:
        """Take what is missing from `grant`, bringing parked pages back one by one."""
        if nbytes := self._own_missing(rows, own=own, logits=logits):
            paid = grant.split(nbytes, Kind.WORKSPACES)
            try:
                made = self.model.new_workspace(rows, rows) if own else np.empty(nbytes // 4, np.float32)
            except BaseException:  # as in `Workspaces`
                paid.release()
                raise
            self._own = made, paid
        if not own:
            self.model.workspaces.provide(rows, grant)
        while self._parked and grant.nbytes >= self._page_bytes:
            page = self._pages[len(self._pages) - self._parked]
            slot = page.slot
            assert slot is not None
            try:
                self._store.parking.get(slot, page.bring(grant.split(self._page_bytes, Kind.PAGES)))
            except OSError:
                page.drop()
                raise
            page.slot = None
            self._store.parking.free(slot)
            self._parked -= 1
            await checkpoint()
        while len(self._pages) * PAGE_POSITIONS < length and grant.nbytes >= self._page_bytes:
            if self._parked:  # taken again in the meantime
                break
            self._pages.append(self._store.new(self._page_bytes, grant))
        self._set_table()

    def _set_table(self) -> None:
        self.table = np.array([page.address for page in self._pages], np.int64)

    def _keep(self, prompt: Tokens[int]) -> int:
        """Forget all but what `prompt` begins with, and of that always the last token; how many are kept."""
        limit = min(len(self.tokens), len(prompt) - 1)
        kept = next((i for i in range(limit) if self.tokens[i] != prompt[i]), max(limit, 0))
        full = kept // PAGE_POSITIONS
        if full < len(self._nodes):
            # the page is going to be written to, unless nothing of it is kept
            assert self._prefixes is not None
            alone = len(self._nodes) == full + 1 and self._prefixes.take_back(self._nodes[full])
            kept = kept if alone else full * PAGE_POSITIONS
            del self._nodes[full:]
        needed = -(-kept // PAGE_POSITIONS)
        with self._store.lock:
            gone, self._pages = self._pages[needed:], self._pages[:needed]
        self._store.leave(reversed(gone))
        self._parked = sum(1 for page in self._pages if page.slot)
        del self.tokens[kept:]
        self._set_table()
        return kept

    def _commit(self) -> None:
        """Full pages become prefixes; one that another sequence has computed too is used in its place."""
        if self._prefixes is None or self._parked:
            return
        swapped = False
        for at in range(len(self._nodes), len(self.tokens) // PAGE_POSITIONS):
            key = tuple(self.tokens[at * PAGE_POSITIONS : (at + 1) * PAGE_POSITIONS])
            node = self._prefixes.complete(self._last_node, key, self._pages[at], self._claims)
            if node is None:
                break
            assert node.page is not None
            swapped |= node.page is not self._pages[at]
            self._pages[at] = node.page
            self._nodes.append(node)
        if swapped:
            self._set_table()

    def _abandon(self) -> None:
        if self._claims:
            assert self._prefixes is not None
            claims, self._claims = self._claims, []
            self._prefixes.abandon(claims)

    def _drop_own(self) -> None:
        if self._own is not None:
            buffers, paid = self._own
            self._own = None
            if not isinstance(buffers, np.ndarray):
                buffers.release()
            paid.release()
