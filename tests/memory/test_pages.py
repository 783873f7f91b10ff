"""Pages, prefixes and parking without a model: counted to the byte, given back once, found again."""

import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.memory import Kind, MemoryBudget
from coro_rt.memory.pages import Page, PageStore
from coro_rt.memory.parking import Parking
from coro_rt.memory.prefixes import Node, Prefixes

NBYTES = 4096
BUDGET = 12 * NBYTES
JOB: Any = SimpleNamespace(name="job", entry=None)


def new_store(budget: int | None = BUDGET, area: int = 0) -> PageStore:
    memory = MemoryBudget(budget)
    return PageStore(memory, Parking(memory, area))


class Pages(RuleBasedStateMachine):
    """Texts of pages that come, share what they have in common, grow and go, beside a plain account of it."""

    def __init__(self) -> None:
        super().__init__()
        self.store = new_store()
        self.tree = Prefixes(self.store)
        self.texts: list[tuple[list[Node], list[Page]]] = []

    @rule(text=st.lists(st.integers(0, 1), max_size=4), more=st.integers(0, 2))
    def comes(self, text: list[int], more: int) -> None:
        keys = [(token,) for token in text]
        nodes, pending = self.tree.use(keys)
        assert pending is None
        pages = [node.page for node in nodes if node.page is not None]
        self.texts.append((nodes, pages))
        for key in keys[len(nodes) :]:
            page = self.page()
            if page is None:
                return
            node = self.tree.complete(nodes[-1] if nodes else None, key, page, [])
            assert node is not None
            assert node.page is not None
            nodes.append(node)
            pages.append(node.page)
        for _ in range(more):
            page = self.page()
            if page is not None:
                pages.append(page)

    def page(self) -> Page | None:
        grant = self.store.budget.try_reserve(NBYTES, "a page", Kind.PAGES)
        return None if grant is None else self.store.new(NBYTES, grant)

    @rule(which=st.integers(0, 99))
    def goes(self, which: int) -> None:
        if self.texts:
            self.store.leave(reversed(self.texts.pop(which % len(self.texts))[1]))

    @rule(which=st.integers(0, 99))
    def is_written_to_again(self, which: int) -> None:
        """The last full page of a text becomes private, if nobody else has it."""
        with_nodes = [text for text in self.texts if text[0]]
        if with_nodes:
            nodes, pages = with_nodes[which % len(with_nodes)]
            node = nodes[-1]
            alone = pages[len(nodes) - 1].users == 1 and not node.children
            assert self.tree.take_back(node) is alone
            if alone:
                nodes.pop()

    @rule(nbytes=st.integers(1, 3 * NBYTES))
    def somebody_else_needs_memory(self, nbytes: int) -> None:
        free = self.store.budget.free
        assert free is not None
        if nbytes <= free:
            self.store.budget.reserve(nbytes, "something").release()
        else:
            with pytest.raises(MemoryBudgetExceeded):
                self.store.budget.reserve(nbytes, "something")

    @invariant()
    def everything_adds_up(self) -> None:
        in_use = {page for _, pages in self.texts for page in pages}
        for page in in_use:
            assert page.users == sum(pages.count(page) for _, pages in self.texts)
            assert page.data is not None
        cached = {page for page in self.tree_pages() if page not in in_use}
        assert self.store.cached == len(cached) * NBYTES <= BUDGET // 4
        assert self.store.budget.used == len(in_use) * NBYTES
        assert self.store.budget.spare == self.store.cached
        assert self.store.budget.held()[Kind.PAGES] == (len(in_use) + len(cached)) * NBYTES
        assert self.store.shared == sum(page.users - 1 for page in in_use) * NBYTES

    def tree_pages(self, node: Node | None = None) -> Iterator[Page]:
        for child in (node or self.tree.root).children.values():
            assert child.page is not None
            assert child.page.node is child
            yield child.page
            yield from self.tree_pages(child)

    def teardown(self) -> None:
        while self.texts:
            self.goes(0)
        self.tree.clear()
        assert self.store.cached == 0
        assert sum(self.store.budget.held().values()) == 0


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_page_may_not_be_left_more_often_than_used() -> None:
    store = new_store()
    page = store.new(NBYTES, store.budget.reserve(NBYTES, "a page"))
    store.leave([page])
    with pytest.raises(AssertionError, match="left more often than used"):
        store.leave([page])


