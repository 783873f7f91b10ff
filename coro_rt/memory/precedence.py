"""Precedence: who goes first of those that want memory, what each may take, and for whom it has to wait.

Nothing changes here. `Residency` says what the order is and why nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

from coro_rt.job import Job
from coro_rt.memory.budget import Kind, MemoryBudget
from coro_rt.memory.holders import Holder, Unloadable
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.qos import QoS

Rank = tuple[int, float, int]
"""Smaller goes first."""

_FIRST = -max(QoS) - 1


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


class Precedence:
    """The order of a runtime's `asks`, with what they may take: from its `holders`, by device, and `models`.

    All are the residency's own, as they are. An asker takes from what is on its own device, whose worker's
    thread it runs in.
    """

    def __init__(
        self,
        asks: Mapping[Job[Any], Ask],
        holders: Mapping[str, WeakSet[Holder]],
        models: Mapping[Unloadable, None],
        budget: MemoryBudget,
        *,
        clock: Callable[[], float],
        patience_s: float,
        may_wait: bool,
    ) -> None:
        self._asks, self._holders, self._models, self._budget = asks, holders, models, budget
        self._clock, self._patience_s, self._may_wait = clock, patience_s, may_wait

    def rank(self, job: Job[Any], *, favoured: bool) -> Rank:
        """Where a job stands among those that want memory."""
        entry = job.entry
        return _FIRST if favoured else -entry.effective_qos, entry.deadline, entry.id

    def last(self, jobs: Iterable[Job[Any]]) -> Job[Any]:
        """The least urgent."""
        return max(jobs, key=lambda job: self.rank(job, favoured=False))

    def first(self, device: str) -> Ask | None:
        """Who goes before all others that ask on a device; None: nobody asks."""
        asks = [ask for ask in list(self._asks.values()) if ask.job.worker.name == device]
        if not asks:
            return None
        return min(asks, key=self._ask_rank)

    def _ask_rank(self, ask: Ask) -> Rank:
        return self.rank(ask.job, favoured=self.is_favoured(ask))

    def is_favoured(self, ask: Ask) -> bool:
        """Whether it goes before all others because it has asked, or works, for long."""
        if ask.holder is not None and ask.holder.favoured:
            return True
        return self._clock() - ask.since > self._patience_s

    def short_of(self, ask: Ask) -> tuple[int, int]:
        """How many bytes an asker would lack if it took all that it may now; and with what is pinned too."""
        free = self._budget.free
        assert free is not None
        lacking = ask.need() + self.growth(ask) - free - self._budget.spare
        lacking -= sum(model.weight_bytes for model in self.models_of(ask) if not in_use(model))
        lacking -= sum(model.spare_bytes(ask.holder) for model in self.models_of(ask))
        pinned = 0
        for holder in self.after(ask):
            if holder.pins:
                pinned += holder.takeable
            else:
                lacking -= holder.takeable
        return lacking, lacking - pinned

    def growth(self, ask: Ask) -> int:
        """What those before an asker will need soon. Only who has something in memory already may take that:
        else what it brings in would be taken from it at once.
        """
        if ask.resident or ask.holder is None:
            return 0
        rank = self._ask_rank(ask)
        return sum(
            holder.next_bytes
            for holder in self._holders[ask.job.worker.name]
            if holder.job is not None
            and self.rank(holder.job, favoured=holder.favoured) < rank
            and not self.stalled(holder)
        )

    def after(self, ask: Ask) -> Iterator[Holder]:
        """Whom an asker may take from, those to be taken from first coming first."""
        rank = self._ask_rank(ask)
        idle, later, stalled = [], [], []
        for holder in self._holders[ask.job.worker.name]:
            job = holder.job
            if holder is ask.holder or not holder.takeable:
                continue
            if job is None:
                idle.append(holder)
            elif self.rank(job, favoured=holder.favoured) > rank:
                later.append(holder)
            elif self.stalled(holder):
                stalled.append(holder)
        later.sort(key=lambda h: self.rank(h.job, favoured=h.favoured), reverse=True)  # type: ignore[arg-type]
        yield from idle
        yield from later
        yield from stalled

    def stalled(self, holder: Holder) -> bool:
        """Whether a job that works with a sequence waits for something else than memory: its reader."""
        job = holder.job
        waits = job is not None and job.state is State.WAITING and job not in self._asks
        return waits and not holder.pins

    def models_of(self, ask: Ask) -> list[Unloadable]:
        """Those on its device, the latest used last."""
        return [model for model in list(self._models) if model.device.name == ask.job.worker.name]

    def blocker(self, ask: Ask, need: int) -> Job[Any]:
        """Whom to wait for if there is not enough to take: the least urgent job that has to end for it.

        Raises MemoryBudgetExceeded if there is nobody, or the asker is not to wait.
        """
        jobs: set[Job[Any]] = set()
        for model in list(self._models):
            jobs |= model.jobs.copy()
        jobs = {job for job in jobs if not waits_for(job.entry, ask.job.entry)}
        if ask is self.first(ask.job.worker.name):  # what the others hold that ask was counted already
            jobs -= self._asks.keys()
        if not jobs or not (ask.begun or self._may_wait) or need > self._most(ask):
            raise self._budget.exceeded(need, ask.what)
        return self.last(jobs)

    def _most(self, ask: Ask) -> int:
        """What could be free for an asker if all other jobs ended."""
        assert self._budget.budget is not None
        held = self._budget.held()
        kept = sum(m.weight_bytes for m in list(self._models) if m.kept or ask.job in m.jobs)
        return self._budget.budget - held[Kind.PARKING] - held[Kind.OTHER] - kept


def waits_for(entry: Entry | None, on: Entry) -> bool:
    """Whether `entry` is `on`, or waits for it, perhaps through others."""
    while entry is not None:
        if entry is on:
            return True
        entry = entry.waits_on
    return False


def in_use(model: Unloadable) -> bool:
    """Whether a job or an open conversation needs a model loaded."""
    return model.kept or bool(model.jobs)
