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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.job import Job
from coro_rt.memory.budget import Kind, MemoryBudget, Reservation, format_bytes
from coro_rt.memory.pages import Page, PageStore
from coro_rt.memory.parking import Parking
from coro_rt.memory.usage import MemoryUse
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.qos import QoS
from coro_rt.sync import Lock
from coro_rt.trap import Trap
from coro_rt.traps import checkpoint, current_job

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.engine import Engine

Rank = tuple[int, float, int]
"""Smaller goes first."""

_FIRST = -max(QoS) - 1


class Holder(Protocol):
    """What may be taken from: a sequence. Used in jobs' steps of one worker."""

    job: Job[Any] | None  # that works with it now
    pins: int  # steps under way that use it

    @property
    def begun(self) -> bool:
        """Whether something has been computed with it."""

    @property
    def favoured(self) -> bool:
        """It has waited long for its memory, and may do some work with it before that is taken again."""

    def favour(self) -> None:
        """Make it so."""

    @property
    def takeable(self) -> int:
        """Bytes that `take` would free, call by call."""

    @property
    def next_bytes(self) -> int:
        """Bytes that it will ask for when it grows; 0 if it will not."""

    def take(self) -> int:
        """Give up one piece, and be able to get it back unchanged; bytes freed, 0 if that cannot be."""


class Unloadable(Protocol):
    """A model."""

    device: Device
    jobs: set[Job[Any]]  # that work with it now

    @property
    def kept(self) -> bool:
        """Whether an open conversation needs it loaded."""

    def spare_bytes(self, holder: Holder | None) -> int:
        """What `drop_spare` would free, less what `holder` would then need in its place."""

    def drop_spare(self, holder: Holder | None) -> None:
        """Give back what its jobs could have again at their next step."""

    @property
    def weight_bytes(self) -> int:
        """What `unload` would free; 0 if it is not loaded."""

    def unload(self) -> None:
        """Give the weights' memory back; it can be loaded again."""

    def forget_lost(self) -> None:
        """Its device is fenced: give back what was there, unless a job has yet to find out."""


