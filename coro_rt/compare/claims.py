"""What the figures say about what was claimed: by the article behind this project, by us, and where others
win.

A claim is judged by its bound, whatever comes out. Each names the command that measures it alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from coro_rt.compare.article import article
from coro_rt.compare.claim import ARTICLE, LOSES, OURS, Claim, Judge
from coro_rt.compare.losses import losses
from coro_rt.compare.promises import promises
from coro_rt.compare.statistics import Figures


def judge(figures: Figures) -> list[Claim]:
    """All claims that the figures say something about."""
    found = Judge(figures)
    article(found)
    promises(found)
    losses(found)
    return found.claims


def by_source(claims: list[Claim]) -> Iterator[tuple[str, list[Claim]]]:
    """In the order in which people want to read them."""
    for source in (ARTICLE, OURS, LOSES):
        yield source, [claim for claim in claims if claim.source == source]
