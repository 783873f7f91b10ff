"""A chip while it runs: who computes what at which frequency, how fast, how warm it gets, how many joules go.

Between two changes everything is constant, so time passes in one step: joules are watts times seconds, and
the temperature of one body with a constant supply of heat is an exponential. Whoever drives it says what the
processors do (`begin`), asks how fast each is then (`speed`), and calls `check` when it is due. There, as a
phone's thermal governor does, all processors and the memory are slowed down when the case comes to its limit,
as far as it takes to stay below, and allowed another state when it has cooled down.
"""

from __future__ import annotations

from math import exp, inf, log

from coro_rt.schedulers.soc.chip import Chip, Frequency, Processor
from coro_rt.schedulers.soc.language_model import Load
from coro_rt.schedulers.soc.roofline import frugal, seconds, shared, wanted, watts

CHECK_S = 1.0  # how often the governor looks while it slows anything down
NEAR_K = 0.1  # it acts so far below the limit
COOL_K = 2.0  # and allows more when the case is so far below it
_CLOSE = 1e-6  # K: what an exponential loses by rounding


class _Working:
    """One processor: its load, and what follows from it."""

    __slots__ = ("alone_s", "busy_s", "drawn_j", "load", "processor", "slowest", "takes_s", "watts")

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.load: Load | None = None
        self.slowest = 0  # the state that is enough for its work
        self.alone_s = self.takes_s = 0.0  # the load: alone at full speed, and now
        self.watts = 0.0  # above idle
        self.busy_s = 0.0
        self.drawn_j = 0.0  # its work's, with the bytes that it moved


class Silicon:
    """One chip, from `now` on, as warm as its surroundings. Times never go back."""

    def __init__(self, chip: Chip, now: float = 0.0) -> None:
        self.chip = chip
        self.now = now
        self.celsius = self.hottest_c = chip.heat.ambient_c
        self.joules = 0.0  # of the whole chip
        self.awake_s = 0.0  # something ran
        self.throttled_s = 0.0  # of that, slower than it could have
        self._slowed = 0  # states that heat forbids
        self._working = {processor.name: _Working(processor) for processor in chip.processors}
        self.idle_w = chip.idle_w + sum(processor.idle_w for processor in chip.processors)
        self.watts = self.idle_w  # that the whole chip takes now

    # What it does.

    def begin(self, name: str, load: Load | None, *, stretch: float = 0.0) -> list[str]:
        """From now on a processor has this load, or none, in the state in which it takes the fewest joules
        and, alone, no longer than `stretch` times what it takes in the fastest. Returns whose speed has
        changed."""
        working = self._working[name]
        slowest = 0
        if load is not None and stretch >= 1.0:
            slowest = frugal(self.chip, working.processor, load, stretch)
        if load == working.load and slowest == working.slowest:
            return []
        working.load, working.slowest = load, slowest
        if load is not None:
            working.alone_s = seconds(working.processor, load)
        return self._share()

    def advance(self, now: float) -> None:
        """Time passes."""
        elapsed = now - self.now
        if elapsed <= 0.0:
            return
        self.now = now
        self.joules += self.watts * elapsed
        heat = self.chip.heat
        settled = self._settles_at
        self.celsius = settled + (self.celsius - settled) * exp(-elapsed / heat.settles_s)
        self.hottest_c = max(self.hottest_c, self.celsius)
        busy = False
        for working in self._working.values():
            if working.load is not None:
                busy = True
                working.busy_s += elapsed
                moved = working.load.bytes / working.takes_s
                working.drawn_j += elapsed * (working.watts + moved * self.chip.memory.joules_per_byte)
        if busy:
            self.awake_s += elapsed
            self.throttled_s += elapsed if self._slowed else 0.0

    def check(self) -> list[str]:
        """The governor looks at the temperature. Returns whose speed has changed."""
        limit = self.chip.heat.limit_c
        if self.celsius >= limit - NEAR_K - _CLOSE:
            changed: dict[str, None] = {}
            most = max(len(processor.states) for processor in self.chip.processors) - 1
            while self._slowed < most and self._settles_at > limit:
                self._slowed += 1
                changed |= dict.fromkeys(self._share())
            return list(changed)
        if self._slowed and self.celsius < limit - COOL_K:
            self._slowed -= 1
            return self._share()
        return []

    # What it says.

    @property
    def check_due(self) -> float:
        """When the governor should look next; inf: there is no reason to, as things are."""
        acts_at = self.chip.heat.limit_c - NEAR_K
        due_s = CHECK_S if self._slowed else inf
        settled = self._settles_at
        if settled > acts_at:
            left_s = CHECK_S
            if self.celsius < acts_at - _CLOSE:
                left_s = self.chip.heat.settles_s * log((settled - self.celsius) / (settled - acts_at))
            due_s = min(due_s, left_s)
        return self.now + due_s

    def speed(self, name: str) -> float:
        """How fast a processor gets on with its load, as a part of its speed alone at the highest
        frequency; 1 without a load."""
        working = self._working[name]
        return 1.0 if working.load is None else working.alone_s / working.takes_s

    @property
    def thermal(self) -> float:
        """The part of full speed that heat leaves."""
        return min(self._state(processor, 0).speed for processor in self.chip.processors)

    def drawn_j(self, name: str) -> float:
        """What the work on a processor took so far, above idle, with the bytes that it moved."""
        return self._working[name].drawn_j

    def busy_s(self, name: str) -> float:
        """How long a processor has had a load so far."""
        return self._working[name].busy_s

    # How it comes about.

    @property
    def _settles_at(self) -> float:
        heat = self.chip.heat
        return heat.ambient_c + heat.kelvin_per_watt * self.watts

    def _state(self, processor: Processor, slowest: int) -> Frequency:
        """The state that a processor is in: the one that is enough for its work, or what heat allows."""
        return processor.states[min(max(slowest, self._slowed), len(processor.states) - 1)]

    @property
    def _bandwidth(self) -> float:
        """The memory's, whose frequency goes down with that of the processors."""
        speeds = [self._state(processor, 0).speed for processor in self.chip.processors]
        return self.chip.memory.bandwidth * max(speeds)

    def _wants(self) -> dict[str, float]:
        """The bytes a second that each load is as fast as can be with."""
        return {
            name: wanted(
                working.processor, working.load, self._state(working.processor, working.slowest).speed
            )
            for name, working in self._working.items()
            if working.load is not None
        }

    def _share(self) -> list[str]:
        """Shares out the memory anew. Returns whose load takes another time than before."""
        got = shared(self._bandwidth, self._wants())
        changed: list[str] = []
        power = self.idle_w + (self.chip.awake_w if got else 0.0)
        for name, bandwidth in got.items():
            working = self._working[name]
            load, processor = working.load, working.processor
            assert load is not None
            state = self._state(processor, working.slowest)
            takes_s = seconds(processor, load, state.speed, bandwidth)
            if takes_s != working.takes_s:
                changed.append(name)
            working.takes_s = takes_s
            working.watts = watts(processor, load, state, takes_s)
            power += working.watts + load.bytes / takes_s * self.chip.memory.joules_per_byte
        self.watts = power
        return changed
