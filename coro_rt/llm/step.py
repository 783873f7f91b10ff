"""A step of a model: the rows of one sequence or of several, in one launch.

Each job that generates launches `advance` with what its own sequence brings. The scheduler decides which of
those launches run as one; a `ModelStep` puts their rows into one workspace, runs the program, and gives each
its own result. A row's results do not depend on its company, so neither does a text.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.kernel import BatchKernel, BatchLaunch, Joint, Kernel
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.gang import Outcome
from coro_rt.kernels.operations import EncoderSteps, Steps
from coro_rt.kernels.workspace import LONGEST_BURST
from coro_rt.schedulers.batch import Batch

from .sequence import Sequence

if TYPE_CHECKING:
    from .decoder import Model

PLANNED = 0.8
"""The part of a slice that a burst is planned for: one that takes a little longer than its slice comes back,
and waits for the GIL, twice."""

step: Kernel[[Any, Steps | EncoderSteps], None] = Kernel("llm.step")
"""One step in a workspace of the job's own: a program and a workspace, both of the device's kind."""


@step.on("cpu")
def _step_on_cpu(device: Any, launch: Any, slice_s: float) -> bool:
    program, workspace = launch.args
    return _run(device, program, workspace, slice_s)


def _run(device: Any, program: Any, workspace: Any, slice_s: float) -> bool:
    end_ns = time.monotonic_ns() + int(slice_s * 1e9)
    return device.gang.run(program, workspace, end_ns=end_ns) is Outcome.DONE


@dataclass(slots=True)
class Part:
    """What a sequence brings to a step: tokens to be put behind those that it holds.

    `wanted`: what follows the last of them is to be chosen. `logits` is then filled, if given. `more`: how
    many further tokens may be chosen, each the most probable one after those before it.
    """

    model: Model
    sequence: Sequence
    tokens: list[int]
    wanted: bool
    logits: Floats | None = None
    more: int = 0


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step did with a part: put the first `taken` tokens, perhaps none.

    If these are all, and it was wanted: the most probable next token with the logarithm of its probability,
    and then perhaps more of them, all but the last of which were put behind the sequence's, too. Any other
    first token's logarithm is its logit less `log_sum`. `seconds`: what all of it took; NaN if others had a
    part in it.
    """

    taken: int
    chosen: list[tuple[int, float]] = field(default_factory=list)
    log_sum: np.float32 | float = math.nan
    seconds: float = math.nan


def _batch(part: Part) -> tuple[Batch, int]:
    return part.model.pace, len(part.tokens)


advance: BatchKernel[[Part], Advance] = BatchKernel("llm.advance", _batch)
"""Await it in a job that works with the sequence. Its pages must have room for the tokens."""


@dataclass(slots=True)
class _Place:
    """Where the rows of a part are in the workspace: `taken` of them, of which `ends` (1 or 0) has logits."""

    part: Part
    taken: int
    ends: int
    body: int = 0  # the first of the others
    end: int = 0

    def rows(self) -> list[int]:
        body = list(range(self.body, self.body + self.taken - self.ends))
        return [*body, self.end] if self.ends else body


