"""How good placement's predictions are, what a choice costs, and whether it is right about urgent jobs.

Predictions are looked at where they count: each time that a model has read a prompt or written some tokens,
what placement would have said just before is kept beside what it took. The first samples of each kind train
it, and are left out. Prompts of all lengths come in random order, so a length is seldom the one before.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coro_rt
from coro_rt.llm.measured import Measured
from coro_rt.schedulers.choice import Work
from coro_rt.schedulers.entry import Entry
from coro_rt.schedulers.placement import Placement, Traits
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.scheduler import Scheduler

from .measure import Claim, Report, Row
from .prompts import text_ids
from .states import Found, check_all, states

TRAINING = 20  # samples of a kind that come before those that count
TOKENS = 17  # written after each prompt: the first comes from reading it
ERROR_PERCENT, LATER_PERCENT, CHOICE_US = 15.0, 10.0, 20.0

_DEVICES = ("cpu", "gpu", "npu")
_KERNELS, _READY, _CHOICES = 34, 3, 2000


@dataclass(frozen=True)
class Wanted:
    """What is asked for. `rounds`: how often each length comes. `every`: of the states, each n-th."""

    path: Path
    threads: int | None
    lengths: tuple[int, ...]
    rounds: int
    seed: int
    every: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One work that was measured, and what had been predicted; None: nothing was known."""

    work: Work
    predicted_s: float | None
    seen_s: float

    @property
    def error(self) -> float:
        """Of the prediction, as a part of what was seen."""
        assert self.predicted_s is not None
        return abs(self.predicted_s - self.seen_s) / self.seen_s


class Predicting(Placement):
    """Keeps what it would have said about everything that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Sample] = []

    def ran(self, work: Work, device: str, seconds: float, now: float, *rest: Any, **more: Any) -> None:
        if seconds:
            self.samples.append(Sample(work, self.predict(work, device), seconds))
        super().ran(work, device, seconds, now, *rest, **more)


async def measure(wanted: Wanted, progress: Callable[[int, int], object] = lambda done, of: None) -> Report:
    """All of it. `progress` is told how far it is."""
    report = Report("placement", f"{wanted.path.stem}, predicted and seen", peer="predicted")
    choices = [_choice_us() for _ in range(7)]
    report.rows.append(
        Row(
            f"a choice, {len(_DEVICES)} devices, {_KERNELS * len(_DEVICES)} curves",
            "µs",
            choices,
            statistic=min,
        )
    )
    report.claims.append(Claim("a choice", min(choices), CHOICE_US, at_least=False, unit="µs"))
    chosen = list(states())[:: wanted.every]
    total = len(chosen) + wanted.rounds * len(wanted.lengths)
    samples = await _samples(wanted, lambda done: progress(done, total))
    for kind, title in (("read", "reading a prompt"), ("write", "writing tokens")):
        _judge([one for one in samples if one.work.kernel.startswith(kind)], title, report)
    begun = total - len(chosen)
    found = check_all(chosen, seed=wanted.seed, progress=lambda done, of: progress(begun + done, total))
    _judge_states(found, report)
    return report


async def _samples(wanted: Wanted, progress: Callable[[int], object]) -> list[Sample]:
    rng = random.Random(wanted.seed)
    async with (
        coro_rt.open_runtime(threads=wanted.threads) as runtime,
        await runtime.load_model(wanted.path, prefix_reuse=False) as llm,
    ):
        placement = Predicting()
        runtime._engine.scheduler.placement = placement
        llm.places.chooser = Measured.of(runtime._engine, llm.places.first)
        lengths = [
            length for _ in range(wanted.rounds) for length in rng.sample(wanted.lengths, len(wanted.lengths))
        ]
        for number, length in enumerate(lengths):
            progress(number)
            ids = text_ids(llm, length, wanted.seed + number)
            async for _ in llm.generate(ids, max_tokens=TOKENS, ignore_eos=True):
                pass
        return placement.samples


def _judge(samples: list[Sample], title: str, report: Report) -> None:
    """A row for each size, and a claim about all that came after training."""
    counted = [one for one in samples[TRAINING:] if one.predicted_s is not None]
    if not counted:
        report.notes.append(f"{title}: {len(samples)} samples, of which the first {TRAINING} only train it")
        return
    sizes: dict[int, list[Sample]] = {}
    for one in counted:
        sizes.setdefault(round(one.work.size), []).append(one)
    for size, alike in sorted(sizes.items()):
        seen = [1e3 * one.seen_s / one.work.times for one in alike]
        predicted = [1e3 * (one.predicted_s or 0.0) / one.work.times for one in alike]
        report.rows.append(Row(f"{title}, size {size}", "ms", seen, predicted, less_is_better=True))
    error = 100 * sum(one.error for one in counted) / len(counted)
    what = f"{title}: mean error of {len(counted)} predictions after {TRAINING} samples"
    report.claims.append(Claim(what, error, ERROR_PERCENT, at_least=False, unit="%"))


def _judge_states(found: list[Found], report: Report) -> None:
    worst = max(found, key=lambda one: one.later)
    late = sum(one.later > LATER_PERCENT / 100 for one in found)
    what = f"urgent jobs in {len(found)} simulated states: the worst ends later than on the best device by"
    report.claims.append(Claim(what, 100 * worst.later, LATER_PERCENT, at_least=False, unit="%"))
    missed = sum(one.chosen != one.best for one in found)
    report.notes.append(
        f"{missed} of {len(found)} urgent jobs went to another than the best; {late} too late"
    )
    if late:
        report.notes.append(f"the worst: {worst}")


def _choice_us() -> float:
    """What `Scheduler.place` takes with a few ready jobs on each device, in microseconds of the CPU."""
    rng = random.Random(0)
    placement = Placement({name: Traits(watts=1.0) for name in _DEVICES})
    for kernel in range(_KERNELS):
        for name in _DEVICES:
            for _ in range(10):
                size = rng.uniform(1, 1000)
                placement.ran(Work(f"kernel {kernel}", size), name, 1e-4 * size, 0.0)
    scheduler = Scheduler(devices=_DEVICES, placement=placement)
    for number in range(_READY * len(_DEVICES)):
        level = rng.choice(tuple(QoS))
        device = _DEVICES[number % len(_DEVICES)]
        scheduler.submit(Entry(number, qos=level, device=device, predicted_seconds_left=0.1), 0.0)
    for name in _DEVICES:
        scheduler.next(name, 0.0)
    work = Work("kernel 7", 300.0)
    began = time.thread_time()
    for _ in range(_CHOICES):
        scheduler.place(work, _DEVICES, 0.1, qos=QoS.USER_INITIATED)
    return (time.thread_time() - began) / _CHOICES * 1e6
