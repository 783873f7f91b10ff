"""The runtime at one moment: devices, queues and jobs. What `coro-rt top` shows, and any monitor of your own.

It is taken under the engine's lock, so it takes bounded time: of very many jobs it names some and counts the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from coro_rt.energy.account import DeviceEnergy
from coro_rt.job import Job, JobEntry
from coro_rt.ledger import Ledger
from coro_rt.schedulers.entry import State
from coro_rt.schedulers.explanation import plain_key
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.qos import QoS
from coro_rt.stats import Stats

if TYPE_CHECKING:
    from coro_rt.engine import Engine
    from coro_rt.memory.residency import Residency
    from coro_rt.worker import Worker

_LOOKED_AT = 8  # jobs that are looked at, from both ends, for each waiting one that is asked for


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device, who runs on it and who is ready."""

    name: str
    kind: str
    detail: str
    running: int | None  # the job's id
    running_for_s: float  # since it was granted the device
    busy_s: float  # with a job on it, since the runtime was opened
    busy_share: float  # of that time
    energy: DeviceEnergy
    ready: int
    queue: tuple[int, ...]  # ids of ready jobs, soonest first; at most as many as were asked for
    fenced: str | None  # why it runs no kernels, since when, and when it is tried again


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """One job: how urgent it is, what it has used, and why it runs or waits."""

    id: int
    name: str
    task: str  # the name of the task that asked for it, or for its parent
    state: State
    device: str
    tenant: str
    qos: QoS
    effective_qos: QoS  # with what it inherits
    key: float | tuple[float, ...]  # the policy's; smaller runs sooner
    deadline_in_s: float | None
    since_s: float  # in this state for so long
    cancelled: bool
    why: str
    ledger: Ledger  # its own, and of its children that have ended


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment; `as_json()` is plain."""

    open_s: float  # since the runtime was opened
    policy: str
    power: PowerState | None  # what the machine runs on, as it was last seen; None: nobody knows
    devices: tuple[DeviceSnapshot, ...]
    jobs: tuple[JobSnapshot, ...]  # running, then ready ones of each device, soonest first, then waiting ones
    jobs_left_out: int
    ended: Ledger  # what the jobs that have ended used
    stats: Stats

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON; enums by name, a key that is not finite as a text."""
        plain = asdict(self)
        for job, seen in zip(plain["jobs"], self.jobs, strict=True):
            job |= {
                "state": seen.state.value,
                "qos": seen.qos.name,
                "effective_qos": seen.effective_qos.name,
                "key": plain_key(seen.key),
            }
        return plain


def take(engine: Engine, residency: Residency, *, limit: int) -> Snapshot:
    """A snapshot with at most `limit` ready jobs of each device and `limit` waiting ones. From any thread."""
    details = {name: worker.device.detail for name, worker in engine.workers.items()}  # their own code
    with engine.lock:
        now = engine.clock()
        open_s = now - engine.opened_at
        seen: list[JobSnapshot] = []
        ready: list[JobSnapshot] = []
        devices = []
        for worker in engine.workers.values():
            entry = engine.scheduler.running(worker.name)
            if entry is not None:
                seen.append(_job(cast(JobEntry, entry).job, now, entry.turn.value))
            queue = [
                cast(JobEntry, entry).job for entry in engine.scheduler.upcoming(worker.name, now, limit)
            ]
            ready += [_job(job, now, _place(place, worker)) for place, job in enumerate(queue)]
            devices.append(_device(engine, worker, details[worker.name], queue, now, open_s))
        waiting = islice(_waiting_locked(engine, _LOOKED_AT * limit), limit)
        seen += ready
        seen += [_job(job, now, _waits_for(job)) for job in waiting]
        return Snapshot(
            open_s=open_s,
            policy=engine.scheduler.policy.name,
            power=engine.scheduler.power,
            devices=tuple(devices),
            jobs=tuple(seen),
            jobs_left_out=len(engine.jobs) - len(seen),
            ended=engine.ended,
            stats=engine.stats_locked(memory_used=residency.budget.used, memory=residency.usage()),
        )


def _device(
    engine: Engine, worker: Worker, detail: str, queue: list[Job[Any]], now: float, open_s: float
) -> DeviceSnapshot:
    running = engine.scheduler.running(worker.name)
    busy_s = worker.busy_s + worker.held_s(now)
    return DeviceSnapshot(
        name=worker.name,
        kind=worker.device.kind,
        detail=detail,
        running=None if running is None else running.id,
        running_for_s=0.0 if running is None or not worker.granted else now - worker.granted[-1][0],
        busy_s=busy_s,
        busy_share=min(1.0, busy_s / open_s) if open_s > 0 else 0.0,
        energy=worker.energy,
        ready=engine.scheduler.ready(worker.name),
        queue=tuple(job.entry.id for job in queue),
        fenced=None if worker.fence is None else worker.fence.describe(now),
    )


def _job(job: Job[Any], now: float, why: str) -> JobSnapshot:
    entry = job.entry
    since = entry.ready_since if job.trap is None else job.parked_at
    return JobSnapshot(
        id=entry.id,
        name=entry.name,
        task=job.task,
        state=entry.state,
        device=entry.device,
        tenant=entry.tenant,
        qos=entry.qos,
        effective_qos=entry.effective_qos,
        key=entry.key,
        deadline_in_s=entry.deadline - now if math.isfinite(entry.deadline) else None,
        since_s=max(0.0, now - since),
        cancelled=job.cancelled is not None,
        why=why,
        ledger=job.spent,
    )


def _place(place: int, worker: Worker) -> str:
    runner = worker.job
    if place:
        return f"{place} ready before it"
    return "it is next" if runner is None else f"it is next, after {runner.entry.label}"


def _waits_for(job: Job[Any]) -> str:
    what = "" if job.trap is None else job.trap.what()
    on = job.entry.waits_on
    if on is None:
        return f"waits for {what}" if what else ""
    return f"waits for {what} from {on.label}" if what else f"waits for {on.label}"


def _waiting_locked(engine: Engine, looks: int) -> Iterator[Job[Any]]:
    """Waiting jobs among the oldest and the youngest; all of them where there are few jobs."""
    oldest = list(islice(engine.jobs, looks))
    left = len(engine.jobs) - len(oldest)
    youngest = list(islice(reversed(engine.jobs), min(looks, left)))
    for job in (*oldest, *reversed(youngest)):
        if job.state is State.WAITING:
            yield job
