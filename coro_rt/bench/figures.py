"""Rows and claims of the scene: what was seen, beside each peer, and what was promised of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import fmean, median

from .measure import Claim, Row, p99
from .scene import Answer, Seen, Window

QUANTUM_S = 0.002
"""The longest quantum on the CPU (docs/design.md)."""

BY_SERVER = ({"median": 3, "mean": 15, "P99": 50}, {"P99": 20})
"""How many times shorter the wait for the first token is to be: than the server's, than its small batch's."""

WINDOWS: dict[str, Callable[[Window], float]] = {
    "tokens written by the background": lambda window: window.written_per_s,
    "tokens read by the background": lambda window: window.read_per_s,
    "tokens written for the asks": lambda window: window.answered_per_s,
    "tokens written by all": lambda window: window.all_written_per_s,
    "tokens read and written by all": lambda window: window.all_per_s,
}
OF_ALL = {
    "tokens written by all": "tokens written by the background",
    "tokens read and written by all": "tokens read and written by all",
}
"""Of WINDOWS, what counts everybody's tokens: the same of the background alone."""

STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": median, "mean": fmean, "P99": p99, "max": max,
}  # fmt: skip


def first_token_ms(answers: Sequence[Answer]) -> list[float]:
    """From each ask to the first token."""
    return [answer.arrivals_s[0] * 1e3 for answer in answers]


def between_tokens_ms(answers: Sequence[Answer]) -> list[float]:
    """From each token of an answer to the next."""
    return [gap * 1e3 for gap in chain.from_iterable(answer.gaps_s for answer in answers)]


def gave_way_ms(answers: Sequence[Answer]) -> list[float]:
    """From each submission to the first grant."""
    return [answer.gave_way_s * 1e3 for answer in answers if answer.gave_way_s is not None]


def rows(ours: Seen, fifo: Seen, peers: Mapping[str, Seen], make: Callable[..., Row]) -> list[Row]:
    """Ours beside each peer, or alone; then what only we know. `make` takes a Row's arguments."""
    found = []
    for name, peer in peers.items() or [("", Seen())]:
        found += _beside(ours, peer, f", beside {name}" if name else "", make)
    waits = (first_token_ms(side.loaded) for side in (ours, fifo))
    found.append(make("first token, loaded, median, beside fifo", "ms", *waits, less_is_better=True))
    for what in OF_ALL:
        rates = ([WINDOWS[what](window) for window in side.beside] for side in (ours, fifo))
        found.append(make(f"{what}, loaded, beside fifo", "tokens/s", *rates, statistic=fmean))
    for statistic in ("median", "P99", "max"):
        what = f"from submit to the first grant, loaded, {statistic}"
        found.append(make(what, "ms", gave_way_ms(ours.loaded), statistic=STATISTICS[statistic]))
    shares = [100 * window.deciding_s / window.seconds for window in ours.beside]
    return [*found, make("time in the scheduler, loaded", "%", shares, statistic=fmean)]


def _beside(ours: Seen, peer: Seen, beside: str, make: Callable[..., Row]) -> list[Row]:
    found = []

    def times(what: str, of: Callable[[Sequence[Answer]], list[float]], *names: str) -> None:
        for state in ("idle", "loaded"):
            pair = of(getattr(ours, state)), of(getattr(peer, state))
            for name in names:
                said = f"{what}, {state}, {name}{beside}"
                found.append(make(said, "ms", *pair, less_is_better=True, statistic=STATISTICS[name]))

    def rates(what: str, of: Callable[[Window], float], state: str, windows: str) -> None:
        pair = ([of(window) for window in getattr(side, windows)] for side in (ours, peer))
        found.append(make(f"{what}, {state}{beside}", "tokens/s", *pair, statistic=fmean))

    times("first token", first_token_ms, "median", "mean", "P99", "max")
    times("between tokens", between_tokens_ms, "median", "P99")
    for what, of in WINDOWS.items():
        if "background" in what:
            rates(what, of, "alone", "alone")
        rates(what, of, "loaded", "beside")
    return found


def claims(ours: Seen, fifo: Seen, peers: Mapping[str, Seen]) -> list[Claim]:
    """What was promised, each with what was found."""
    found = []

    def at_most(what: str, value: float, bound: float, unit: str = "") -> None:
        found.append(Claim(what, value, bound, at_least=False, unit=unit))

    def at_least(what: str, value: float, bound: float) -> None:
        found.append(Claim(what, value, bound, at_least=True))

    for name in ("median", "P99"):
        statistic = STATISTICS[name]
        bound = 1.3 * statistic(first_token_ms(ours.idle)) + QUANTUM_S * 1e3
        what = f"first token, loaded, {name} (1.3 times idle and a quantum)"
        at_most(what, statistic(first_token_ms(ours.loaded)), bound, "ms")
    for (name, peer), bounds in zip(peers.items(), BY_SERVER, strict=False):
        for statistic_name, bound in bounds.items():
            statistic = STATISTICS[statistic_name]
            times = statistic(first_token_ms(peer.loaded)) / statistic(first_token_ms(ours.loaded))
            at_least(f"first token, loaded, {statistic_name}: times better than {name}", times, bound)
        theirs, own = (_rate(side.beside, "tokens written by the background") for side in (peer, ours))
        if theirs:
            at_least(f"tokens written by the background, loaded: times {name}'s", own / theirs, 2)
    alone, loaded = (p99(between_tokens_ms(answers)) for answers in (ours.idle, ours.loaded))
    at_most("between tokens, P99: loaded by idle", loaded / alone, 1.5)
    for what, of_background in OF_ALL.items():
        made = _rate(ours.beside, what)
        if alone_rate := _rate(ours.alone, of_background):
            at_least(f"{what}: of what the background alone makes", made / alone_rate, 0.9)
        at_least(f"{what}: of what fifo makes", made / _rate(fifo.beside, what), 0.95)
    bound = 2 * QUANTUM_S * 1e3
    at_most(
        "from submit to the first grant, loaded, P99 (2 quanta)", p99(gave_way_ms(ours.loaded)), bound, "ms"
    )
    deciding = sum(window.deciding_s for window in ours.beside) / sum(one.seconds for one in ours.beside)
    at_most("time in the scheduler, loaded", 100 * deciding, 3, "%")
    return found


def _rate(windows: Sequence[Window], what: str) -> float:
    return fmean(WINDOWS[what](window) for window in windows)
