"""Whether placement is right about urgent jobs, over all small states of some devices, in the simulator.

A state is a backlog on each device, and an urgent job that comes. Placement knows kernels from 20 samples
each, with 5 % of noise. Where it sends the job is compared with what would have been: the same state is
simulated once for each device, with the job there, and the ends are compared. The scheduler that is asked,
and that decides all the while, is the very one of the runtime.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

from coro_rt.schedulers.choice import Work
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.schedulers.simulation import simulate
from coro_rt.schedulers.workload import DeviceTiming, Run, Workload, WorkloadJob

KERNEL = "k"
DEVICES = {"cpu": (0.001, 1e-4), "gpu": (0.01, 3e-5), "npu": (0.03, 1.5e-5)}
"""Fixed seconds, and seconds for each unit of size: each device is the best one for some sizes."""

SIZES = (20.0, 250.0, 3000.0)
SAMPLES, NOISE = 20, 0.05  # that placement has seen of each, and their spread

Waiting = tuple[tuple[QoS, float], ...]
"""Who is on a device: levels, and seconds to run."""

_ONES: tuple[Waiting, ...] = (
    (),
    *(
        ((qos, seconds),)
        for qos in (QoS.BACKGROUND, QoS.DEFAULT, QoS.USER_INITIATED, QoS.USER_INTERACTIVE)
        for seconds in (0.01, 0.15)
    ),
)
_CROWDS: tuple[Waiting, ...] = (
    ((QoS.USER_INTERACTIVE, 0.02), (QoS.USER_INTERACTIVE, 0.2)),
    ((QoS.USER_INITIATED, 0.1), (QoS.USER_INITIATED, 0.1), (QoS.USER_INTERACTIVE, 0.05)),
    ((QoS.DEFAULT, 0.5), (QoS.UTILITY, 0.5), (QoS.BACKGROUND, 1.0)),
    ((QoS.BACKGROUND, 1.0), (QoS.BACKGROUND, 1.0), (QoS.USER_INITIATED, 0.05)),
)
_FEW: tuple[Waiting, ...] = (_ONES[0], _ONES[2], _ONES[8], _CROWDS[0], _CROWDS[3])


@dataclass(frozen=True, slots=True)
class Urgent:
    """Who comes: how urgent, how much, when, and how soon it is to be done."""

    qos: QoS
    size: float
    at_s: float
    within_s: float = inf


URGENT = tuple(
    Urgent(qos, size, at_s, within_s)
    for (qos, within_s), size, at_s in product(
        ((QoS.USER_INTERACTIVE, inf), (QoS.USER_INITIATED, inf), (QoS.DEFAULT, 0.4)), SIZES, (0.003, 0.06)
    )
)


@dataclass(frozen=True, slots=True)
class State:
    """Backlogs, by device, and who comes."""

    backlogs: tuple[tuple[str, Waiting], ...]
    urgent: Urgent


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a state: seconds from coming to the end, where placement sent it, and at best."""

    state: State
    chosen: str
    best: str
    chosen_s: float
    best_s: float

    @property
    def later(self) -> float:
        """By which part the urgent job ends later than it could have."""
        return self.chosen_s / self.best_s - 1.0


def states() -> Iterator[State]:
    """All of them: two devices with everything, three with less."""
    for names, waiting in ((("cpu", "gpu"), (*_ONES, *_CROWDS)), (("cpu", "gpu", "npu"), _FEW)):
        for urgent in URGENT:
            for backlogs in product(waiting, repeat=len(names)):
                yield State(tuple(zip(names, backlogs, strict=True)), urgent)


def trained(seed: int = 0) -> Placement:
    """A placement that has measured `KERNEL` on all devices."""
    rng = random.Random(seed)
    placement = Placement()
    for device in DEVICES:
        for number in range(SAMPLES):
            size = rng.choice(SIZES) * rng.uniform(0.5, 1.5)
            placement.ran(
                Work(KERNEL, size), device, takes_s(device, size) * rng.lognormvariate(0, NOISE), number
            )
    return placement


def takes_s(device: str, size: float) -> float:
    """What so much takes in truth."""
    fixed_s, per_unit_s = DEVICES[device]
    return fixed_s + per_unit_s * size


def check(state: State, placement: Placement) -> Found:
    """Ask where the urgent job goes, and simulate it on each device."""
    urgent = state.urgent
    names = [device for device, _ in state.backlogs]
    work = Work(KERNEL, urgent.size)
    chosen: list[str] = []

    def look(scheduler: Scheduler, now: float) -> None:
        scheduler.placement = placement
        choice = scheduler.place(work, names, now, qos=urgent.qos, deadline=now + urgent.within_s)
        chosen.append(choice.device)

    simulate(_workload(state), looks=[(urgent.at_s, look)])
    ends: dict[str, float] = {}
    for device in names:
        outcome = simulate(_workload(state, device, placement.predict(work, device) or 0.0))
        ends[device] = outcome.jobs[-1].ended_s - urgent.at_s
    best = min(ends, key=lambda device: ends[device])
    return Found(state, chosen[0], best, ends[chosen[0]], ends[best])


def check_all(
    wanted: Sequence[State], *, seed: int = 0, progress: Callable[[int, int], object] = lambda done, of: None
) -> list[Found]:
    """What became of all of them."""
    placement = trained(seed)
    found = []
    for number, state in enumerate(wanted):
        found.append(check(state, placement))
        if number % 100 == 0:
            progress(number, len(wanted))
    return found


def _workload(state: State, device: str | None = None, predicted_s: float = 0.0) -> Workload:
    """The state, with the urgent job on a device, or without it."""
    jobs = [
        WorkloadJob("backlog", 0.0, (Run(seconds),), qos=qos, device=name, predicted_s=seconds)
        for name, waiting in state.backlogs
        for qos, seconds in waiting
    ]
    if device is not None:
        urgent = state.urgent
        jobs.append(
            WorkloadJob(
                "urgent",
                urgent.at_s,
                (Run(takes_s(device, urgent.size)),),
                qos=urgent.qos,
                device=device,
                deadline_s=urgent.at_s + urgent.within_s,
                predicted_s=predicted_s,
            )
        )
    return Workload(tuple(jobs), {name: DeviceTiming() for name, _ in state.backlogs})
