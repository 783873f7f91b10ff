"""Who is charged for the joules that a source has counted.

An *interval* lies between two readings. A job pays for its device seconds in it at the interval's mean power:
joules / seconds, those of jobs that ended meanwhile included. What is left, the seconds in which no job ran,
is nobody's: idle. Nothing is read while nobody runs, so after a pause the first reading is all idle's.

A job that ends within an interval pays at the mean power of the last one with something to it, at once,
because nobody would look at its ledger later; the difference is idle's. Before there was any, it is modelled.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from coro_rt.energy.source import EnergySource
from coro_rt.schedulers.entry import Entry, State

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.job import Job, JobEntry

logger = logging.getLogger("coro_rt")


@dataclass(frozen=True, slots=True)
class DeviceEnergy:
    """The joules of a device since the runtime was opened."""

    source: str  # what counts them, or "model"
    joules: float  # of jobs
    modelled_joules: float  # of those: not measured, but watts times seconds
    idle_joules: float  # measured, but no job's; 0 where nothing measures


@dataclass(slots=True)
class Tally:
    """A device's joules so far; `measured` and `modelled` are jobs'."""

    measured: float = 0.0
    modelled: float = 0.0
    idle: float = 0.0

    def energy(self, source: str) -> DeviceEnergy:
        """For people."""
        return DeviceEnergy(source, self.measured + self.modelled, self.modelled, self.idle)


class Account:
    """One device's. Called under the engine's lock, but `due` and `read`, which its worker calls without."""

    def __init__(self, source: EnergySource, device: Device, tally: Tally) -> None:
        self.source = source
        self._device = device
        self._tally = tally
        self._watts: float | None = None  # the mean of the last interval
        self._base: float | None = None  # the last reading
        self._base_at = 0.0
        self._before: dict[Entry, float] = {}  # who ran since then, and the service that it had before
        self._ended_s = 0.0  # device seconds of those of them who are gone,
        self._ended_joules = 0.0  # and what they have paid

    def due(self, now: float) -> bool:
        """Whether a reading would be worth it."""
        return self._base is None or now - self._base_at >= self.source.least_s

    def read(self) -> float | None:
        """A reading, for `settle`; None: it has failed, so `give_up`."""
        try:
            return self.source.joules()
        except Exception as error:  # somebody's own may raise anything
            logger.warning(
                "%s can be read no more, so the joules of %r are modelled from now on: %s",
                self.source.name,
                self._device.name,
                error,
            )
            return None

    def runs(self, entry: Entry) -> None:
        """It has been granted the device, for itself and its riders."""
        before = self._before
        if entry not in before:
            before[entry] = entry.served_s
        for rider in entry.riders:
            if rider not in before:
                before[rider] = rider.served_s

    def leaves(self, entry: Entry) -> None:
        """It has ended, or goes to another device."""
        before = self._before.pop(entry, None)
        if before is None:
            return
        seconds = entry.served_s - before
        if self._watts is None:
            self._model(entry, seconds)
            return
        joules = seconds * self._watts
        self._ended_s += seconds
        self._ended_joules += joules
        self._charge(entry, joules)

    def settle(self, reading: float, now: float) -> None:
        """An interval ends with this reading."""
        base, base_at = self._base, self._base_at
        self._base, self._base_at = reading, now
        if base is None:
            return
        used_s = {entry: entry.served_s - before for entry, before in self._before.items()}
        total_s = sum(used_s.values()) + self._ended_s
        seconds = max(now - base_at, total_s)
        counted = max(0.0, reading - base)
        watts = counted / seconds if seconds > 0 else 0.0
        charged = self._ended_joules
        for entry, used in used_s.items():
            self._charge(entry, used * watts)
            charged += used * watts
        self._tally.idle += counted - charged
        if 2 * total_s >= seconds > 0:
            self._watts = watts
        self._ended_s = self._ended_joules = 0.0
        self._before = {
            entry: entry.served_s for entry in used_s if entry.state is State.RUNNING or entry.aboard
        }

    def give_up(self) -> None:
        """It is read no more: what was not settled is modelled."""
        for entry, before in self._before.items():
            self._model(entry, entry.served_s - before)
        self._before.clear()

    def _charge(self, entry: Entry, joules: float) -> None:
        self._tally.measured += joules
        _job(entry).measured_joules += joules

    def _model(self, entry: Entry, seconds: float) -> None:
        joules = seconds * self._device.watts
        self._tally.modelled += joules
        _job(entry).modelled_joules += joules


def _job(entry: Entry) -> Job[object]:
    return cast("JobEntry", entry).job
