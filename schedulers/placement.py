"""Placement: which device something is to run on, by what was measured. Pure, and part of every record.

The earliest expected finish wins: what is served before it, what it takes to get there, and how long it runs,
longer where others use the same memory meanwhile. Of devices that are done nearly as soon the one is taken
that needs the least energy; how nearly, urgency and power say (`_PATIENCE`). Somebody urgent never pays more
for it than `_TIE`.

What was never measured on a device, or long ago, is tried there by work that nobody waits for: not urgent,
with time before its deadline, short as far as other devices show, on an idle device, one at a time, a few
times only. All tries together take `_TRYING_S` and the part `_TRYING_SHARE` of the time: one that takes
longer than it may is made up for before the next one, and none is begun that is known to.

A sequence that is under way stays where it is, unless what a move gains pays for the move a second time, and
it has been there for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import inf
from operator import attrgetter
from typing import Any

from coro_rt.schedulers.backlog import Backlog
from coro_rt.schedulers.choice import Choice, Option, Reason, Work
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.profile import KNOWN, MOST_CURVES, Curve, Profile
from coro_rt.schedulers.qos import QoS

Options = tuple[Option, ...]

NEAR_S = 1.0  # whoever has less than this to spare before its deadline is as urgent as anybody

_TIE = 0.05
_PATIENCE = ((0.5, 3.0, 7.0), (0.25, 1.0, 3.0), (0.05, 0.25, 0.5))
"""By QoS, BACKGROUND first, for those who are not urgent: how much later than the earliest something may be
done for the sake of energy, as a part of that time; on external power, on the battery, when power is short.
"""
_LOW_BATTERY, _HOT = 0.2, 0.8  # from here on power is short

_TRIES = 4  # that a device is tried for a kernel, until RETRY_S have passed
_RETRY_S = 60.0
_TRIED_S = 1.0  # what takes longer elsewhere, once, is not used to try a device
_ROOM = 4.0  # times as long as elsewhere: the time that somebody must have who tries a device
_STALE_S = 600.0  # what was measured so long ago is measured again
_TRYING_S, _TRYING_SHARE = 10.0, 0.01  # that tries may take: at once, and of the time since

_GAIN = 0.1  # of the time that is left: what a move gains at least
_REST_S = 1.0  # a sequence that was moved stays for so long, or for _RESTS times what its next move takes
_RESTS = 10.0


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known about a device without measuring. `watts`: while it works; 0: unknown.

    `contention` is the part by which work takes longer for each other device that uses the same memory at the
    same time; what was measured counts more.
    """

    watts: float = 0.0
    contention: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.watts < inf and 0.0 <= self.contention < inf):
            raise SchedulerError(f"traits of a device are numbers from 0 on, not {self!r}")


