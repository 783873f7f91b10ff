"""The next token from the logits: greedy, or drawn with temperature, top-k, top-p and a repetition penalty.

The randomness is a function of the seed and the position, nothing else: a counter-based generator (Philox:
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) is asked for the number at (seed,
position). So the same seed gives the same text whatever ran in between, beside it or before it.

In order: repetition penalty (Keskar et al., "CTRL", 2019, as commonly used: the logit of a token that has
come is divided by the penalty if it is positive, and multiplied if not), temperature, top-k, top-p (Holtzman
et al., "The Curious Case of Neural Text Degeneration", 2019: the fewest most probable tokens that together
reach p).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from coro_rt.errors import ModelError, SamplingError

__all__ = ["Sampler", "SamplingParams"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Raises `SamplingError`, naming parameter, value and range.

    `temperature` 0 is greedy: the largest logit, the smallest id among equals; `top_k`, `top_p` and `seed`
    then have no effect. `top_k` 0 and `top_p` 1 mean all tokens. `repetition_penalty` 1 is none; more makes
    tokens that have come rarer.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("temperature", Real, 0, sys.float_info.max, "a finite number from 0 on (0: greedy)")
        self._check("top_k", Integral, 0, math.inf, "an integer from 0 on (0: all tokens)")
        self._check("top_p", Real, sys.float_info.min, math.nextafter(1, 2), "a number above 0 and up to 1")
        self._check("repetition_penalty", Real, 0.01, 100, "a number from 0.01 to below 100 (1: none)")
        self._check("seed", Integral, 0, 2**64, "an integer from 0 to 2**64 - 1")

    def _check(self, name: str, kind: type, least: float, end: float, allowed: str) -> None:
        value: Any = getattr(self, name)
        if isinstance(value, np.generic):
            value = value.item()
            object.__setattr__(self, name, value)
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        if not is_number or not least <= value < end:
            raise SamplingError(f"{name} is {value!r}, but it must be {allowed}")


class Sampler:
    """Chooses tokens by `params`. It has no state, so one may serve any number of texts and threads."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params

    def sample(
        self, logits: npt.NDArray[np.float32], history: Sequence[int] | npt.NDArray[np.integer], position: int
    ) -> int:
        """The token for `position`, given one logit for every token, and the tokens so far.

        Raises `ModelError` if the logits hold NaN or infinity (-inf is allowed: a token that never comes).
        """
        logits = self._penalize(logits, history)
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise ModelError(f"the logits at position {position} are not numbers: the best is {logits[best]}")
        if self.params.temperature == 0:
            return best
        ids, weights = self._candidates(logits, logits[best])
        choice = _draw(weights, self.params.seed, position)
        return choice if ids is None else int(ids[choice])

    def _penalize(
        self, logits: npt.NDArray[np.float32], history: Sequence[int] | npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        penalty = self.params.repetition_penalty
        if penalty == 1 or len(history) == 0:
            return logits
        seen = np.asarray(history, np.intp)
        old = logits[seen]  # all read before any is written, so a token that came twice is penalized once
        logits = logits.copy()
        logits[seen] = np.where(old > 0, old / penalty, old * penalty)
        return logits

    def _candidates(
        self, logits: npt.NDArray[np.float32], best: np.float32
    ) -> tuple[npt.NDArray[np.intp] | None, npt.NDArray[np.float32]]:
        """The tokens to draw from, most probable first (None: all, by id), and their weights."""
        # Bounds that float32 can hold: at no temperature is a weight NaN, and that of the best is 1.
        scale = np.float32(min(max(1 / self.params.temperature, 1e-30), 1e30))
        with np.errstate(over="ignore"):
            weights = np.exp((logits - best) * scale)
        top_k, top_p = self.params.top_k, self.params.top_p
        ids = _largest(logits, top_k) if 0 < top_k < len(logits) else None
        if top_p == 1:
            return ids, weights if ids is None else weights[ids]
        if ids is not None:
            kept = weights[ids]
            return _reach(ids, kept, top_p * float(kept.sum(dtype=np.float64)))
        goal, count = top_p * float(weights.sum(dtype=np.float64)), 256
        while True:  # most often a few tokens have nearly all the weight, so the others are never sorted
            ids = _largest(logits, count)
            if count >= len(logits) or weights[ids].sum(dtype=np.float64) >= goal:
                return _reach(ids, weights[ids], goal)
            count *= 8


def _largest(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """The ids of the `count` largest logits, in falling order; of equals, the smaller id first."""
    ids = np.arange(len(logits))
    if count < len(logits):
        ids = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    return ids[np.argsort(-logits[ids], kind="stable")][:count]


def _reach(
    ids: npt.NDArray[np.intp], weights: npt.NDArray[np.float32], goal: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The first tokens, as few as reach the goal together."""
    keep = int(np.searchsorted(np.cumsum(weights, dtype=np.float64), goal)) + 1
    return ids[:keep], weights[:keep]


def _draw(weights: npt.NDArray[np.float32], seed: int, position: int) -> int:
    """An index, drawn in proportion to the weights with the random number at (seed, position)."""
    uniform = (int(np.random.Philox(key=seed, counter=int(position)).random_raw()) >> 11) * 2.0**-53
    ends = np.cumsum(weights, dtype=np.float64)
    # The second is the last index with any weight: rounding may carry the product up to the whole sum.
    return int(min(np.searchsorted(ends, uniform * ends[-1], side="right"), np.searchsorted(ends, ends[-1])))
