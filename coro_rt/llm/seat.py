"""A seat: where a generation is, the model that it works with and its sequence there.

One idea: everything that a generation needs again after it went elsewhere is its text. So going elsewhere is
to sit down there and read the text anew, and whoever lost its device does the same; between a GPU and the
CPU, what has been read is handed over. What is drawn depends on seed and position, so the text goes on as it
would have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from coro_rt.errors import DeviceLost, MemoryBudgetExceeded, ModelError
from coro_rt.kernels.formats import Floats
from coro_rt.schedulers.pace import CHUNK
from coro_rt.traps import current_job

from .chooser import Wanted
from .places import Places, Route, go_to
from .sequence import Sequence
from .step import Advance, Part, advance

if TYPE_CHECKING:
    from .decoder import Model

logger = logging.getLogger("coro_rt")


class Lender:
    """Who owns the sequences that a generation works in. From this one it gets new ones, for itself alone."""

    @contextmanager
    def turn(self, answer: list[str]) -> Iterator[None]:
        """Around a generation, which puts the pieces of its text into `answer`."""
        yield

    def lend(self, model: Model, *, reuse: bool) -> Sequence:
        """A sequence of this model. `reuse`: see `Model.new_sequence`."""
        return model.new_sequence(reuse=reuse)

    def settle(self, sequence: Sequence) -> None:
        """One that it lent holds the text now, and others do no longer."""

    def take_back(self, sequence: Sequence) -> None:
        """The generation works with it no more."""
        sequence.release()


@dataclass(slots=True)
class _Place:
    """A model in use, and a sequence there in use; `left` when its stack is closed."""

    name: str
    model: Model
    sequence: Sequence
    kept: int  # tokens that it held from the beginning
    stack: AsyncExitStack

    async def leave(self) -> None:
        await self.stack.aclose()


class Seat:
    """`async with Seat(...) as seat:` in a job. `limit`: tokens that the text may come to have.

    `reused`: how many tokens of the prompt were in memory. With `logits` there is a row of them after each
    `advance`.
    """

    def __init__(self, places: Places, route: Route, lender: Lender, limit: int, *, logits: bool) -> None:
        self.reused = 0
        self._places, self._route, self._lender = places, route, lender
        self._limit, self._wants_logits = limit, logits
        self._name = route.decode  # where it is, or goes
        self._place: _Place | None = None
        self._gone: set[str] = set()  # devices that it has lost
        self._refused: set[str] = set()  # these, and where there was no room for it
        self._fled: DeviceLost | None = None  # until it has read its text elsewhere
        self._begun = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    @property
    def logits(self) -> Floats:
        """float32 [vocabulary]: after the text, until the next `advance`."""
        assert self._place is not None
        return self._place.sequence.logits

    async def begin(self, text: list[int], to_write: int) -> None:
        """Have a place, with memory for all of `text`, which `advance` can begin with. Raises
        MemoryBudgetExceeded, DeviceLost if there is none.
        """
        while self._place is None:
            try:
                self._place = await self._sit(self._name, text)
            except DeviceLost as lost:
                await self._flee(lost, text, to_write)
            except MemoryBudgetExceeded as error:
                if self._fled is None:
                    raise
                try:
                    await self._flee(self._fled, text, to_write)  # there is no room here either
                except DeviceLost as nowhere:
                    raise nowhere from error
        if not self._begun:
            self.reused = self._place.kept

    async def advance(self, text: list[int], to_write: int) -> Advance:
        """Compute what is not computed yet of `text`, and what follows it; `to_write` tokens at most are to
        be written.

        Here, or where the chooser says; if the device is lost, elsewhere, from the beginning of the text.
        """
        found = await self._reconsider(text, to_write)
        while found is None:
            await self.begin(text, to_write)
            assert self._place is not None
            try:
                found = await self._put(self._place, text, to_write)
            except DeviceLost as lost:
                await self._flee(lost, text, to_write)
        if not self._begun or self._fled is not None:
            self._settle()
        return found

    async def distrust(self, error: ModelError, text: list[int], to_write: int) -> None:
        """What was computed last is not numbers. On a CPU that is the model's fault, and `error` is raised;
        elsewhere it may be the device's, so this text goes on without it, and shows.
        """
        assert self._place is not None
        device = self._place.model.device
        if device.kind == "cpu":
            raise error
        await self._flee(DeviceLost(device.name, "nan", str(error)), text, to_write, for_others=False)

    # Where.

    async def _reconsider(self, text: list[int], to_write: int) -> Advance | None:
        """Before a step: if it pays to be elsewhere, and that can be, what the step gave there."""
        here = self._place
        if here is None or self._route.pinned or not self._begun or not self._places.may_move:
            return None
        wanted = Wanted(len(text), len(text) - len(here.sequence.tokens), to_write)
        aim = self._places.next(self._name, wanted, self._refused)
        if aim == self._name:
            return None
        return await self._try(here, aim, text, to_write)

    async def _try(self, here: _Place, aim: str, text: list[int], to_write: int) -> Advance | None:
        """Go on elsewhere; None: that could not be, and everything is as before."""
        try:
            if not self._places.fits(aim, len(text) + 1):
                raise MemoryBudgetExceeded(f"there is no room for {len(text)} tokens at {aim!r}")
            with here.sequence.set_aside():
                hands_over = {here.model.device.kind, self._places.model(aim).device.kind} == {"cpu", "gpu"}
                there = await self._sit(aim, text, reuse=not hands_over)
                try:
                    if hands_over:
                        await self._hand_over(here, there)
                    found = await self._put(there, text, to_write)
                except BaseException as error:
                    if isinstance(error, DeviceLost) and error.device == aim:
                        self._places.drop(there.model, error)
                    await there.leave()
                    raise
                self._name, self._place = aim, there
                self._settle()
                await here.leave()
        except (MemoryBudgetExceeded, DeviceLost) as error:
            logger.debug("%s stays on %r: %s", current_job().name, here.name, error)
            self._refused.add(aim)
            if isinstance(error, DeviceLost):
                self._gone.add(error.device)
            await self._return(here, text, to_write)
            return None
        return found

    async def _hand_over(self, here: _Place, there: _Place) -> None:
        """To where it sits down, from where it was: what has been computed. (What is shared has to be the
        same to the bit, so nothing is handed over to a sequence that shares.)"""
        from .gpu_reader import hand_over  # here: it needs an extra

        if there.sequence.shares:
            return
        with there.sequence.pinned():
            seconds = await hand_over(here.sequence, there.sequence)
        gpu = here if here.model.device.kind == "gpu" else there
        self._places.handed(gpu.name, len(there.sequence.tokens), seconds)

    async def _return(self, here: _Place, text: list[int], to_write: int) -> None:
        """Back to where it was; if that is lost by now, elsewhere."""
        try:
            await go_to(here.name)
        except DeviceLost as lost:
            await self._flee(lost, text, to_write)

    async def _flee(
        self, lost: DeviceLost, text: list[int], to_write: int, *, for_others: bool = True
    ) -> None:
        """The device is lost, for others too, or the one that it was to go to: be nowhere, bound for
        elsewhere. Raises DeviceLost if there is no such place.
        """
        self._gone |= {lost.device, self._name}
        self._refused |= self._gone
        self._fled = lost
        place, nowhere = self._place, None
        try:
            if self._route.pinned:
                detail = "and it was named as the one to run on (without device=, texts go on elsewhere)"
                raise DeviceLost(lost.device, lost.reason, detail) from lost
            wanted = Wanted(len(text), len(text), to_write)
            self._name = self._places.elsewhere(lost, wanted, self._gone)
        except DeviceLost as error:
            nowhere = error
        # with nowhere to go, what outlives the failure is kept for when the device is back
        if place is not None and for_others and not (nowhere and place.model.device.remembers):
            self._places.drop(place.model, lost)
        await self._leave()
        if nowhere is not None:
            raise nowhere
        logger.info("%s goes on at %r: %s", current_job().name, self._name, lost)

    async def _sit(self, name: str, text: list[int], *, reuse: bool = True) -> _Place:
        """Go there, and have the model loaded and a sequence with room for the text. Raises DeviceLost,
        MemoryBudgetExceeded. `reuse`: see `Model.new_sequence`."""
        await go_to(name)
        model = self._places.model(name)
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(model.in_use())
                sequence = self._lender.lend(model, reuse=reuse and self._route.prefill is None)
                stack.callback(self._lender.take_back, sequence)
                stack.enter_context(sequence.used_by(current_job()))
                kept = await sequence.begin(text, self._limit)
                # all pages at once: else prompts that are read in turns might each come half-way
                rows = min(len(text) - kept, CHUNK)
                await sequence.make_room(len(text), rows=rows, logits=self._wants_logits)
                return _Place(name, model, sequence, kept, stack.pop_all())
        except DeviceLost as lost:
            self._places.drop(model, lost)
            raise

    def _settle(self) -> None:
        """The text is computed where it is now."""
        assert self._place is not None
        self._begun, self._fled = True, None
        self._lender.settle(self._place.sequence)

    async def _leave(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            await place.leave()

    # Computing.

    async def _put(self, place: _Place, text: list[int], to_write: int) -> Advance:
        """Put what is missing of a text behind what the sequence holds, in as many steps as it takes. What
        follows the last token is in the result, and in `logits` if these are wanted.
        """
        model, sequence, logits = place.model, place.sequence, self._wants_logits
        if self._route.prefill is not None:
            await self._have_read(place, self._route.prefill, text, to_write)
        behind, seconds = len(sequence.tokens), 0.0
        while True:
            start = len(sequence.tokens)
            chunk, left = text[start : start + CHUNK], len(text) - start
            current_job().predict(model.pace.left_s(left if left > 1 else 0, to_write))
            length = start + len(chunk)
            await sequence.make_room(length, rows=len(chunk), logits=logits)
            row = sequence.logits if logits else None
            more = 0 if logits else min(to_write - 1, model.context - length)
            with sequence.pinned():
                done = await advance(Part(model, sequence, chunk, left == len(chunk), row, more))
            sequence.extend(chunk[: done.taken])
            seconds += done.seconds
            if done.taken == left:
                self._places.took(place.name, len(text), behind, seconds, len(done.chosen))
                sequence.extend([token for token, _ in done.chosen[:-1]])
                return done

    async def _have_read(self, place: _Place, name: str, text: list[int], to_write: int) -> None:
        """Have all read elsewhere but the last token, whose logits are needed; what is not read there is
        left. (What is shared has to be the same to the bit, so nothing is read there for a sequence that
        shares.)
        """
        sequence = place.sequence
        missing = text[len(sequence.tokens) : -1]
        if not missing or place.model.device.kind != "cpu" or sequence.shares:
            return
        reader = await self._places.reader(name)
        if reader is None:
            return
        # it may have been parked meanwhile
        await sequence.make_room(len(text), rows=min(len(missing), CHUNK), logits=self._wants_logits)
        behind = len(sequence.tokens)
        with sequence.pinned():
            times = await reader.read(sequence, missing, place.model.pace.left_s(0, to_write))
        self._places.took(name, len(sequence.tokens), behind, times.read_s, 0)
        self._places.handed(name, len(sequence.tokens), times.handed_s)
