"""An instrument that writes the Trace Event format, which Perfetto and chrome://tracing open.

A track for the host and one for each device; on a device, the job that has it, and inside that its kernels.
An arrow leads from where a job became ready to where it runs; counters show how many are ready, and the
memory that is reserved; and each job has a line of its own, from submission to end. The format:
https://ui.perfetto.dev, "Trace Event Format".

What happens is noted as a tuple; the file is written when the runtime closes, which is when nobody waits for
it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from coro_rt._version import __version__
from coro_rt.instruments import Instrument
from coro_rt.trap import local

if TYPE_CHECKING:
    from coro_rt.devices.base import Device
    from coro_rt.errors import DeviceLost
    from coro_rt.job import Job
    from coro_rt.kernel import Launch
    from coro_rt.runtime import Runtime

logger = logging.getLogger("coro_rt")

MOST_EVENTS = 2_000_000
"""Notes that are kept, some 100 bytes each; what happens after that is not in the file, which says so."""

_PID, _HOST = 1, 0

_SUBMITTED, _WOKEN, _RUNS, _GIVES_WAY, _WAITS, _ENDED, _LAUNCH, _LAUNCH_LEFT, _MEMORY, _RIDES = range(10)
_FENCED, _READMITTED = 10, 11

Note = tuple[int, float, int, Any]  # what, when, the job's number (0: a device's), more


class TraceEvents(Instrument):
    """Writes a trace to `path`. One for each runtime; OSError where the file cannot be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._notes: list[Note] = []
        self._file: TextIOWrapper | None = None
        self._runtime: Runtime | None = None
        self._began = 0.0
        self._memory = -1  # as last noted

    def runtime_opened(self, runtime: Runtime) -> None:
        self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 (closed with the runtime)
        self._runtime = runtime
        self._began = runtime.clock()

    def _note(self, what: int, now: float, job: Job[Any], more: Any = None) -> None:
        if len(self._notes) < MOST_EVENTS:
            self._notes.append((what, now, job.entry.id, more))

    def job_submitted(self, job: Job[Any], now: float) -> None:
        entry = job.entry
        self._note(_SUBMITTED, now, job, (entry.name, entry.qos.name, entry.tenant, entry.device, _on()))

    def job_rides(self, job: Job[Any], leader: Job[Any], now: float) -> None:
        self._note(_RIDES, now, job)

    def job_wakes(self, job: Job[Any], now: float) -> None:
        self._note(_WOKEN, now, job, _on())

    def job_runs(self, job: Job[Any], now: float) -> None:
        self._note(_RUNS, now, job)
        self._look_at_memory(job, now)

    def job_gives_way(self, job: Job[Any], now: float) -> None:
        self._note(_GIVES_WAY, now, job)

    def job_waits(self, job: Job[Any], now: float) -> None:
        self._note(_WAITS, now, job)

    def job_ended(self, job: Job[Any], now: float) -> None:
        self._note(_ENDED, now, job, None if job.error is None else type(job.error).__name__)
        self._look_at_memory(job, now)

    def device_fenced(self, device: Device, error: DeviceLost, now: float) -> None:
        self._notes.append((_FENCED, now, 0, (device.name, error.reason)))

    def device_readmitted(self, device: Device, now: float) -> None:
        self._notes.append((_READMITTED, now, 0, (device.name, "")))

    def _look_at_memory(self, job: Job[Any], now: float) -> None:
        assert self._runtime is not None
        used = self._runtime.memory.used
        if used != self._memory:
            self._memory = used
            self._note(_MEMORY, now, job, used)

    def launch_began(self, job: Job[Any], launch: Launch[Any], now: float) -> None:
        self._note(_LAUNCH, now, job, launch.kernel.name)

    def launch_left(self, job: Job[Any], launch: Launch[Any], now: float) -> None:
        self._note(_LAUNCH_LEFT, now, job)

    def runtime_closed(self) -> None:
        assert self._runtime is not None
        assert self._file is not None
        devices = [device.name for device in self._runtime.devices]
        if len(self._notes) >= MOST_EVENTS:
            logger.warning("the trace %s breaks off: there were more than %d events", self.path, MOST_EVENTS)
        with self._file as file:
            file.write('{"displayTimeUnit": "ms", "otherData": ')
            json.dump({"coro_rt": __version__, "complete": len(self._notes) < MOST_EVENTS}, file)
            file.write(', "traceEvents": [\n')
            for at, event in enumerate(_events(self._notes, devices, self._began)):
                file.write((",\n" if at else "") + json.dumps(event, separators=(",", ":")))
            file.write("\n]}\n")
        self._notes = []


