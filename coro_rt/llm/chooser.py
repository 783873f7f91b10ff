"""The chooser: says where generations go. Subclass it for one of your own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coro_rt.schedulers.pace import Pace

__all__ = ["Chooser", "Place", "Wanted"]


@dataclass(frozen=True, slots=True)
class Place:
    """A device that a generation may go to. `pace` says what the model's steps take there, as far as it is
    known; `loaded`: whether its weights are there.
    """

    name: str
    kind: str
    loaded: bool
    pace: Pace


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a generation has to do, in tokens: of a text of `text`, `read` are to be read where it is, and all
    of them anywhere else; up to `write` are to be written.
    """

    text: int
    read: int
    write: int


class Chooser:
    """Says where generations go. This one: to the first place, and there they stay. Subclass it for others.

    Called on the host's loop (`begin`) and by the workers of several devices at once, which wait for it: it
    is quick, and waits for nothing. `places` are open; where the model was loaded first comes first. One that
    raises, or names what it was not offered, does so at the call that it was asked for; for a generation
    under way it is replaced by this one, and the log says so.
    """

    def begin(
        self, wanted: Wanted, places: Sequence[Place], readers: Sequence[str]
    ) -> tuple[str, str | None]:
        """Before a generation begins, and when it has lost its device: the place, and who of the `readers`
        (NPUs and GPUs) reads the prompt if that is on a CPU; None: the place itself.
        """
        return places[0].name, None

    def next(self, here: str, wanted: Wanted, places: Sequence[Place]) -> str:
        """Between two steps, or bursts of them: where to go on. If not `here`, the text so far is read anew
        there, or handed over between a GPU and a CPU.
        """
        return here

    def took(self, device: str, text: int, behind: int, seconds: float, tokens: int) -> None:
        """On a device all of a text was computed that was not `behind` already, in so many seconds of that
        device's, in which nobody else had a part; and then it gave so many tokens, all but the first in steps
        of their own.
        """

    def handed(self, device: str, tokens: int, seconds: float) -> None:
        """Between a GPU and a CPU keys and values of so many tokens were handed over, in so many seconds of
        the GPU's; reading them is not in it.
        """
