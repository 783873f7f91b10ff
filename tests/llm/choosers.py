"""Choosers for tests of models on several devices."""

from collections.abc import Callable, Sequence

from coro_rt.llm.chooser import Chooser, Place, Wanted


class Sent(Chooser):
    """Sends who is on one device to the other, when `goes` says so of the tokens that there are."""

    def __init__(self, goes: Callable[[int], bool], first: str = "a") -> None:
        self.goes, self.first = goes, first
        self.at: list[str] = []  # where it was asked

    def begin(
        self, wanted: Wanted, places: Sequence[Place], readers: Sequence[str]
    ) -> tuple[str, str | None]:
        names = [place.name for place in places]
        return (self.first if self.first in names else names[0]), None

    def next(self, here: str, wanted: Wanted, places: Sequence[Place]) -> str:
        self.at.append(here)
        others = [place.name for place in places if place.name != here]
        return others[0] if others and self.goes(wanted.text) else here
