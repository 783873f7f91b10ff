"""Prefixes: the full pages of one model's sequences, found again by the tokens that they hold.

A tree: a node is one page of tokens after its parent's, so a path from the root is a text. Pages on it are
complete and never written again, hence several sequences may use them. A page that a job is just computing
has its place already, with an event: another job with the same prefix waits for that, and through it for the
job, instead of computing it again. If the page is not completed after all, the event is set as well, and who
waited looks again and finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence as Keys

from coro_rt.job import Job
from coro_rt.memory.pages import Page, PageStore
from coro_rt.sync import Event

Key = tuple[int, ...]
"""The tokens of one page."""


class Node:
    """`page` is None while it is being computed; `completed` then tells when it is not any more."""

    __slots__ = ("children", "completed", "key", "page", "parent")

    def __init__(self, parent: Node | None, key: Key) -> None:
        self.parent, self.key = parent, key
        self.children: dict[Key, Node] = {}
        self.page: Page | None = None
        self.completed: Event | None = None

    def cut(self) -> None:
        """Take it out of the tree. It may be out already."""
        if self.parent is not None and self.parent.children.get(self.key) is self:
            del self.parent.children[self.key]
        if self.page is not None:
            self.page.node = None


class Prefixes:
    """The prefixes of one model. Any thread may call it; events are set without a lock held."""

    def __init__(self, store: PageStore) -> None:
        self._store = store
        self.root = Node(None, ())

    def use(self, keys: Keys[Key]) -> tuple[list[Node], Event | None]:
        """The nodes for as many `keys` as are complete, whose pages are in use from now on.

        Or, if more of them are being computed: an empty list, and what to wait for before looking again.
        """
        with self._store.lock:
            found, pending = [], None
            node = self.root
            for key in keys:
                following = node.children.get(key)
                if following is None:
                    break
                node = following
                if node.page is None:
                    pending = node.completed
                else:
                    found.append(node)
            if pending is not None:
                return [], pending
            for node in found:
                assert node.page is not None
                self._store.use_locked(node.page)
            return found, None

    def claim(self, after: Node | None, keys: Keys[Key], job: Job[object]) -> list[Node]:
        """`job` is going to compute these pages; the places that are new. `after` has to be in use."""
        claimed = []
        with self._store.lock:
            parent = after or self.root
            for key in keys:
                if key in parent.children:
                    break
                node = parent.children[key] = Node(parent, key)
                node.completed = Event(job)
                claimed.append(node)
                parent = node
        return claimed

    def complete(self, after: Node | None, key: Key, page: Page, claims: Keys[Node]) -> Node | None:
        """A page is full: its node, which may have the same in another page, then in use instead of this one.

        `claims` are the caller's own. None: somebody else is computing it, or the path to it has been cut.
        """
        with self._store.lock:
            parent = after or self.root
            node = parent.children.get(key)
            if node is None:
                node = parent.children[key] = Node(parent, key)
            elif node.page is not None:
                self._store.use_locked(node.page)
                self._store.leave_locked(page)
                return node
            elif node not in claims:
                return None
            node.page, page.node = page, node
            completed, node.completed = node.completed, None
        if completed is not None:
            completed.set()
        return node

    def abandon(self, claims: Keys[Node]) -> None:
        """What has been claimed will not be completed by its claimant."""
        with self._store.lock:
            events = [node.completed for node in claims if node.page is None]
            for node in claims:
                if node.page is None:
                    node.cut()
        for event in events:
            assert event is not None
            event.set()

    def take_back(self, node: Node) -> bool:
        """Make a page private again, to write to it. False: others use it, or what comes after it."""
        with self._store.lock:
            assert node.page is not None
            if node.page.users > 1 or node.children:
                return False
            node.cut()
            return True

    def forget_locked(self, node: Node) -> None:
        """Under the store's lock: take out a node and what follows it. Its page stays with who uses it."""
        for child in list(node.children.values()):
            self.forget_locked(child)
        page = node.page
        node.cut()
        if page is not None and not page.users:
            self._store.drop_unused_locked(page)

    def clear(self) -> None:
        """Forget everything that is complete. Nobody is computing any more."""
        with self._store.lock:
            for node in list(self.root.children.values()):
                self.forget_locked(node)
