"""Where generations go, by what was measured: a model's two kinds of work, and the chooser that places them.

Reading is a whole prompt: its size is tokens, and those that each looks back at, by what these cost.
Writing is one token: its size is the bytes that it reads, the weights and the keys and values before it. So
both grow about in proportion to their size, and what a device took for one size says something about others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from coro_rt.job import Job
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.qos import current_urgency
from coro_rt.schedulers.choice import Choice, Work
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.qos import QoS
from coro_rt.trap import local

from .architecture import Hyperparameters
from .chooser import Chooser, Place, Wanted
from .gguf_file import GGUFFile

if TYPE_CHECKING:
    from coro_rt.engine import Engine

    from .decoder import Model

LOOK_S = 0.25  # between two looks of a generation whether it should go elsewhere
_LOADED_BYTES_S = 2e8  # of weights, into a device that does not have them: a cautious guess, not measured
_HANDED_MB_S = 500.0  # of keys and values, between a GPU and a CPU: another, until it has been measured


class Amounts:
    """What reading and writing are to placement, for the model of a file. `nbytes` are its weights."""

    def __init__(self, file: GGUFFile, sizes: Hyperparameters, nbytes: int) -> None:
        about = [(name, tensor.shape, int(tensor.type)) for name, tensor in file.tensors.items()]
        digest = hashlib.sha256(repr((sorted(about), sizes.kv_bits)).encode()).hexdigest()
        self._name = f"{file.path.stem} {digest[:16]}"
        self.nbytes = nbytes
        self._position_bytes = sizes.kv.page_bytes / PAGE_POSITIONS
        products = sum(rows * columns for _, (rows, columns), _ in (one for one in about if len(one[1]) == 2))
        # so many positions to look back at cost as much as a token's products
        self._positions = products / (2.0 * sizes.layers * sizes.heads * sizes.head_size)

    def reading(self, text: int, behind: int = 0, *, transfer: Mapping[str, float] | None = None) -> Work:
        """A text of so many tokens, without those that are there already."""
        return Work(f"read {self._name}", self._read(text), self._read(behind), transfer=transfer or {})

    def writing(self, text: int, tokens: int, *, transfer: Mapping[str, float] | None = None) -> Work:
        """So many tokens behind a text."""
        middle = text + tokens / 2
        size = (self.nbytes + middle * self._position_bytes) / 1e6
        return Work(f"write {self._name}", size, times=tokens, transfer=transfer or {})

    def handing(self, tokens: int) -> Work:
        """Keys and values of so many tokens, between a GPU and a CPU."""
        return Work(f"hand over {self._name}", tokens * self._position_bytes / 1e6)

    def _read(self, tokens: int) -> float:
        return tokens * (1.0 + tokens / (2.0 * self._positions))


class Measured(Chooser):
    """Generations go where placement expects them to be done first, and move when that pays.

    Who reads a prompt, a place itself or an NPU or a GPU for it, is chosen for each place first.
    """

    def __init__(self, engine: Engine, amounts: Amounts) -> None:
        self._engine = engine
        self._amounts = amounts
        self._looks: WeakKeyDictionary[Job[Any], tuple[float, float]] = WeakKeyDictionary()  # last, moved

    @classmethod
    def of(cls, engine: Engine, model: Model) -> Measured:
        """For all places of a model."""
        nbytes = model.nbytes_of(model.file, model.sizes, model.context)
        return cls(engine, Amounts(model.file, model.sizes, nbytes))

    def begin(
        self, wanted: Wanted, places: Sequence[Place], readers: Sequence[str]
    ) -> tuple[str, str | None]:
        if len(places) == 1 and not (readers and places[0].kind == "cpu"):
            return places[0].name, None
        urgency = self._urgency()
        to_gpus = {
            place.name: self._handing_s(place.name, wanted.text) + self._loading_s(place)
            for place in places
            if place.kind == "gpu"
        }
        reading = self._amounts.reading(wanted.text, wanted.text - wanted.read, transfer=to_gpus)
        transfer: dict[str, float] = {}
        reader: dict[str, str] = {}
        for place in places:
            among = (place.name, *readers) if place.kind == "cpu" else (place.name,)
            chosen = self._place(reading, among, urgency)
            own = chosen.device == place.name
            reader[place.name] = chosen.device
            transfer[place.name] = self._loading_s(place) + (chosen.option.run_s if own else chosen.finish_s)
        writing = self._amounts.writing(wanted.text, wanted.write, transfer=transfer)
        name = self._place(writing, transfer, urgency).device
        return name, None if reader[name] == name else reader[name]

    def next(self, here: str, wanted: Wanted, places: Sequence[Place]) -> str:
        job = _current()
        now = self._engine.clock()
        if job is None:
            return here
        looked_at, moved_at = self._looks.get(job, (-inf, -inf))
        if now - looked_at < LOOK_S:
            return here
        self._looks[job] = now, moved_at
        reading = self._amounts.reading(wanted.text)
        kinds = {place.name: place.kind for place in places}
        transfer: dict[str, float] = {}
        for place in places:
            if {kinds.get(here), place.kind} == {"cpu", "gpu"}:
                gpu = here if kinds[here] == "gpu" else place.name
                seconds: float | None = self._handing_s(gpu, wanted.text)
            else:
                seconds = self._engine.scheduler.placement.predict(reading, place.name)
            if place.name != here and seconds is not None:  # else nobody knows what it is to get there
                transfer[place.name] = seconds + self._loading_s(place)
        if not transfer:
            return here
        writing = self._amounts.writing(wanted.text, wanted.write, transfer=transfer)
        job.placed = choice = self._place(
            writing, (here, *transfer), self._urgency(), at=here, moved_at=moved_at, without=job.entry
        )
        if choice.device != here:
            self._looks[job] = now, now
        return choice.device

    def took(self, device: str, text: int, behind: int, seconds: float, tokens: int) -> None:
        if text - behind == 1:
            work = self._amounts.writing(text - 1, tokens)
        elif tokens <= 1:
            work = self._amounts.reading(text, behind)
        else:  # a prompt, and more behind it
            return
        engine = self._engine
        with engine.lock:
            engine.scheduler.measured(work, device, seconds, engine.clock())

    def handed(self, device: str, tokens: int, seconds: float) -> None:
        engine = self._engine
        with engine.lock:
            engine.scheduler.measured(self._amounts.handing(tokens), device, seconds, engine.clock())

    def _place(
        self, work: Work, among: Any, urgency: dict[str, Any], *, without: Entry | None = None, **more: Any
    ) -> Choice:
        engine = self._engine
        with engine.lock:
            return engine.scheduler.place(
                work, tuple(among), engine.clock(), without=without, **urgency, **more
            )

    def _urgency(self) -> dict[str, Any]:
        """Of the job that asks, or of the task."""
        job = _current()
        if job is not None:
            entry = job.entry
            return {"qos": entry.effective_qos, "deadline": entry.deadline, "tenant": entry.tenant}
        urgency = current_urgency.get()
        within_s = min(urgency.within_s(), self._engine.host.within_s())
        level: QoS = urgency.level
        return {"qos": level, "deadline": self._engine.clock() + within_s, "tenant": urgency.tenant}

    def _handing_s(self, gpu: str, text: int) -> float:
        """What it takes to hand over a text between a GPU and a CPU."""
        handing = self._amounts.handing(text)
        seconds = self._engine.scheduler.placement.predict(handing, gpu)
        return handing.size / _HANDED_MB_S if seconds is None else seconds

    def _loading_s(self, place: Place) -> float:
        return 0.0 if place.loaded else self._amounts.nbytes / _LOADED_BYTES_S


def _current() -> Job[Any] | None:
    """The job whose code calls this; None: the host's."""
    return None if local.worker is None else local.worker.job
