"""Holders: what memory may be taken from, as far as whoever takes it has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from coro_rt.job import Job

if TYPE_CHECKING:
    from coro_rt.devices.base import Device


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