def test_what_is_claimed_is_waited_for_until_it_is_complete_or_given_up() -> None:
    store = new_store()
    tree = Prefixes(store)
    claims = tree.claim(None, [(1,), (2,)], JOB)
    _, first = tree.use([(1,)])
    _, second = tree.use([(1,), (2,), (3,)])
    assert first is claims[0].completed
    assert second is claims[1].completed
    assert first is not None
    assert second is not None
    page = store.new(NBYTES, store.budget.reserve(NBYTES, "a page"))
    assert tree.complete(None, (1,), page, []) is None  # it is another's
    node = tree.complete(None, (1,), page, claims)
    assert node is claims[0]
    assert (first.is_set(), second.is_set()) == (True, False)
    tree.abandon(claims)
    assert second.is_set()
    found, pending = tree.use([(1,), (2,)])
    assert (found, pending) == ([node], None)
    store.leave([page, page])
    tree.clear()
    assert store.budget.used == store.budget.spare == 0


def test_a_page_that_somebody_has_computed_before_is_used_instead() -> None:
    store = new_store()
    tree = Prefixes(store)
    one, other = (store.new(NBYTES, store.budget.reserve(NBYTES, "a page")) for _ in range(2))
    node = tree.complete(None, (1,), one, [])
    assert tree.complete(None, (1,), other, []) is node
    assert node is not None
    assert node.page is one
    assert (one.users, other.users, store.shared) == (2, 0, NBYTES)
    assert store.budget.used == NBYTES
    store.leave([one, one])


def page_of(store: PageStore, value: int, nbytes: int = NBYTES) -> Page:
    page = store.new(nbytes, store.budget.reserve(nbytes, "a page"))
    assert page.data is not None
    page.data[:] = bytes([value]) * nbytes
    return page


def test_parked_pages_come_back_as_they_were_first_from_the_area_then_from_the_file() -> None:
    store = new_store(area=2 * NBYTES)
    parking = store.parking
    slots = []
    for value in range(5):
        page = page_of(store, value)
        assert page.data is not None
        slots.append(parking.put(page.data))
        store.leave([page])
    assert (parking.in_area, parking.on_file) == (2 * NBYTES, 3 * NBYTES)
    back = page_of(store, 9)
    assert back.data is not None
    for value, slot in reversed(list(enumerate(slots))):
        assert slot is not None
        parking.get(slot, back.data)
        assert bytes(back.data) == bytes([value]) * NBYTES
        parking.free(slot)
    assert (parking.in_area, parking.on_file) == (0, 0)
    store.leave([back])
    assert store.budget.used == 2 * NBYTES  # the area
    parking.close()
    assert store.budget.used == 0


def test_the_file_is_private_nameless_and_reuses_its_holes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = new_store()
    page = page_of(store, 1)
    assert page.data is not None
    first, second = store.parking.put(page.data), store.parking.put(page.data)
    assert first is not None
    assert second is not None
    assert list(tmp_path.iterdir()) == []
    store.parking.free(first)
    third = store.parking.put(page.data)
    assert third is not None
    assert third.offset == first.offset
    store.parking.close()
    store.leave([page])


def test_a_full_disk_is_no_place_to_park_until_something_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    page = page_of(store, 1)
    assert page.data is not None
    kept = store.parking.put(page.data)
    assert kept is not None

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store.parking, "_write", full)
        assert store.parking.put(page.data) is None
    assert not store.parking.takes(NBYTES)
    store.parking.free(kept)
    assert store.parking.takes(NBYTES)
    store.parking.close()
    store.leave([page])
