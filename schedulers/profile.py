"""The profile: how long kernels take on devices, learned while they run. Kept as plain numbers.

For each (kernel, device) a `Curve`: seconds = fixed + per_unit * size, by recursive least squares, and around
that line a factor for each power of two of the size, because no kernel is a line over three orders of
magnitude. A size is given in the unit in which the work would grow in proportion at best (rows, bytes read,
multiply-adds), so that one sample says something about all sizes.

Robust in two ways. Errors are counted relative to what was seen (weights 1/seconds²), so that a launch that
compiled something, or lost its core, hardly pulls at the line; and what is four times too fast or too slow is
believed only when it comes several times in a row. Samples of some time ago fade: a machine that gets hot is
followed.
(Recursive least squares with exponential forgetting: Haykin, "Adaptive Filter Theory", chapter 10.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import exp, floor, inf, isfinite, log, log2
from typing import Any

from coro_rt.schedulers.errors import SchedulerError

MOST_CURVES = 1024  # (kernel, device); the one that was not used for longest goes

KNOWN = 3  # samples from which on a curve is worth something

_FADE = 0.97  # what a sample's weight is multiplied by at each following one
_RIDGE = 1e-3  # of the weight of all samples: what keeps a line through a single size from the fixed part
_LEAST_GAIN = 0.15  # of a factor, at each sample
_CLIP = log(1.5)  # the largest step of a factor that one sample can ask for
_ODD = 4.0  # times as much, or as little, as was expected
_MOST_FACTOR = 60.0  # its logarithm
_MOST_CONTENTION = 4.0  # more than that is something else
_BELIEVED = 3  # so many odd samples in a row are no oddity: what was known before is forgotten
_SHORTEST_S = 1e-9  # less is the clock's grain


class Curve:
    """What is known about one kernel on one device."""

    __slots__ = (
        "_doubted",
        "_factors",
        "_noise",
        "_shrunk",
        "_sums",
        "contention",
        "fixed_s",
        "per_unit_s",
        "samples",
        "seen_at",
        "watts",
    )

    def __init__(self) -> None:
        self.samples = 0  # of an undisturbed device
        self.contention: float | None = None  # longer by this part for each busy neighbour; None: not seen
        self.watts = 0.0  # 0: not seen
        self.seen_at = -inf  # when the last sample came; before all times: not in this process
        self.fixed_s = 0.0
        self.per_unit_s = 0.0
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # of w, w*x, w*y, w*x*x, w*x*y with sizes x, seconds y, w 1/y²
        self._factors: dict[int, tuple[float, int]] = {}  # by log2 of the size: its logarithm, samples
        self._shrunk: dict[int, float] = {}  # what counts of them
        self._noise = 0.0  # mean square of what a logarithm of seconds was off
        self._doubted = 0

    def seconds(self, size: float) -> float:
        """How long so much takes; 0 for nothing. Call it only when there are samples."""
        if size <= 0.0:
            return 0.0
        line_s = self.fixed_s + self.per_unit_s * size
        place = log2(size)
        bucket = floor(place)
        part = place - bucket - 0.5  # from the middle of its bucket, towards the next one's
        factors = self._shrunk
        here = factors.get(bucket)
        near = factors.get(bucket + (1 if part > 0.0 else -1))
        if here is None:
            return line_s if near is None else line_s * exp(near)
        if near is None:
            return line_s * exp(here)
        part = abs(part)
        return line_s * exp(here * (1.0 - part) + near * part)

    def learn_beside(self, size: float, seconds: float, now: float, beside: int, given: float) -> None:
        """Like `learn`, while so many neighbours were busy: so it tells what that costs, which was `given`
        if nothing was seen. Until there are enough other samples, it counts as one of them, too."""
        if self.samples < KNOWN:
            self.learn(size, seconds / (1.0 + given * beside), now)
            return
        self.seen_at = now
        seen = min(_MOST_CONTENTION, max(0.0, (seconds / self.seconds(size) - 1.0) / beside))
        known = given if self.contention is None else self.contention
        self.contention = known + _LEAST_GAIN * (seen - known)

    def learn(self, size: float, seconds: float, now: float) -> None:
        """So much took so long on a device without busy neighbours; both are finite and more than 0."""
        self.seen_at = now
        if self.samples >= KNOWN and not 1 / _ODD <= seconds / self.seconds(size) <= _ODD:
            self._doubted += 1
            if self._doubted < _BELIEVED:
                return
            self._forget()
        self._doubted = 0
        self.samples += 1
        fixed_s, per_unit_s = self.fixed_s, self.per_unit_s
        self._fit(size, seconds)
        factors = self._factors
        for bucket, (factor, samples) in factors.items():  # what is known of a size stays as it was
            if samples >= KNOWN:
                middle = 2.0 ** (bucket + 0.5)
                line_s = self.fixed_s + self.per_unit_s * middle
                factors[bucket] = factor + log((fixed_s + per_unit_s * middle) / line_s), samples
        self._shrink()
        self._bend(size, seconds)

    def _bend(self, size: float, seconds: float) -> None:
        """Moves the factors on both sides of a size towards what was seen there."""
        factors = self._factors
        place = log2(size)
        here = floor(place)
        part = place - here - 0.5
        near = here + (1 if part > 0.0 else -1)
        if here not in factors:
            factors[here] = 0.0, 0
            self._shrunk[here] = 0.0
        error = max(-_CLIP, min(_CLIP, log(seconds / self.seconds(size))))
        self._noise += (error * error - self._noise) * max(_LEAST_GAIN, 1.0 / self.samples)
        part = abs(part) if near in factors else 0.0
        scale = 1.0 / (part * part + (1.0 - part) * (1.0 - part))
        for bucket, weight in ((here, 1.0 - part), (near, part)):
            if weight:
                factor, samples = factors[bucket]
                gain = max(_LEAST_GAIN, 1.0 / (samples + 2)) * weight * scale
                factor = max(-_MOST_FACTOR, min(_MOST_FACTOR, factor + gain * error))
                factors[bucket] = factor, samples + (bucket == here)
        self._shrink()

    def _shrink(self) -> None:
        """Takes each factor as far as it stands out from the noise (James and Stein's way with means)."""
        for bucket, (factor, samples) in self._factors.items():
            signal = factor * factor * samples
            self._shrunk[bucket] = factor * signal / (signal + self._noise) if signal else 0.0

    def _fit(self, x: float, y: float) -> None:
        weight = 1.0 / (y * y)
        new = (weight, weight * x, weight * y, weight * x * x, weight * x * y)
        w, wx, wy, wxx, wxy = (_FADE * old + one for old, one in zip(self._sums, new, strict=True))
        self._sums = (w, wx, wy, wxx, wxy)
        self._solve()

    def _solve(self) -> None:
        """The line through what the sums hold; neither part of it is negative."""
        w, wx, wy, wxx, wxy = self._sums
        ridged = w * (1.0 + _RIDGE)
        determinant = ridged * wxx - wx * wx  # more than 0, for the ridge
        fixed = (wy * wxx - wx * wxy) / determinant
        slope = (ridged * wxy - wx * wy) / determinant
        if slope < 0.0:
            fixed, slope = wy / w, 0.0
        elif fixed < 0.0:
            fixed, slope = 0.0, wxy / wxx
        self.fixed_s, self.per_unit_s = fixed, slope

    def _forget(self) -> None:
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._factors.clear()
        self._shrunk.clear()
        self._noise = 0.0
        self.samples = 0

    def as_data(self) -> dict[str, Any]:
        """Plain values, for `from_data`."""
        factors = [[bucket, *values] for bucket, values in sorted(self._factors.items())]
        return {
            "samples": self.samples,
            "sums": list(self._sums),
            "factors": factors,
            "noise": self._noise,
            "contention": self.contention,
            "watts": self.watts,
        }

    @classmethod
    def from_data(cls, data: Any) -> Curve:
        """The curve that was written; what it knows is of another time. Raises SchedulerError."""
        curve = cls()
        try:
            curve.samples = _count(data["samples"])
            w, wx, wy, wxx, wxy = (_positive(value) for value in data["sums"])
            curve._sums = (w, wx, wy, wxx, wxy)
            for bucket, factor, samples in data["factors"]:
                place = int(_number(bucket, least=-1100.0, most=1100.0))
                curve._factors[place] = _number(factor, least=-64.0, most=64.0), _count(samples)
            curve._noise = _number(data["noise"])
            if data["contention"] is not None:
                curve.contention = _number(data["contention"], most=_MOST_CONTENTION)
            curve.watts = _number(data["watts"])
            curve._solve()
            curve._shrink()
            if not (isfinite(curve.fixed_s) and isfinite(curve.per_unit_s)):
                raise ValueError("there is no line through its sums")
        except (TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise SchedulerError(f"this is no curve of a profile: {error!r}") from error
        return curve


class Profile:
    """Curves by kernel and device."""

    def __init__(self) -> None:
        self._curves: dict[tuple[str, str], Curve] = {}

    def __len__(self) -> int:
        return len(self._curves)

    def __iter__(self) -> Iterator[tuple[str, str, Curve]]:
        """Kernel, device, curve; the one that was learned from last comes last."""
        return ((kernel, device, curve) for (kernel, device), curve in self._curves.items())

    def curve(self, kernel: str, device: str) -> Curve | None:
        """What is known about a kernel on a device; None: nothing."""
        return self._curves.get((kernel, device))

    def learn(
        self,
        kernel: str,
        device: str,
        size: float,
        seconds: float,
        now: float,
        *,
        beside: int = 0,
        contention: float = 0.0,
        watts: float | None = None,
    ) -> None:
        """A launch of so much took so long, while so many devices that use the same memory were busy, which
        makes it longer by the part `contention` for each, as far as was given. Raises SchedulerError for what
        cannot be.

        What took no time says nothing, and is left out.
        """
        if not 0.0 < size < inf or not 0.0 <= seconds < inf:
            raise SchedulerError(
                f"{kernel} of size {size!r} on {device!r} took {seconds!r} s: a size is a number above 0, "
                "seconds are a number from 0 on"
            )
        if seconds < _SHORTEST_S:
            return
        curve = self._curves.pop((kernel, device), None)
        if curve is None:
            curve = Curve()
            if len(self._curves) >= MOST_CURVES:
                del self._curves[next(iter(self._curves))]
        self._curves[kernel, device] = curve
        if beside:
            curve.learn_beside(size, seconds, now, beside, contention)
        else:
            curve.learn(size, seconds, now)
        if watts is not None:
            curve.watts += (watts - curve.watts) * (_LEAST_GAIN if curve.watts else 1.0)

    def as_data(self) -> list[dict[str, Any]]:
        """Plain values, for `from_data`."""
        return [{"kernel": kernel, "device": device, **curve.as_data()} for kernel, device, curve in self]

    @classmethod
    def from_data(cls, data: Any) -> Profile:
        """The profile that was written. Raises SchedulerError for anything else."""
        if not isinstance(data, list) or len(data) > MOST_CURVES:
            raise SchedulerError(f"a profile is a list of at most {MOST_CURVES} curves")
        profile = cls()
        for one in data:
            if not isinstance(one, Mapping) or not all(
                isinstance(one.get(name), str) for name in ("kernel", "device")
            ):
                raise SchedulerError(f"a curve of a profile names its kernel and its device, not {one!r:.80}")
            profile._curves[one["kernel"], one["device"]] = Curve.from_data(one)
        return profile


def _number(value: Any, *, least: float = 0.0, most: float = inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    if not least <= value <= most:
        raise ValueError(f"{value!r} is not from {least} to {most}")
    return float(value)


def _positive(value: Any) -> float:
    if not _number(value) > 0.0:
        raise ValueError(f"{value!r} is not above 0")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is no whole number from 1 on")
    return value
