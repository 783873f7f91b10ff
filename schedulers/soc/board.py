"""A chip as the simulator sees it: devices that take tokens, and what is known about them beforehand.

Launches are rows of a model's step, and the chip says what they take, so a `Batch` here is a model on a
processor. Placement is told at the beginning what it would have measured of each processor alone and of two
that write at the same time; from there on it decides as in a real runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from coro_rt.schedulers.batch import KnownCosts
from coro_rt.schedulers.choice import Work
from coro_rt.schedulers.pace import CHUNK
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.profile import KNOWN
from coro_rt.schedulers.soc.chip import Chip, Processor
from coro_rt.schedulers.soc.language_model import LanguageModel, Load
from coro_rt.schedulers.soc.roofline import joules, seconds
from coro_rt.schedulers.soc.silicon import Silicon

ROWS = 160  # of a launch at most, as in the runtime: a chunk of a prompt, and some company
BEHIND = 512  # positions that are behind a row where nobody knows: for what is expected, not for what happens

_SIZES = (16, 64, 256, 1024, 4096)  # tokens of prompts that placement is told about
_TOLD = 20  # times that it is told about company, of which it believes a little at a time


class ModelOn(KnownCosts):
    """A batch: a model on a processor, and what its launches should take there, alone at full speed."""

    def __init__(self, model: LanguageModel, processor: Processor, members: int) -> None:
        costs = (seconds(processor, model.step([(rows, BEHIND)])) for rows in range(1, ROWS + 1))
        super().__init__(tuple(costs), members)


class Board:
    """The processors `on` of a chip, with models. `battery`: how full its battery is at the beginning.

    Raises SchedulerError for processors that the chip has not, and formats that one of them has no rate for.
    """

    def __init__(
        self,
        chip: Chip,
        models: Sequence[LanguageModel],
        *,
        on: Iterable[str] = (),
        members: int,
        battery: float = 1.0,
    ) -> None:
        self.names = tuple(on) or chip.names
        self.processors = {name: chip.processor(name) for name in self.names}
        self.models = models
        self.silicon = Silicon(chip)
        self._battery = battery
        self._booked_j = dict.fromkeys(self.names, 0.0)
        self._batches = {
            (number, name): ModelOn(model, processor, members)
            for number, model in enumerate(models)
            for name, processor in self.processors.items()
        }

    def batch(self, model: int, name: str) -> ModelOn:
        """Model number `model` on a processor."""
        return self._batches[model, name]

    def load(self, model: int, rows: Iterable[tuple[int, int]]) -> Load:
        """A launch of so many rows behind so many positions, for each of its members."""
        return self.models[model].step(rows)

    def running(self, name: str, seconds: float) -> Load:
        """Work given in seconds: arithmetic that takes so long at full speed."""
        format, rate = next(iter(self.processors[name].operations.items()))
        return Load(rate * seconds, 0.0, format, 0.0)

    def alone_s(self, name: str, load: Load) -> float:
        """What a load takes on a processor, alone at full speed."""
        return seconds(self.processors[name], load)

    def work(self, model: int, tokens: int, most: int, behind: int) -> Work:
        """So many tokens in launches of at most `most`, as placement sees them: read, or written."""
        named = self.models[model]
        if most > 1:
            return Work(f"read {named.name} {named.format}", behind + tokens, behind)
        return Work(f"write {named.name} {named.format}", 1.0, times=tokens)

    def placement(self) -> Placement:
        """One that knows the processors, and need not try them out again: what it knows does not age."""
        placement = Placement()
        for number, model in enumerate(self.models):
            for name, processor in self.processors.items():
                for size in _SIZES:
                    load = _prompt(model, size)
                    self._tell(placement, self.work(number, size, CHUNK, 0), processor, load)
                load = model.step([(1, BEHIND)])
                work = self.work(number, 1, 1, BEHIND)
                alone_s = self._tell(placement, work, processor, load)
                half = min(processor.bandwidth, self.silicon.chip.memory.bandwidth / 2)
                beside_s = seconds(processor, load, bandwidth=half)
                for _ in range(_TOLD if beside_s > alone_s else 0):
                    placement.ran(work, name, beside_s, inf, beside=1)
        return placement

    def booked_j(self, name: str) -> float:
        """What the work on a processor has taken since this was last asked."""
        drawn_j = self.silicon.drawn_j(name)
        since_j = drawn_j - self._booked_j[name]
        self._booked_j[name] = drawn_j
        return since_j

    @property
    def power(self) -> PowerState:
        """What the machine runs on, to a hundredth of its battery."""
        thermal = self.silicon.thermal
        holds_j = self.silicon.chip.battery_j
        if holds_j is None:
            return PowerState(thermal=thermal)
        battery = max(0.0, round(self._battery - self.silicon.joules / holds_j, 2))
        return PowerState(battery=battery, charging=False, thermal=thermal)

    def _tell(self, placement: Placement, work: Work, processor: Processor, load: Load) -> float:
        alone_s = seconds(processor, load)
        alone_j = joules(self.silicon.chip, processor, load, processor.states[0])
        for _ in range(KNOWN):
            placement.ran(work, processor.name, alone_s, inf, alone_j)
        return alone_s


def _prompt(model: LanguageModel, tokens: int) -> Load:
    """A whole prompt, chunk by chunk."""
    loads = [model.step([(min(CHUNK, tokens - behind), behind)]) for behind in range(0, tokens, CHUNK)]
    return Load(
        sum(load.operations for load in loads),
        sum(load.bytes for load in loads),
        model.format,
        len(loads),
    )