@advance.jointly("cpu")
class ModelStep(Joint):
    """Members' rows lie behind each other, and behind all of them the last ones, whose logits are wanted."""

    bursts = True  # several steps may follow each other, see `kernels.units`

    def __init__(self, launches: list[BatchLaunch[Any]]) -> None:
        super().__init__(launches)
        self._model: Model = launches[0].args[0].model
        self._workspace: Steps | None = None
        self._places: dict[BatchLaunch[Any], _Place] = {}  # once begun; who takes no row has none
        self._begun = False
        self._first_end = 0  # the first row with logits
        self._spent_s = 0.0
        self._burst_s = 0.0  # how long it is expected to take, if it is a burst

    def run(self, device: Any, slice_s: float) -> bool:
        self._model.check_lost()
        if not self._begun:
            self._begin(slice_s)
        elif slice_s < self._burst_s and self._workspace is not None:
            cast(Any, self._workspace).end_burst()  # somebody waits: perhaps to ride in the next step
        if self._places:
            assert self._workspace is not None
            began = time.perf_counter()
            done = self.go(device, self._model.program, self._workspace, slice_s)
            self._spent_s += time.perf_counter() - began
            if not done:
                return False
        self._finish(device)
        return True

    def go(self, device: Any, program: Any, workspace: Any, slice_s: float) -> bool:
        """Run the program, or go on with it; other kinds of device have their own way."""
        done = _run(device, program, workspace, slice_s)
        if done:
            self._model.turnaround.returned(workspace.done_ns)
        return done

    def left(self, launch: BatchLaunch[Any]) -> None:
        place = self._places.pop(launch, None)
        if place is None:
            return
        if not self._places or self._model.lost is not None:  # nobody is left, or nothing to leave
            return
        try:
            nowhere = self._model.workspaces.nowhere()
        except MemoryBudgetExceeded:
            self._begun = False  # the others start again without it
            return
        assert self._workspace is not None
        self._workspace.redirect(place.rows(), nowhere)

    def close(self) -> None:
        self._places.clear()
        if self._workspace is not None:
            self._model.workspaces.give_back(self._workspace)
            self._workspace = None

    def _begin(self, slice_s: float) -> None:
        """Give the members places in a workspace; if memory is short, in a smaller one, and not to all."""
        wanted = [(launch, min(launch.granted, launch.args[0].sequence.room)) for launch in self.members]
        if self._workspace is None:
            rows = max(1, sum(rows for _, rows in wanted))
            self._workspace = self._model.workspaces.lend(rows, len(wanted))
        rows, tail = self._workspace.rows, self._workspace.tail
        self._places.clear()
        for launch, taken in wanted:
            part: Part = launch.args[0]
            taken = min(taken, rows)
            ends = int(part.wanted and taken == len(part.tokens))
            if ends > tail:
                taken, ends = taken - 1, 0
            if taken > 0:
                self._places[launch] = _Place(part, taken, ends)
                rows, tail = rows - taken, tail - ends
        if self._places:
            self._fill(self._workspace, self._burst(slice_s))
        self._begun = True

    def _burst(self, slice_s: float) -> int:
        """How many steps are to follow each other. More than one only if each part is one token, and its best
        is to be the next."""
        places = self._places.values()
        more = min(min(place.part.more, place.part.sequence.room - 1) for place in places)
        self._burst_s = 0.0
        if not self.bursts or more <= 0 or not all(place.ends and place.taken == 1 for place in places):
            return 1
        step_s = self._model.pace.seconds(len(places))
        steps = min(more + 1, LONGEST_BURST, self._model.turnaround.steps(step_s, PLANNED * slice_s))
        if steps > 1:
            self._burst_s = step_s * steps
        return steps

    def _fill(self, workspace: Any, burst: int) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        tables: list[NDArray[np.int64]] = []

        def add(place: _Place, first: int, last: int) -> int:
            at, sequence = len(tokens), place.part.sequence
            start = len(sequence.tokens)
            tokens.extend(place.part.tokens[first:last])
            positions.extend(range(start + first, start + last))
            tables.extend([sequence.table] * (last - first))
            return at

        places = self._places.values()
        for place in places:
            place.body = add(place, 0, place.taken - place.ends)
        self._first_end = len(tokens)
        for place in places:
            place.end = add(place, place.taken - place.ends, place.taken)
        more = {"burst": burst, "ends": self._model.ends} if burst > 1 else {}
        workspace.begin(tokens, positions, tables, tail=len(tokens) - self._first_end, **more)

    def _finish(self, device: Any) -> None:
        """Give every member its result. Raises DeviceLost if they are not numbers by the device's fault."""
        alone_s = self._spent_s if len(self._places) == 1 else math.nan
        for launch in self.members:
            place = self._places.get(launch)
            launch.result = _NOTHING if place is None else Advance(place.taken, seconds=alone_s)
        if not self._places:
            return
        assert self._workspace is not None
        workspace: Any = self._workspace
        rows = sum(place.taken for place in self._places.values())
        steps = workspace.burst_steps if self._burst_s else 0
        self.took = rows, self._spent_s / max(steps, 1)
        ending = [(launch, place) for launch, place in self._places.items() if place.ends]
        if not ending:
            return
        best, log_sums = workspace.summaries
        numbers: list[float] = []
        for launch, place in ending:
            at = place.end - self._first_end
            token = int(best[at])
            chosen = workspace.made(at) if steps else [(token, workspace.logprob(at, token))]
            launch.result = Advance(place.taken, chosen, log_sums[at], alone_s)
            numbers += (logprob for _, logprob in chosen)
            if place.part.logits is not None:
                place.part.logits[:] = workspace.logits[at]
        device.check_numbers(numbers)


_NOTHING = Advance(0)
