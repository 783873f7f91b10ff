"""What a trace says about its jobs: the workload that they were, and what became of them.

Of each job: when it came; its device time between waits; its waits. A wait that a job's own step ended (it
released a lock, set an event, ended) is a wait for that job's milestone, so that under another policy it ends
when that job gets there; any other took its time outside (a sleep, something on the host), and takes as long
again. A job that another one started comes at that one's milestone. What a task asks for when it has what it
asked for before comes so long after that job's end as it did; anything else from the host when it came.
"""

from __future__ import annotations

from math import inf
from typing import Any

from coro_rt.schedulers.outcome import JobOutcome, Outcome, Span
from coro_rt.schedulers.qos import QoS
from coro_rt.schedulers.workload import (
    Change,
    DeviceTiming,
    Milestone,
    PowerChange,
    Predict,
    Rows,
    Run,
    Step,
    Wait,
    Workload,
    WorkloadJob,
)
from coro_rt.trace.calls import BATCH, POWER, WORKER, Call
from coro_rt.trace.reader import Trace
from coro_rt.trace.shared import RecordedBatch, RecordedLaunch


class RecordedJob:
    """One entry of the trace, as far as it has been read."""

    def __init__(
        self,
        number: int,
        call: Call,
        now: float,
        device: _Device,
        *,
        after: Milestone | None,
        before: RecordedJob | None,
    ) -> None:
        entry = call.entry
        self.number = number
        self.name: str = entry["name"]
        self.qos: QoS = entry["qos"]
        self.tenant: str = entry["tenant"]
        self.device: str = entry["device"]
        self.at = device  # where it is, if it has moved
        self.deadline: float = entry["deadline"]
        self.predicted_s: float = entry["predicted_seconds_left"]
        self.after = after
        self.before = before  # what its task had asked for before, and had
        self.arrived = now
        self.started = self.ended = inf
        self.steps: list[Step] = []
        self.changes: list[Change] = []
        self.served_s = 0.0
        self.stepped_s = 0.0  # of that, in steps already
        self.booked = 0.0  # when it was granted the device, or last booked
        self.running = False
        self._ready_since: float | None = None
        self.ready_since = now
        self.waited_s = 0.0
        self.waits = 0  # of its steps
        self.waits_since: float | None = None  # None: it does not wait
        self.waits_on: RecordedJob | None = None
        self.batch: int | None = entry.get(BATCH)  # as it came, from 1
        self.offered: tuple[int, int] | None = None  # batch and rows of its launch
        self.launch: RecordedLaunch | None = None  # that it is in
        self.burst = 1  # of its last steps, those that were launched as one
        self.rest_of: int | None = None  # the step whose rows were not all granted: the rest comes

    @property
    def ready_since(self) -> float | None:
        """None: it is not ready."""
        return self._ready_since

    @ready_since.setter
    def ready_since(self, since: float | None) -> None:
        self.at.ready += (since is not None) - (self._ready_since is not None)
        self._ready_since = since

    def progress(self, now: float) -> float:
        """Its service at a time, that not yet booked included."""
        return self.served_s + max(0.0, now - self.booked) if self.running else self.served_s

    def run(self, served_s: float) -> None:
        """A piece of device time ends here. If a burst came before it, a part of it belongs to each token."""
        each_s = max(0.0, served_s - self.stepped_s) / self.burst
        written = self.steps[len(self.steps) - self.burst :] if self.burst > 1 else []
        del self.steps[len(self.steps) - len(written) :]
        for step in written[:-1]:
            self.steps += [step, Run(each_s)]
        self.steps += [*written[-1:], Run(each_s)]
        self.stepped_s, self.burst = max(self.stepped_s, served_s), 1

    def rows(self, granted: int, times: int = 1) -> None:
        """A launch of it is done, or given up; of a burst, `times` as many. If fewer rows were granted,
        the rest belongs to the same step, because elsewhere they may be."""
        assert self.offered is not None
        batch, wanted = self.offered
        seconds = self.served_s - self.stepped_s
        self.stepped_s, self.offered = self.served_s, None
        if self.rest_of is None:
            self.steps += [Rows(batch - 1, granted, wanted, seconds / times)] * times
            self.burst = times
            at = len(self.steps) - 1
        else:
            at = self.rest_of
            step = self.steps[at]
            assert isinstance(step, Rows)
            most = max(step.most, wanted)
            self.steps[at] = Rows(batch - 1, step.rows + granted, most, step.seconds + seconds)
        self.rest_of = at if granted < wanted else None