class Ask:
    """One job's wish for memory."""

    __slots__ = ("holder", "job", "known", "need", "seen", "since", "waiting", "what")

    def __init__(
        self, job: Job[Any], what: str, need: Callable[[], int], holder: Holder | None, since: float
    ) -> None:
        self.job, self.what, self.need, self.holder, self.since = job, what, need, holder, since
        self.waiting = False
        self.seen: int | None = None  # the changes that it knew of when it last decided as the first
        self.known = False  # it has waited: others have counted with what it holds

    @property
    def begun(self) -> bool:
        return self.holder is not None and self.holder.begun

    @property
    def resident(self) -> bool:
        """Whether it has something in memory to go on with."""
        return self.holder is not None and self.holder.takeable > 0


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
        self._patience_s = patience_s
        self._may_wait = may_wait
        self._asks: dict[Job[Any], Ask] = {}  # changed under the engine's lock, by the worker's thread
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
                    if holder is not None and self._is_favoured(ask):
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

    def rank(self, job: Job[Any], *, favoured: bool) -> Rank:
        """Where a job stands among those that want memory."""
        entry = job.entry
        return _FIRST if favoured else -entry.effective_qos, entry.deadline, entry.id

    # Deciding. Each returns what is to be done; nothing changes here but the budget.

    def _decide(self, ask: Ask, kind: Kind) -> Reservation | Job[Any] | Callable[[], object]:
        """The bytes; or a piece to take from somebody, to be called; or a job to wait for."""
        need, first = ask.need(), self._first(ask.job.worker.name)
        assert first is not None
        if first is not ask and not (ask.resident and self._short_of(first)[1] > 0):
            if not ask.begun and not self._may_wait:
                raise self.budget.exceeded(need, ask.what)
            return first.job
        beside = self._growth(ask)
        found = self.budget.try_reserve(need, ask.what, kind, beside=beside)
        if found is not None:
            return found
        short, short_with_pinned = self._short_of(ask)
        if short <= 0:
            return self._piece(ask)
        if short_with_pinned <= 0:
            self._for_pinned = True
            pinned = [h.job for h in self._after(ask) if h.pins and h.job is not None]
            return self._last(pinned) if pinned else _look_again
        return self._blocker(ask, need)

    def _last(self, jobs: Iterable[Job[Any]]) -> Job[Any]:
        """The least urgent."""
        return max(jobs, key=lambda job: self.rank(job, favoured=False))

    def _first(self, device: str) -> Ask | None:
        asks = [ask for ask in list(self._asks.values()) if ask.job.worker.name == device]
        if not asks:
            return None
        return min(asks, key=self._ask_rank)

    def _ask_rank(self, ask: Ask) -> Rank:
        return self.rank(ask.job, favoured=self._is_favoured(ask))

    def _is_favoured(self, ask: Ask) -> bool:
        if ask.holder is not None and ask.holder.favoured:
            return True
        return self._engine.clock() - ask.since > self._patience_s

    def _short_of(self, ask: Ask) -> tuple[int, int]:
        """How many bytes an asker would lack if it took all that it may now; and with what is pinned too."""
        free = self.budget.free
        assert free is not None
        lacking = ask.need() + self._growth(ask) - free - self.budget.spare
        lacking -= sum(model.weight_bytes for model in self._models_of(ask) if not _in_use(model))
        lacking -= sum(model.spare_bytes(ask.holder) for model in self._models_of(ask))
        pinned = 0
        for holder in self._after(ask):
            if holder.pins:
                pinned += holder.takeable
            else:
                lacking -= holder.takeable
        return lacking, lacking - pinned

    def _growth(self, ask: Ask) -> int:
        """What those before an asker will need soon. Only who has something in memory already may take that:
        else what it brings in would be taken from it at once.
        """
        if ask.resident or ask.holder is None:
            return 0
        rank = self._ask_rank(ask)
        return sum(
            holder.next_bytes
            for holder in self.holders[ask.job.worker.name]
            if holder.job is not None
            and self.rank(holder.job, favoured=holder.favoured) < rank
            and not self._stalled(holder)
        )

    def _after(self, ask: Ask) -> Iterator[Holder]:
        """Whom an asker may take from, those to be taken from first coming first."""
        rank = self._ask_rank(ask)
        idle, later, stalled = [], [], []
        for holder in self.holders[ask.job.worker.name]:
            job = holder.job
            if holder is ask.holder or not holder.takeable:
                continue
            if job is None:
                idle.append(holder)
            elif self.rank(job, favoured=holder.favoured) > rank:
                later.append(holder)
            elif self._stalled(holder):
                stalled.append(holder)
        later.sort(key=lambda h: self.rank(h.job, favoured=h.favoured), reverse=True)  # type: ignore[arg-type]
        yield from idle
        yield from later
        yield from stalled

    def _stalled(self, holder: Holder) -> bool:
        """Whether a job that works with a sequence waits for something else than memory: its reader."""
        job = holder.job
        waits = job is not None and job.state is State.WAITING and job not in self._asks
        return waits and not holder.pins

    def _models_of(self, ask: Ask) -> list[Unloadable]:
        return [model for model in list(self.models) if model.device.name == ask.job.worker.name]

    def _piece(self, ask: Ask) -> Callable[[], object]:
        """What is taken next."""
        for model in self._models_of(ask):
            if model.spare_bytes(ask.holder):
                return partial(model.drop_spare, ask.holder)
        holders = [holder for holder in self._after(ask) if not holder.pins]
        if holders and holders[0].job is None:
            return partial(self._take, holders[0])
        for model in self._models_of(ask):
            if not _in_use(model) and model.weight_bytes:
                return partial(self._unload, model)
        return partial(self._take, holders[0]) if holders else _look_again

    def _take(self, holder: Holder) -> None:
        self.parkings += holder.take() > 0

    def _unload(self, model: Unloadable) -> None:
        self.unloads += 1
        model.unload()

    def _blocker(self, ask: Ask, need: int) -> Job[Any]:
        """Whom to wait for if there is not enough to take: the least urgent job that has to end for it."""
        jobs: set[Job[Any]] = set()
        for model in list(self.models):
            jobs |= model.jobs.copy()
        jobs = {job for job in jobs if not _waits_for(job.entry, ask.job.entry)}
        if ask is self._first(ask.job.worker.name):  # what the others hold that ask was counted already
            jobs -= self._asks.keys()
        if not jobs or not (ask.begun or self._may_wait) or need > self._most(ask):
            raise self.budget.exceeded(need, ask.what)
        return self._last(jobs)

    def _most(self, ask: Ask) -> int:
        """What could be free for an asker if all other jobs ended."""
        assert self.budget.budget is not None
        held = self.budget.held()
        kept = sum(m.weight_bytes for m in list(self.models) if m.kept or ask.job in m.jobs)
        return self.budget.budget - held[Kind.PARKING] - held[Kind.OTHER] - kept

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
            with self._engine.deciding():
                self.stalled()

    def stalled(self) -> None:
        """The same, under the engine's lock: also when a job waits for its reader and may be taken from."""
        self._changes += 1
        self._for_pinned = False
        if self._asks:
            firsts = {self._first(device) for device in {ask.job.worker.name for ask in self._asks.values()}}
            self._wake_locked(lambda ask: ask in firsts or ask.resident)

    def _pass_on(self, ask: Ask, seen: int) -> None:
        """An asker is going to wait. Those behind the first may be able to go on without it. And the first
        has to know: that it has become the first, by having waited long; that this one may be taken from,
        which went on until now.
        """
        first = self._first(ask.job.worker.name)
        assert first is not None
        with self._engine.deciding():
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
        if _waits_for(self.on, job.entry):  # what it waits for is taken from it, if need be
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


def _waits_for(entry: Entry | None, on: Entry) -> bool:
    """Whether `entry` is `on`, or waits for it, perhaps through others."""
    while entry is not None:
        if entry is on:
            return True
        entry = entry.waits_on
    return False


def _in_use(model: Unloadable) -> bool:
    return model.kept or bool(model.jobs)