class Placement:
    """Chooses devices. Not thread-safe; a choice among three takes some 10 µs.

    `traits` are the devices', as far as something is known; `profile` is what was learned before.
    """

    def __init__(self, traits: Mapping[str, Traits] | None = None, *, profile: Profile | None = None) -> None:
        self.traits = dict(traits or {})
        self.profile = Profile() if profile is None else profile
        self.fenced: dict[str, str] = {}  # and why; by `fence` and `readmit` alone
        # Since nothing came of it: times, when last, and what that was expected to take.
        self._tried: dict[tuple[str, str], tuple[int, float, float]] = {}
        self._credit_s, self._credited_at = _TRYING_S, -inf  # that tries may take now
        self._power = 0  # a column of _PATIENCE

    def choose(
        self,
        work: Work,
        devices: Iterable[Backlog],
        now: float,
        *,
        qos: QoS = QoS.DEFAULT,
        deadline: float = inf,
        at: str | None = None,
        moved_at: float = -inf,
    ) -> Choice:
        """Where to run some work, of the devices whose backlogs are given, in the order of preference.

        `at`: where it is under way, if it is (to go on there takes no transfer), and since when. Raises
        SchedulerError if no device is left.
        """
        backlogs = [backlog for backlog in devices if backlog.device not in self.fenced]
        busy = sum([backlog.busy for backlog in backlogs])
        options = tuple([self._option(work, backlog, busy - backlog.busy, at) for backlog in backlogs])
        if len(options) == 1:
            return Choice(work.kernel, options[0], Reason.ONLY, options)
        known = [option for option in options if option.measured]
        if not known:
            if not options:
                raise SchedulerError(self._nowhere(work))
            first = min(options, key=lambda option: (option.device != at, option.finish_s))
            return Choice(work.kernel, first, Reason.UNMEASURED, options)
        best = min(known, key=_FINISH)
        here = None if at is None else next((option for option in options if option.device == at), None)
        if here is not None:
            return self._move(work, here, best, options, now - moved_at)
        urgent = qos >= QoS.USER_INITIATED or deadline - now - best.finish_s < NEAR_S
        if at is None and not urgent:
            room_s = _ROOM * max(best.finish_s, work.expected_s)
            once_s = best.transfer_s + best.run_s / max(1.0, work.times)  # then it may go elsewhere
            if once_s <= _TRIED_S and now + room_s < deadline:
                for option, backlog in zip(options, backlogs, strict=True):
                    in_time = now + option.finish_s + NEAR_S < deadline
                    if backlog.idle and in_time and self._tries(work, option, now):
                        return Choice(work.kernel, option, Reason.TRIED, options)
        patience = _TIE if urgent else _PATIENCE[qos][self._power]
        latest_s = best.finish_s * (1.0 + patience)
        if deadline < inf:
            latest_s = max(best.finish_s, min(latest_s, deadline - now - NEAR_S))
        frugal = best
        for option in known:
            if 0.0 < option.joules < frugal.joules and option.finish_s <= latest_s:
                frugal = option
        reason = Reason.EARLIEST if frugal is best else Reason.FRUGAL
        return Choice(work.kernel, frugal, reason, options)

    def predict(self, work: Work, device: str, *, beside: int = 0) -> float | None:
        """The device seconds that some work takes on a device while so many others are busy; None: nobody
        knows."""
        curve = self.profile.curve(work.kernel, device)
        if curve is None:
            return None
        return self._run_s(curve, work, device, beside)

    def ran(
        self,
        work: Work,
        device: str,
        seconds: float,
        now: float,
        joules: float | None = None,
        *,
        beside: int = 0,
    ) -> None:
        """Some work took so many device seconds on a device, and perhaps so much energy, while so many other
        devices were busy. Raises SchedulerError for NaN, and for less than nothing."""
        if not 0.0 <= seconds < inf or not (joules is None or 0.0 <= joules < inf):
            raise SchedulerError(
                f"{work.kernel} took {seconds!r} s and {joules!r} J on {device!r}; these are numbers from 0 "
                "on, energy perhaps None"
            )
        if not (work.times and work.size and seconds):  # it says nothing
            return
        tried = self._tried.pop((work.kernel, device), None)
        if tried is not None:
            self._credit_s += tried[2] - seconds
        watts = None if joules is None else joules / seconds
        seconds /= work.times
        if work.behind:  # what it would have taken from the beginning
            curve = self.profile.curve(work.kernel, device)
            if curve is None:
                return
            seconds += curve.seconds(work.behind)
        self.profile.learn(
            work.kernel, device, work.size, seconds, now,
            beside=beside, contention=self._given(device).contention, watts=watts,
        )  # fmt: skip

    def fence(self, device: str, reason: str = "it has failed") -> None:
        """A device is not chosen any more."""
        self.fenced.setdefault(device, reason)

    def readmit(self, device: str) -> None:
        """A device is chosen again. What was learned about it still counts."""
        self.fenced.pop(device, None)

    def set_power(self, state: PowerState) -> None:
        """How much energy counts from now on."""
        low = state.battery is not None and state.battery < _LOW_BATTERY and not state.charging
        self._power = 2 if low or state.thermal < _HOT else int(not state.charging)

    def as_data(self) -> dict[str, Any]:
        """Plain values for `from_data`: what it was given, and what it has learned."""
        traits = {device: asdict(given) for device, given in self.traits.items()}
        return {"traits": traits, "profile": self.profile.as_data()}

    @classmethod
    def from_data(cls, data: Any) -> Placement:
        """A placement like the one that was written. Raises SchedulerError for anything else."""
        try:
            traits = {str(device): Traits(**given) for device, given in data["traits"].items()}
            profile = data["profile"]
        except (TypeError, KeyError, AttributeError) as error:
            raise SchedulerError(f"this is no placement: {error!r}") from error
        return cls(traits, profile=Profile.from_data(profile))

    # What is expected.

    def _option(self, work: Work, backlog: Backlog, beside: int, at: str | None) -> Option:
        device = backlog.device
        transfer_s = work.transfer.get(device, 0.0) if work.transfer and device != at else 0.0
        curve = self.profile.curve(work.kernel, device)
        measured = curve is not None
        joules = 0.0
        run_s = work.expected_s
        if curve is not None:
            run_s = self._run_s(curve, work, device, beside)
            joules = (curve.watts or self._given(device).watts) * (transfer_s + run_s)
        wait_s = 0.0 if backlog.idle else backlog.wait_s(transfer_s + run_s)
        return Option(device, measured, wait_s, transfer_s, run_s, wait_s + transfer_s + run_s, joules)

    def _run_s(self, curve: Curve, work: Work, device: str, beside: int) -> float:
        seconds = curve.seconds(work.size)
        if work.behind:
            seconds = max(0.0, seconds - curve.seconds(work.behind))
        if beside:
            contention = self._given(device).contention if curve.contention is None else curve.contention
            seconds *= 1.0 + contention * beside
        return seconds * work.times

    def _move(self, work: Work, here: Option, best: Option, options: Options, rested_s: float) -> Choice:
        """Whether something goes on elsewhere that is under way `here`, and has been for so long."""
        gain_s = here.finish_s - best.finish_s
        if (
            here.measured
            and gain_s > max(best.transfer_s, _GAIN * here.finish_s)
            and rested_s >= max(_REST_S, _RESTS * best.transfer_s)
        ):
            return Choice(work.kernel, best, Reason.EARLIEST, options)
        return Choice(work.kernel, here, Reason.STAYS, options)

    def _tries(self, work: Work, option: Option, now: float) -> bool:
        """Whether to try a device for a work; if so, nobody else does until something has come of it."""
        place = work.kernel, option.device
        curve = self.profile.curve(*place)
        known = curve is not None and curve.samples >= KNOWN
        if curve is not None and known and now - curve.seen_at < _STALE_S:
            return False
        times, last, _ = self._tried.get(place, (0, -inf, 0.0))
        if times >= _TRIES or now - last < _RETRY_S:
            return False
        earned_s = (now - self._credited_at) * _TRYING_SHARE
        self._credit_s, self._credited_at = min(_TRYING_S, self._credit_s + earned_s), now
        cost_s = option.transfer_s + option.run_s / max(1.0, work.times) if known else 0.0
        if (
            self._credit_s <= cost_s
        ):  # a few samples say little: what was compiled in one is not the next time
            return False
        self._credit_s -= cost_s
        if len(self._tried) >= MOST_CURVES:
            self._tried.clear()
        self._tried[place] = times + 1, now, cost_s
        return True

    def _given(self, device: str) -> Traits:
        return self.traits.get(device, _UNKNOWN)

    def _nowhere(self, work: Work) -> str:
        fenced = "; ".join(f"{device} is fenced off: {why}" for device, why in self.fenced.items())
        return f"no device is left for {work.kernel} ({fenced or 'none was offered'})"


_UNKNOWN = Traits()
_FINISH = attrgetter("finish_s")
