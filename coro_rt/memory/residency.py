"""Residency: who is in memory when not everything fits, and who waits.

A job asks for bytes with `room`, before the step that needs them. Askers have an order: the more urgent
first (QoS, then deadline), among equals the one that came first; who has asked for longer than `patience_s`
goes before all others. When the budget is spent, the first asker takes what it needs from others, in this
order: pages that nobody uses; buffers between steps; conversations that nobody is answering; models that
nobody uses; sequences that come after it, the last first; those of jobs that only wait for their reader.
Taking from a sequence is *parking* it, a piece at a time: its job finds out before its next step, and asks
for what it lacks. What a step under way is using cannot be taken; the asker waits for the step's end.

Why nobody waits for ever: the order does not change while jobs take turns, so equals do not take from each
other to and fro; and the first asker can take from all that come after it, hence waits only for jobs that
are before it and do not ask, that is, go on. And nothing is taken in vain: if all that could be taken were
not enough, the asker waits without taking anything, and those behind it that are in memory go on.

Waiting lends urgency: an asker's trap names the job that it waits for.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.job import Job
from coro_rt.memory.budget import Kind, MemoryBudget, Reservation, format_bytes
from coro_rt.memory.holders import Holder, Unloadable
from coro_rt.memory.pages import Page, PageStore
from coro_rt.memory.parking import Parking
from coro_rt.memory.precedence import Ask, Precedence, in_use, waits_for
from coro_rt.memory.usage import MemoryUse
from coro_rt.schedulers.entry import Entry
from coro_rt.sync import Lock
from coro_rt.trap import Trap
from coro_rt.traps import checkpoint, current_job

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.engine import Engine


class Residency:
    """One per runtime. Jobs call it; `changed`, `bury` and `usage` anybody.

    A job is asked for, waits for and takes from what is on its own device, whose worker's thread it runs in.
    """

    def __init__(
        self, engine: Engine, budget: MemoryBudget, *, area_bytes: int, patience_s: float, may_wait: bool
    ) -> None:
        self.budget = budget
        self.parking = Parking(budget, area_bytes)
        self.pages = PageStore(budget, self.parking)
        self.loading = Lock()  # models are loaded one by one, the most urgently needed first
        self.parkings = 0  # pieces that were taken from sequences
        self.unloads = 0
        self.holders: dict[str, WeakSet[Holder]] = defaultdict(WeakSet)  # by device: its worker's alone
        self.models: dict[Unloadable, None] = {}  # in use or loaded, the latest used last
        self._engine = engine
        self._may_wait = may_wait
        self._asks: dict[Job[Any], Ask] = {}  # changed under the engine's lock, by the worker's thread
        self._order = Precedence(
            self._asks,
            self.holders,
            self.models,
            budget,
            clock=engine.clock,
            patience_s=patience_s,
            may_wait=may_wait,
        )
        self._buried: deque[list[Page]] = deque()
        self._changes = 0
        self._for_pinned = False  # an asker waits for the end of a step
        budget.on_release = self._released

    @property
    def crowded(self) -> bool:
        """Whether anybody asks, so that even who needs nothing has to ask before its next step."""
        return bool(self._asks)

    async def room(
        self, what: str, need: Callable[[], int], kind: Kind, holder: Holder | None = None
    ) -> Reservation:
        """Hold `need()` bytes, which is asked again after every wait. For jobs; a switch point if it waits.

        Raises MemoryBudgetExceeded if waiting could not help, or for a job that has nothing in memory yet if
        the runtime was opened with `on_full="raise"`. Cancelling leaves nothing behind.
        """
        if not self._asks:
            found = self.budget.try_reserve(need(), what, kind)
            if found is not None:
                return found
        job = current_job()
        ask = Ask(job, what, need, holder, self._engine.clock())
        with self._engine.lock:
            self._asks[job] = ask
        try:
            while True:
                seen = self._changes
                step = self._decide(ask, kind)
                if isinstance(step, Reservation):
                    if holder is not None and self._order.is_favoured(ask):
                        holder.favour()
                    return step
                if isinstance(step, Job):
                    self._pass_on(ask, seen)
                    await _Turn(self, ask, step.entry, seen)
                else:
                    step()
                    await checkpoint()
        finally:
            with self._engine.lock:
                del self._asks[job]
            self.changed()

    # Deciding. Each returns what is to be done; nothing changes here but the budget.

    def _decide(self, ask: Ask, kind: Kind) -> Reservation | Job[Any] | Callable[[], object]:
        """The bytes; or a piece to take from somebody, to be called; or a job to wait for."""
        need, first = ask.need(), self._order.first(ask.job.worker.name)
        assert first is not None
        if first is not ask and not (ask.resident and self._order.short_of(first)[1] > 0):
            if not ask.begun and not self._may_wait:
                raise self.budget.exceeded(need, ask.what)
            return first.job
        beside = self._order.growth(ask)
        found = self.budget.try_reserve(need, ask.what, kind, beside=beside)
        if found is not None:
            return found
        short, short_with_pinned = self._order.short_of(ask)
        if short <= 0:
            return self._piece(ask)
        if short_with_pinned <= 0:
            self._for_pinned = True
            pinned = [h.job for h in self._order.after(ask) if h.pins and h.job is not None]
            return self._order.last(pinned) if pinned else _look_again
        return self._order.blocker(ask, need)

    def _piece(self, ask: Ask) -> Callable[[], object]:
        """What is taken next."""
        for model in self._order.models_of(ask):
            if model.spare_bytes(ask.holder):
                return partial(model.drop_spare, ask.holder)
        holders = [holder for holder in self._order.after(ask) if not holder.pins]
        if holders and holders[0].job is None:
            return partial(self._take, holders[0])
        for model in self._order.models_of(ask):
            if not in_use(model) and model.weight_bytes:
                return partial(self._unload, model)
        return partial(self._take, holders[0]) if holders else _look_again

    def _take(self, holder: Holder) -> None:
        self.parkings += holder.take() > 0

    def _unload(self, model: Unloadable) -> None:
        self.unloads += 1
        model.unload()

    # What others tell.

    def check(self, nbytes: int, what: str) -> None:
        """Raise MemoryBudgetExceeded if `nbytes` could never be held, whatever ends."""
        most = self.budget.budget
        held = self.budget.held()
        if most is not None and nbytes > most - held[Kind.PARKING] - held[Kind.OTHER]:
            raise MemoryBudgetExceeded(
                f"{what} needs {format_bytes(nbytes)}, more than can ever be free of the budget of "
                f"{format_bytes(most)}: ask for less, or give open_runtime(memory=...) more"
            )

    def device_fenced(self, device: Device) -> None:
        """A device has failed: models that nobody uses there give back what it held for them."""
        for model in list(self.models):
            if model.device is device:
                model.forget_lost()
        self.changed()

    def changed(self) -> None:
        """Memory came free, or may be taken now: the first asker looks again. Not from a `__del__`."""
        if self._asks:
            with self._engine.deciding:
                self.stalled()

    def stalled(self) -> None:
        """The same, under the engine's lock: also when a job waits for its reader and may be taken from."""
        self._changes += 1
        self._for_pinned = False
        if self._asks:
            firsts = {
                self._order.first(device) for device in {ask.job.worker.name for ask in self._asks.values()}
            }
            self._wake_locked(lambda ask: ask in firsts or ask.resident)

    def _pass_on(self, ask: Ask, seen: int) -> None:
        """An asker is going to wait. Those behind the first may be able to go on without it. And the first
        has to know: that it has become the first, by having waited long; that this one may be taken from,
        which went on until now.
        """
        first = self._order.first(ask.job.worker.name)
        assert first is not None
        with self._engine.deciding:
            if first is ask:
                ask.seen = seen
                self._wake_locked(lambda other: other.resident)
            else:
                ask.seen = None
                if first.seen != self._changes or not ask.known:
                    self._wake_locked(lambda other: other is first)
        ask.known = True

    def unpinned(self) -> None:
        """A step has ended."""
        if self._for_pinned:
            self.changed()

    def _wake_locked(self, which: Callable[[Ask], bool]) -> None:
        for ask in self._asks.values():
            if ask.waiting and which(ask):
                ask.waiting = False
                self._engine.wake_locked(ask.job)

    def _released(self) -> None:
        """The same from anywhere, the garbage collector included."""
        if self._asks:
            self._engine.host.post(self.changed)

    def bury(self, pages: list[Page]) -> None:
        """The pages of a sequence that was never released, from its `__del__`."""
        self._buried.append(pages)
        self._engine.host.post(self._leave_buried)

    def _leave_buried(self) -> None:
        while self._buried:
            self.pages.leave(reversed(self._buried.popleft()))
        self.changed()

    def usage(self) -> MemoryUse:
        """What is in memory now."""
        held, pages = self.budget.held(), self.pages
        return MemoryUse(
            budget=self.budget.budget,
            held=sum(held.values()),
            weights=held[Kind.WEIGHTS],
            pages=held[Kind.PAGES] - pages.cached,
            cached=pages.cached,
            workspaces=held[Kind.WORKSPACES],
            parking=held[Kind.PARKING],
            other=held[Kind.OTHER],
            shared=pages.shared,
            parked_in_area=self.parking.in_area,
            parked_on_file=self.parking.on_file,
        )

    def close(self) -> None:
        """All jobs have ended."""
        self._leave_buried()
        self.pages.reclaim(2**63)
        self.parking.close()


class _Turn(Trap):
    """Until something has changed and the asker is the first of those who wait."""

    __slots__ = ("_ask", "_residency", "_seen", "on")

    soft = True  # what is waited for can be taken from a job that waits

    def __init__(self, residency: Residency, ask: Ask, on: Entry, seen: int) -> None:
        self._residency, self._ask, self._seen = residency, ask, seen
        self.on: Entry | None = on

    def what(self) -> str:
        return f"memory for {self._ask.what}"

    def arrive(self, job: Job[Any]) -> bool:
        if self._residency._changes != self._seen:
            return True
        assert self.on is not None
        if waits_for(self.on, job.entry):  # what it waits for is taken from it, if need be
            self.on = None
        self._ask.waiting = True
        return False

    def leave(self, job: Job[Any]) -> bool:
        self._ask.waiting = False
        return True

    def let_go(self) -> None:
        self._residency.stalled()


def _look_again() -> None:
    """Something came free, or changed on the host, while deciding."""
