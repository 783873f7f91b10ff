"""Texts to read: made from a seed, so that each is different and nobody can reuse what another has read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SUBJECTS = [
    "the committee",
    "a neighbour",
    "our supplier",
    "the museum",
    "my sister",
    "the council",
    "a reader",
]
VERBS = [
    "has asked for",
    "would like to move",
    "wants to cancel",
    "is waiting for",
    "has sent",
    "will review",
]
OBJECTS = ["the invoice of last month", "a new appointment", "the report on the bridge", "the old contract"]
ENDINGS = [
    "before Friday",
    "as soon as possible",
    "although nobody had agreed",
    "because of the weather",
    "again",
]


def text_ids(llm: Any, length: int, seed: int) -> list[int]:
    """Exactly `length` token ids of English text."""
    rng = random.Random(seed)
    ids: list[int] = []
    while len(ids) < length:
        words = (rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS), rng.choice(ENDINGS))
        ids += llm.tokenizer.encode(" ".join(words).capitalize() + f", {rng.randint(2, 99)} of them. ")
    return ids[:length]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Pieces of `text`, numbered. No two among `vocabulary` numbers in a row begin with the same token, so
    that none shares a prefix with another, whoever asks for them and in whatever order.
    """

    text: Sequence[int]
    vocabulary: int
    seed: int

    def take(self, number: int, length: int) -> list[int]:
        """The prompt of that number: the same at every call."""
        at = random.Random(f"{self.seed} {number}").randrange(len(self.text) - length + 1)
        return [(self.seed + number) % self.vocabulary, *self.text[at + 1 : at + length]]