class _Device:
    """What is happening on one device."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = 0  # jobs
        self.running: RecordedJob | None = None
        self.alone = False  # nobody was ready when the slice began, which is long then
        self.last: RecordedJob | None = None
        self.since = 0.0
        self.slice_s = 0.0
        self.used_s = 0.0
        self.broken = False  # somebody was woken within the slice, as will be when it is simulated
        self.asked_at: float | None = None  # whoever runs should give way, since then
        self.delays: list[float] = []  # how long that took
        self.woken_at: float | None = None  # it was idle, and somebody has come
        self.wakes: list[float] = []  # how long it took to begin then
        self.overruns: list[float] = []  # by how much slices were too long where another job's turn came

    def timing(self) -> DeviceTiming:
        """What a trace does not show is left as it is by default."""
        usual = DeviceTiming()
        return DeviceTiming(
            tuple(self.delays) or usual.give_way_s,
            tuple(self.overruns) or usual.overrun_s,
            tuple(self.wakes) or usual.wake_s,
        )


class Recorded:
    """A trace, read once: `workload`, to be simulated, and `outcome`, what became of it.

    Raises TraceFileError where it cannot be, and OSError.
    """

    def __init__(self, trace: Trace, *, spans: bool = False) -> None:
        header = trace.header
        self._trace = trace
        self._start = header.now
        self._jobs: dict[int, RecordedJob] = {}
        self._devices = {name: _Device(name) for name in header.devices}
        self._batches: list[RecordedBatch] = []
        self._power: list[PowerChange] = []
        self._spans: list[Span] | None = [] if spans else None
        self._switches = self._preemptions = self._decisions = self._calls = 0
        self._end = header.now
        for call in trace.calls():
            self._calls += 1
            self._take(call)
        for job in self._jobs.values():
            if job.ended == inf and job.served_s > job.stepped_s:
                job.run(job.served_s)
        self.complete = trace.complete
        self.workload = Workload(
            jobs=tuple(self._workload_job(job) for job in self._jobs.values()),
            devices={name: device.timing() for name, device in self._devices.items()},
            shares=header.shares,
            background_share=header.background_share,
            max_wait_s=header.max_wait_s,
            batches=tuple(batch.timing() for batch in self._batches),
            power=tuple(self._power),
        )
        self.outcome = self._outcome(header.policy)

    def _take(self, call: Call) -> None:
        arguments = call.arguments
        now = arguments.get("now", self._end)
        self._end = max(self._end, now)
        if call.kind is not None:
            self._batches.append(RecordedBatch(call.kind))
        match call.name:
            case "add_device":
                self._devices[arguments["device"]] = _Device(arguments["device"])
            case "submit":
                self._submit(call, now)
            case "next":
                self._decisions += 1
                self._granted(call, self._device(call, arguments["device"]), now)
            case "learn":
                at_s = now - self._start
                self._batches[arguments[BATCH] - 1].learn(arguments["rows"], arguments["seconds"], at_s)
            case "set_policy" | "place" | "measured" | "fence" | "readmit":
                pass  # where a job went, `submit` and `move` say
            case "set_power":
                self._power.append(PowerChange(max(0.0, now - self._start), arguments[POWER]))
            case _:
                self._about(call, self._jobs[arguments["entry"]], arguments, now)

    def _submit(self, call: Call, now: float) -> None:
        device = self._device(call, call.entry["device"])
        after = self._milestone(call.by, now)
        before = None if call.after is None else self._jobs[call.after]
        job = RecordedJob(len(self._jobs), call, now, device, after=after, before=before)
        self._jobs[call.arguments["entry"]] = job
        self._asks(device, call, now)

    def _about(self, call: Call, job: RecordedJob, arguments: Any, now: float) -> None:
        """A call about a job that was submitted."""
        device = job.at
        match call.name:
            case "ran":
                self._ran(device, job, arguments["seconds"], now)
            case "turn":
                self._turn(call, device, job, now)
            case "park":
                self._park(call, device, job, now)
            case "wake":
                self._wait_over(job, self._milestone(call.by, now), now, sleep=call.by == WORKER)
                self._asks(device, call, now)
            case "move":
                job.at = self._device(call, arguments["device"])
            case "expedite":
                self._cancelled(job, now)
                self._wait_over(job, None, now)
                if job.launch is not None and job.ready_since is None and not job.running:
                    job.launch.lose(job, now)
                    job.ready_since = now
                self._asks(device, call, now)
            case "offer":
                self._offer(call, device, job, now)
            case "alight":
                self._alight(job, now)
            case "leave":
                self._leave(call, job, now)
            case "set_qos":
                qos, deadline = arguments.get("qos"), arguments.get("deadline")
                at = None if deadline is None else deadline - self._start
                job.changes.append(Change(now - self._start, qos, at))
                self._asks(device, call, now)
            case "predict":
                job.run(job.progress(now))
                job.steps.append(Predict(arguments["seconds_left"]))
            case "done":
                self._done(call, device, job, now)

    def _ran(self, device: _Device, job: RecordedJob, seconds: float, now: float) -> None:
        if job.launch is None:
            job.served_s += seconds
        else:
            job.launch.book(seconds)
        job.booked = now
        device.used_s += seconds
        if device.asked_at is not None:
            device.delays.append(max(0.0, now - device.asked_at))
            device.asked_at = None

    def _turn(self, call: Call, device: _Device, job: RecordedJob, now: float) -> None:
        self._ran(device, job, call.arguments["seconds"], now)
        self._decisions += 1
        slice_over = device.used_s >= device.slice_s
        if call.answer is not None:
            if not slice_over:
                self._preemptions += 1
            elif not device.broken and not device.alone:
                device.overruns.append(device.used_s - device.slice_s)
            self._left(call, device, job, now)
            job.ready_since = now
            self._granted(call, device, now)
        elif slice_over:
            device.used_s, device.broken = 0.0, False
        if call.answer is None:
            device.alone = not device.ready

    def _granted(self, call: Call, device: _Device, now: float) -> None:
        if call.answer is None:
            return
        if device.woken_at is not None:
            device.wakes.append(max(0.0, now - device.woken_at))
            device.woken_at = None
        answer: dict[str, Any] = call.answer if isinstance(call.answer, dict) else {}
        job, slice_s = self._jobs.get(answer.get("entry", -1)), answer.get("slice_s")
        ready_since = None if job is None else job.ready_since
        if job is not None and ready_since is None and job.launch is not None:
            ready_since, job.launch.leader = job.launch.left_at, job
        if job is None or ready_since is None or not isinstance(slice_s, float):
            raise self._trace.error(call.line, f"the device goes to {call.answer!r}, which is not ready")
        job.waited_s += max(0.0, now - ready_since)
        job.ready_since = None
        job.running = True
        job.booked = now
        job.started = min(job.started, now)
        device.running, device.since, device.slice_s, device.used_s = job, now, slice_s, 0.0
        device.broken = False
        self._switches += device.last is not job
        device.last = job
        self._leads(call, job, now)
        device.alone = not device.ready

    # Launches that were shared.

    def _leads(self, call: Call, leader: RecordedJob, now: float) -> None:
        """A job was granted the device, perhaps for a launch; if that begins, its members leave others."""
        if call.aboard is None or leader.launch is not None:
            return
        members = {self._jobs[entry]: rows for entry, rows in call.aboard}
        launch = RecordedLaunch(leader, members, now - self._start)
        for member in members:
            if member.launch is not None:
                member.launch.lose(member, now)
            if member.offered is None:
                raise self._trace.error(call.line, f"{member.name} is in a launch, and has offered none")
            if member.ready_since is not None:
                member.waited_s += max(0.0, now - member.ready_since)
                member.ready_since = None
            member.launch = launch

    def _offer(self, call: Call, device: _Device, job: RecordedJob, now: float) -> None:
        job.run(job.served_s)
        job.offered = call.arguments[BATCH], call.arguments["rows"]
        if call.answer is True:
            self._leads(call, job, now)
        else:
            self._left(call, device, job, now)
            job.ready_since = now

    def _alight(self, job: RecordedJob, now: float) -> None:
        launch = job.launch
        if launch is None or job.offered is None:
            return
        times = self._batches[job.offered[0] - 1].ended(launch)
        for member, rows in launch.members.items():
            member.rows(rows, times)
            member.launch = None
            if member is not job:
                member.ready_since = now

    def _leave(self, call: Call, job: RecordedJob, now: float) -> None:
        self._cancelled(job, now)
        if job.offered is not None:
            job.rows(job.offered[1])
        launch, heir = job.launch, call.answer
        if launch is not None:
            launch.lose(job, now)
            if heir in self._jobs:
                launch.leader = self._jobs[heir]
                launch.leader.ready_since = now

    def _cancelled(self, job: RecordedJob, now: float) -> None:
        """Somebody cancels it. Noted once: as it is expedited or, if it runs, as it gives up its launch."""
        if not any(change.cancel for change in job.changes):
            job.changes.append(Change(now - self._start, cancel=True))

    def _left(self, call: Call, device: _Device, job: RecordedJob, now: float) -> None:
        if device.running is not job:
            raise self._trace.error(call.line, f"{job.name} leaves a device that it does not have")
        if self._spans is not None:
            begin, end = device.since - self._start, now - self._start
            self._spans.append(Span(device.name, job.number, begin, end))
        device.running = device.asked_at = None
        job.running = False

    def _park(self, call: Call, device: _Device, job: RecordedJob, now: float) -> None:
        if isinstance(call.answer, dict):  # it raised: a circle
            return
        if job.running:
            self._left(call, device, job, now)
            job.run(job.served_s)
        else:  # what it waits for is handed on
            self._wait_over(job, self._milestone(call.by, now), now)
            job.ready_since = None
        on = call.arguments.get("on")
        job.waits_since, job.waits_on = now, None if on is None else self._jobs[on]

    def _wait_over(
        self, job: RecordedJob, until: Milestone | None, now: float, *, sleep: bool = False
    ) -> None:
        """It has waited until now; from now on it is ready."""
        if job.waits_since is None:
            return
        on = job.waits_on
        if until is None and on is not None and on.ended < inf:
            until = Milestone(on.number)
        seconds = max(0.0, now - job.waits_since)
        job.steps.append(Wait(seconds, until, None if on is None else on.number, sleep and until is None))
        job.waits += 1
        job.waits_since, job.ready_since = None, now

    def _done(self, call: Call, device: _Device, job: RecordedJob, now: float) -> None:
        job.ended = now
        if job.running:
            self._left(call, device, job, now)
            job.run(job.served_s)
        else:
            job.ready_since = None
            job.changes.append(Change(now - self._start, cancel=True))

    def _asks(self, device: _Device, call: Call, now: float) -> None:
        """If the host asks the running job to give way, or it was alone and is not any more, this is when. A
        job's own step, and a worker that wakes a sleeper, are about to decide anyway."""
        if device.running is None:
            if device.woken_at is None and call.by != WORKER:
                device.woken_at = now
        elif call.by is not None:
            device.broken = True
        elif (call.answer is True or device.alone) and device.asked_at is None:
            device.asked_at = now

    def _device(self, call: Call, name: str) -> _Device:
        device = self._devices.get(name)
        if device is None:
            raise self._trace.error(call.line, f"there is no device {name!r}, only {sorted(self._devices)}")
        return device

    def _milestone(self, by: int | str | None, now: float) -> Milestone | None:
        if not isinstance(by, int):
            return None
        job = self._jobs[by]
        return Milestone(job.number, job.progress(now), job.waits)

    def _workload_job(self, job: RecordedJob) -> WorkloadJob:
        after, pause_s = job.after, None
        if job.before is not None and job.before.ended <= job.arrived:
            after, pause_s = Milestone(job.before.number), job.arrived - job.before.ended
        return WorkloadJob(
            name=job.name,
            arrives_s=max(0.0, job.arrived - self._start),
            steps=tuple(job.steps),
            qos=job.qos,
            tenant=job.tenant,
            device=job.device,
            deadline_s=job.deadline - self._start,
            predicted_s=job.predicted_s,
            after=after,
            pause_s=pause_s,
            changes=tuple(job.changes),
            batch=None if job.batch is None else job.batch - 1,
        )

    def _outcome(self, policy: str) -> Outcome:
        start = self._start
        return Outcome(
            policy=policy,
            jobs=[
                JobOutcome(
                    number=job.number,
                    name=job.name,
                    qos=job.qos,
                    tenant=job.tenant,
                    device=job.device,
                    arrived_s=job.arrived - start,
                    started_s=job.started - start,
                    ended_s=job.ended - start,
                    deadline_s=job.deadline - start,
                    waited_s=job.waited_s,
                    served_s=job.served_s,
                )
                for job in self._jobs.values()
            ],
            switches=self._switches,
            preemptions=self._preemptions,
            decisions=self._decisions,
            events=self._calls,
            ended_s=self._end - start,
            spans=self._spans or (),
        )
