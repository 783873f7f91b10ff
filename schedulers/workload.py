"""A workload: which jobs come when, and what each of them does. What the simulator runs; without code.

A job is a list of steps: device time, waits, predictions. A wait ends after a while (a sleep, something on
the host), or when another job has come to a *milestone*: it has been served so many seconds, or has ended. In
a workload made from a trace all milestones lie in the past of those who wait for them, so whatever the order
in which a policy serves the jobs, nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.soc.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Milestone:
    """Job number `job` has behind it so many waits, and has been served so many device seconds in all; or it
    is beyond that, or has ended."""

    job: int
    served_s: float = inf  # inf: when it has ended
    waits: int = 0

    @property
    def place(self) -> tuple[float, float]:
        """Where it is on the job's way: the smaller comes first."""
        return (inf, inf) if self.served_s == inf else (self.waits, self.served_s)


@dataclass(frozen=True, slots=True)
class Run:
    """So many seconds on the job's device."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Rows:
    """So many rows in launches of the workload's batch number `batch`, each of at most `most`, one after the
    other until all are done, alone or with others; what a launch leaves over may go into the job's next one,
    if that is of several rows, too. What that takes, the batch's timing says; or, where the batch is a
    language model, the chip: rows are tokens then, read, or written if `most` is 1.

    `seconds` is how far it brings the job on its way to a milestone.
    """

    batch: int
    rows: int = 1
    most: int = 1 << 30
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Away from the device: for `seconds`, or until a milestone if there is one.

    `on` is the number of the job that is waited for, which inherits the urgency meanwhile. `sleep`: the
    device knows when it ends, so that whoever runs then gives way at once, as at a milestone.
    """

    seconds: float = 0.0
    until: Milestone | None = None
    on: int | None = None
    sleep: bool = False


@dataclass(frozen=True, slots=True)
class Predict:
    """The job says how many device seconds it will still take."""

    seconds_left: float


Step = Run | Rows | Wait | Predict


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody else does to a job at a time: another urgency, or a cancel.

    A cancelled job that has not started leaves; another one is served next, once, to clean up.
    """

    at_s: float
    qos: QoS | None = None
    deadline_s: float | None = None
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class PowerChange:
    """From `at_s` on the machine is in another state."""

    at_s: float
    state: PowerState


@dataclass(frozen=True, slots=True)
class WorkloadJob:
    """One job. Times are seconds since the workload's beginning, `deadline_s` too.

    It comes at `arrives_s`, or, if it has one, at the milestone `after` of the job that starts it. With a
    `pause_s` it is asked for from outside, so long after that milestone; how it then differs from
    `arrives_s`, its deadline and its changes differ, too.
    """

    name: str
    arrives_s: float = 0.0
    steps: tuple[Step, ...] = ()
    qos: QoS = QoS.DEFAULT
    tenant: str = "default"
    device: str = "cpu"
    deadline_s: float = inf
    predicted_s: float = 0.0
    after: Milestone | None = None
    pause_s: float | None = None
    changes: tuple[Change, ...] = ()
    batch: int | None = None  # of the rows that it is going to bring

    @property
    def service_s(self) -> float:
        """The device seconds of all its steps; of rows, as far as they bring it."""
        return sum(step.seconds for step in self.steps if isinstance(step, Run | Rows))


@dataclass(frozen=True, slots=True)
class DeviceTiming:
    """How late jobs stop on a device: as there are no interrupts within a quantum, and other processes.

    `give_way_s`: seconds that a job takes to give way when it is asked. `overrun_s`: by how much it runs
    longer than a slice. `wake_s`: how long an idle device takes to begin when somebody comes. Each has at
    least one value; they are used in turn, over and over.
    """

    give_way_s: tuple[float, ...] = (0.0002,)
    overrun_s: tuple[float, ...] = (0.0,)
    wake_s: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class SeenLaunch:
    """A launch that there was: when it began, its rows, and what it took."""

    at_s: float
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """What launches of a batch take: `costs` for 1 row, 2, and so on up to the most that a launch holds.

    A launch takes as long as the last one of like size among those `seen` that had begun by then, so that it
    is slow when they were; without any, as long as it costs. Decisions go by the costs or, where there are
    `learned` ones, by what those have taught by then (pace.py): each counts from its `at_s` on.
    """

    costs: tuple[float, ...]
    members: int = Batch.members
    seen: tuple[SeenLaunch, ...] = ()
    learned: tuple[SeenLaunch, ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs, numbered by their places, the devices, the scheduler's settings, and changes of the power state.

    Raises SchedulerError for what cannot be: the message says which job.
    """

    jobs: tuple[WorkloadJob, ...]
    devices: Mapping[str, DeviceTiming] = field(default_factory=lambda: {"cpu": DeviceTiming()})
    shares: Mapping[str, float] = field(default_factory=dict)
    background_share: float = 0.05
    max_wait_s: float = 10.0
    batches: tuple[BatchTiming | LanguageModel, ...] = ()
    members: int = Batch.members  # of a launch of a language model at most
    power: tuple[PowerChange, ...] = ()

    def __post_init__(self) -> None:
        for device, timing in self.devices.items():
            for values in (timing.give_way_s, timing.overrun_s, timing.wake_s):
                if not values or not all(0 <= seconds < inf for seconds in values):
                    raise SchedulerError(
                        f"the timing of device {device!r} has numbers of seconds from 0 on, not {values!r}"
                    )
        for batch in self.batches:
            if isinstance(batch, LanguageModel):
                continue
            if not batch.costs or not all(0 < cost < inf for cost in batch.costs):
                raise SchedulerError(f"the costs of a batch are positive numbers, not {batch.costs!r}")
            for launch in (*batch.seen, *batch.learned):
                if launch.rows < 1 or not 0 <= launch.at_s < inf or not 0 < launch.seconds < inf:
                    raise SchedulerError(f"there cannot have been {launch}")
        if self.members < 1:
            raise SchedulerError(f"a launch has at least one member, not {self.members!r}")
        for change in self.power:
            if not 0 <= change.at_s < inf:
                raise SchedulerError(
                    f"the power state changes at {change.at_s!r}; it takes a number of seconds from 0 on"
                )
        for number, job in enumerate(self.jobs):
            problem = self._problem(number, job)
            if problem is not None:
                raise SchedulerError(f"job {number} ({job.name}) of the workload {problem}")

    def _problem(self, number: int, job: WorkloadJob) -> str | None:
        if job.device not in self.devices:
            return f"is for device {job.device!r}; there are {sorted(self.devices)}"
        if not 0 <= job.arrives_s < inf:
            return f"arrives at {job.arrives_s!r}; it takes a number of seconds from 0 on"
        if job.pause_s is not None and (job.after is None or not 0 <= job.pause_s < inf):
            return f"pauses for {job.pause_s!r} after {job.after}; it takes a number of seconds from 0 on"
        numbers: list[int | None] = [job.after.job if job.after is not None else None]
        for step in job.steps:
            if isinstance(step, Predict):
                continue
            if isinstance(step, Rows) and not (
                0 <= step.batch < len(self.batches) and step.rows > 0 and step.most > 0
            ):
                return f"has the step {step}; there are {len(self.batches)} batches, and rows from 1 on"
            if not 0 <= step.seconds < inf:
                return f"has the step {step}; seconds are a number from 0 on"
            if isinstance(step, Wait):
                numbers += [step.on, step.until.job if step.until is not None else None]
        for other in numbers:
            if other == number:
                return "waits for itself"
            if other is not None and not 0 <= other < len(self.jobs):
                return f"waits for job {other}; there are {len(self.jobs)}, numbered from 0"
        return None
