"""The places of a language model: the devices that it may run on, with a model for each.

The first is loaded with the file; the others share that file, its tokenizer and template, and are loaded when
somebody goes there for the first time. The places on CPUs have readers, which read prompts for them: NPUs,
which are no places, as they can do nothing else, and GPUs.

Where generations go is up to a `Chooser`. One whose device is lost goes on elsewhere whatever that says.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from coro_rt.devices.base import Device
from coro_rt.devices.cpu import CpuDevice
from coro_rt.errors import DeviceError, DeviceLost, MemoryBudgetExceeded, UnsupportedModel
from coro_rt.job import Job
from coro_rt.on_host import on_host
from coro_rt.schedulers.pace import Pace
from coro_rt.traps import move_to

from .chooser import Chooser, Place, Wanted
from .loaded import closed_error

if TYPE_CHECKING:
    from .decoder import Model
    from .npu import NpuReader
    from .reader import Reader

__all__ = ["Chooser", "Place", "Places", "Route", "Wanted"]

logger = logging.getLogger("coro_rt")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a generation begins: `decode` names the place, `prefill` who reads the prompt for it.
    `pinned`: it is to go nowhere else.
    """

    decode: str
    prefill: str | None = None
    pinned: bool = False


class Places:
    """Of one LLM. `chooser` may be replaced at any time; `first` has what all models share."""

    def __init__(
        self,
        first: Model,
        kinds: Mapping[str, tuple[Device, type[Model]]],
        readers: Mapping[str, tuple[Device, type[Model] | None]],
        borrowers: Listed[Device],
        prefill: Device | None,
        *,
        prefix_reuse: bool,
    ) -> None:
        """`kinds`: each place's device and its class of model, the first one's first. `readers`: the same,
        but NPUs have no model. Of these `prefill` reads all prompts, if given; it is to be loaded at once.
        `borrowers`: CPU devices that are no places; who is sent there works with the first one's model.
        """
        self.first = first
        self.chooser = Chooser()
        self.prefill_on = None if prefill is None else prefill.name
        self.closed = False
        self._kinds, self._reading = dict(kinds), dict(readers)
        self._borrowers = [device.name for device in borrowers]
        self._prefix_reuse = prefix_reuse
        self._lock = threading.RLock()  # a `__del__` may come while it is held
        self._models: dict[str, Model] = {first.device.name: first}
        self._lost: list[Model] = []
        self._readers: dict[str, NpuReader] = {}
        self._unreadable: set[str] = set()  # NPUs that cannot read for this model

    @property
    def names(self) -> list[str]:
        """The devices, the one that it was loaded for first."""
        return list(self._kinds)

    # Deciding.

    def open(self, without: Collection[str] = ()) -> list[Place]:
        """The places that can be gone to now."""
        found = []
        for name, (device, _) in self._kinds.items():
            if device.fenced is None and name not in without:
                model = self._models.get(name)
                loaded = model is not None and not model.missing_bytes
                found.append(Place(name, device.kind, loaded, Pace() if model is None else model.pace))
        return found

    def route(self, wanted: Wanted, device: str | None = None) -> Route:
        """Where a generation begins; `device` pins it. Raises DeviceError, DeviceLost if no place is open."""
        if device is not None:
            return Route(self._checked(device), self.prefill_on, pinned=True)
        places = self.open()
        if not places:
            raise self._nowhere(self.names[0], self._kinds[self.names[0]][0].fenced or "lost")
        route = self._begin(wanted, places)
        if route.decode != places[0].name and not self.fits(route.decode, wanted.text + 1):
            logger.debug("%s begins at %r: no room at %r", self.first.name, places[0].name, route.decode)
            route = replace(route, decode=places[0].name)
        return route

    @property
    def may_move(self) -> bool:
        """Whether `next` is worth asking."""
        return len(self._kinds) > 1 and type(self.chooser).next is not Chooser.next

    def next(self, here: str, wanted: Wanted, without: Collection[str]) -> str:
        """Where a generation goes on, most often `here`."""
        places = self.open(without)
        try:
            aim = self.chooser.next(here, wanted, places)
            return self._known(aim, [here, *(place.name for place in places)])
        except Exception:
            return self._replace_chooser(here)

    def elsewhere(self, lost: DeviceLost, wanted: Wanted, without: Collection[str] = ()) -> str:
        """Where a generation goes on that has lost its device, and perhaps those in `without` before. Raises
        DeviceLost if there is no such place.
        """
        places = self.open({lost.device, *without})
        if not places:
            raise self._nowhere(lost.device, lost.reason) from lost
        try:
            return self._begin(wanted, places).decode
        except Exception:
            return self._replace_chooser(places[0].name)

    def took(self, device: str, text: int, behind: int, seconds: float, tokens: int) -> None:
        """See `Chooser.took`; NaN seconds, which others had a part in, say nothing."""
        if seconds > 0.0:
            try:
                self.chooser.took(device, text, behind, seconds, tokens)
            except Exception:
                self._replace_chooser(device)

    def handed(self, device: str, tokens: int, seconds: float) -> None:
        """See `Chooser.handed`; NaN says nothing."""
        if seconds > 0.0:
            try:
                self.chooser.handed(device, tokens, seconds)
            except Exception:
                self._replace_chooser(device)

    @property
    def differ(self) -> bool:
        """Whether there are several kinds of device to choose from."""
        return len({device.kind for device, _ in self._kinds.values()}) > 1 or (
            bool(self._reading) and self.prefill_on is None
        )

    def _begin(self, wanted: Wanted, places: list[Place]) -> Route:
        readers = [name for name, (device, _) in self._reading.items() if device.fenced is None]
        decode, prefill = self.chooser.begin(wanted, places, readers)
        self._known(decode, [place.name for place in places])
        if prefill is not None and prefill != decode:
            self._known(prefill, readers)
        return Route(decode, self.prefill_on or (None if prefill == decode else prefill))

    def _replace_chooser(self, place: str) -> str:
        """It failed while it was asked for a generation under way, which is not to suffer from that."""
        failed, self.chooser = self.chooser, Chooser()
        logger.exception("%s of %s was replaced by Chooser", type(failed).__name__, self.first.name)
        return place

    def _known(self, name: str, names: Listed[str]) -> str:
        if name not in names:
            raise DeviceError(
                f"{type(self.chooser).__name__} sent {self.first.name} to {name!r}, but it can be sent to: "
                f"{', '.join(names) or 'nowhere'}"
            )
        return name

    def _checked(self, name: str) -> str:
        if name in self._kinds or name in self._borrowers:
            return name
        device = self.first.device
        threads = f" with at most {device.threads} threads" if isinstance(device, CpuDevice) else ""
        raise DeviceError(
            f"{self.first.name} runs on {', '.join(self._kinds)}, and on open CPU devices{threads}; {name!r} "
            "is none of them: name it in load_model(devices=...)"
        )

    def _nowhere(self, device: str, reason: str) -> DeviceLost:
        return DeviceLost(
            device,
            reason,
            f"and {self.first.name} can go on nowhere else, as it may run on {', '.join(self._kinds)} "
            "(open more devices, and load it without device=)",
        )

    # Models.

    def model(self, name: str) -> Model:
        """The model for a place or a GPU that reads; its weights are loaded when it is used first. Raises
        RuntimeClosed, and MemoryBudgetExceeded if there can never be room for it.
        """
        device, kind = self._kinds.get(name) or self._reading.get(name) or self._kinds[self.names[0]]
        assert kind is not None, f"{name} has no model"
        at = device.name
        with self._lock:
            if self.closed:
                raise closed_error(self.first.name)
            model = self._models.get(at)
            if model is None:
                model = self._models[at] = self.first.on(device, kind, prefix_reuse=self._prefix_reuse)
            return model

    def fits(self, name: str, tokens: int) -> bool:
        """Whether there is memory that nobody uses for the model there, and a text of so many tokens."""
        try:
            return self.model(name).fits(tokens)
        except MemoryBudgetExceeded:
            return False

    def drop(self, model: Model, lost: DeviceLost) -> None:
        """A model's device is lost. If somebody goes there again, that is another one."""
        with self._lock:
            if self._models.get(model.device.name) is model:
                del self._models[model.device.name]
                self._lost = [one for one in [*self._lost, model] if one.jobs]
        model.abandon(lost)

    @property
    def jobs(self) -> list[Job[Any]]:
        """Those that work with any of the models."""
        return [job for model in self._all() for job in list(model.jobs)]

    def _all(self) -> list[Model]:
        with self._lock:
            return [*self._models.values(), *self._lost]

    # Readers.

    def load_reader(self, device: Device) -> None:
        """In a thread of its own: have an NPU read prompts. Raises what loading does."""
        from .npu import load  # here: it needs an extra

        first = self.first
        budget = first.residency.budget
        reader = load(device, first.file, first.sizes, first.tokenizer, first.context, budget)
        with self._lock:
            if not self.closed:
                self._readers[device.name] = reader
                return
        reader.close()

    async def reader(self, name: str) -> Reader | None:
        """For jobs: who reads prompts there, loaded now if need be; None if that cannot be done."""
        device, kind = self._reading[name]
        if device.fenced is not None or name in self._unreadable:
            return None
        if kind is not None:
            from .gpu_reader import GpuReader  # here: it needs an extra

            return GpuReader(self, name)
        if name not in self._readers:
            async with self.first.residency.loading:
                if name not in self._readers:
                    try:
                        await on_host(partial(anyio.to_thread.run_sync, self.load_reader, device))
                    except (DeviceError, MemoryBudgetExceeded, UnsupportedModel) as error:
                        logger.warning("prompts of %s are not read on %r: %s", self.first.name, name, error)
                        self._unreadable.add(name)
        return self._readers.get(name)

    # Closing.

    def close(self) -> None:
        """No job can begin to work with it from now on."""
        with self._lock:
            self.closed = True
        for model in self._all():
            model.closed = True

    def lose(self) -> None:
        """From a `__del__`: nobody has it any more."""
        self.close()
        for model in self._all():
            model.lose()
        while self._readers:
            self._readers.popitem()[1].close()
        self.first.words.release()
        self.first.file.close()

    def give_back(self) -> None:
        """It is closed, and its jobs have ended: give all memory back."""
        for model in self._all():
            model.give_back()
        self.lose()
        self.first.residency.changed()


async def go_to(device: str) -> None:
    """`move_to`, for which a device that nobody can go to is lost. Raises DeviceLost."""
    try:
        await move_to(device)
    except DeviceLost:
        raise
    except DeviceError as error:
        raise DeviceLost(device, "lost") from error