def _on() -> str | None:
    """The device whose worker is calling; None for the host."""
    return None if local.worker is None else local.worker.name


class _Seen:
    """A job, while the events are made."""

    __slots__ = ("arrow", "device", "launch", "name", "qos", "ran_since", "tenant")

    def __init__(self, name: str, qos: str, tenant: str, device: str) -> None:
        self.name, self.qos, self.tenant, self.device = name, qos, tenant, device
        self.ran_since: float | None = None
        self.launch: tuple[str, float] | None = None
        self.arrow: int | None = None  # one that leads to where it runs next


def _events(notes: list[Note], devices: list[str], began: float) -> Iterator[dict[str, Any]]:
    """The events of some notes."""
    tracks = {name: at for at, name in enumerate(devices, start=1)}
    yield _about("process_name", _HOST, "coro_rt")
    yield _about("thread_name", _HOST, "host")
    for name, track in tracks.items():
        yield _about("thread_name", track, f"device {name}")
    jobs: dict[int, _Seen] = {}
    ready = dict.fromkeys(devices, 0)
    arrows = 0
    for what, now, number, more in notes:
        ts = round((now - began) * 1e6, 3)
        if what in (_FENCED, _READMITTED):
            device, reason = more
            name = f"fenced: {reason}" if what == _FENCED else "readmitted"
            yield _event("i", ts, tracks[device], name, cat="device", s="t")
            continue
        if what == _SUBMITTED:
            *described, on = more
            job = jobs[number] = _Seen(*described)
            yield _event(
                "b", ts, _HOST, job.name, cat="job", id=number, args={"qos": job.qos, "tenant": job.tenant}
            )
        else:
            job = jobs[number]
            on = more
        track = tracks[job.device]
        if what in (_SUBMITTED, _WOKEN):
            arrows += 1
            job.arrow = arrows
            source = _HOST if on is None else tracks[on]
            if on is None:  # an arrow begins inside of something
                verb = "submit" if what == _SUBMITTED else "wake"
                yield _event("X", ts, _HOST, f"{verb} {job.name}", cat="host", dur=1, args={"job": number})
            yield _event("s", ts, source, "ready", cat="ready", id=arrows)
        elif what in (_RUNS, _RIDES):
            if what == _RUNS:
                job.ran_since = ts
            if job.arrow is not None:
                yield _event("f", ts, track, "ready", cat="ready", id=job.arrow, bp="e")
                job.arrow = None
        elif what == _LAUNCH:
            job.launch = (more, ts)
        elif what == _LAUNCH_LEFT and job.launch is not None:
            name, since = job.launch
            job.launch = None
            yield _event("X", since, track, name, cat="kernel", dur=round(ts - since, 3))
        elif what == _MEMORY:
            yield _event("C", ts, _HOST, "memory reserved", args={"bytes": more})
        if what in (_GIVES_WAY, _WAITS, _ENDED) and job.ran_since is not None:
            about = {"job": number, "qos": job.qos, "tenant": job.tenant}
            since, job.ran_since = job.ran_since, None
            yield _event("X", since, track, job.name, cat="job", dur=round(ts - since, 3), args=about)
        elif what == _ENDED:  # it never ran, or was ready
            ready[job.device] -= 1
        if what in (_SUBMITTED, _WOKEN, _GIVES_WAY):
            ready[job.device] += 1
        elif what in (_RUNS, _RIDES):
            ready[job.device] -= 1
        if what in (_SUBMITTED, _WOKEN, _RUNS, _RIDES, _ENDED):
            yield _event("C", ts, track, f"ready on {job.device}", args={"jobs": ready[job.device]})
        if what == _ENDED:
            yield _event("e", ts, _HOST, job.name, cat="job", id=number, args={"error": more})


def _event(ph: str, ts: float, tid: int, name: str, **more: Any) -> dict[str, Any]:
    return {"ph": ph, "ts": ts, "pid": _PID, "tid": tid, "name": name, **more}


def _about(what: str, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": _PID, "tid": tid, "name": what, "args": {"name": name}}
