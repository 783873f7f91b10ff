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

from coro_rt.schedulers.outcome import Outcome, Span
from coro_rt.schedulers.workload import Change, Milestone, PowerChange, Predict, Wait, Workload
from coro_rt.trace.calls import BATCH, POWER, WORKER, Call
from coro_rt.trace.reader import Trace
from coro_rt.trace.recorded_device import RecordedDevice
from coro_rt.trace.recorded_job import RecordedJob
from coro_rt.trace.shared import RecordedBatch, RecordedLaunch


class Recorded:
    """A trace, read once: `workload`, to be simulated, and `outcome`, what became of it.

    Raises TraceFileError where it cannot be, and OSError.
    """

    def __init__(self, trace: Trace, *, spans: bool = False) -> None:
        header = trace.header
        self._trace = trace
        self._start = header.now
        self._jobs: dict[int, RecordedJob] = {}
        self._devices = {name: RecordedDevice(name) for name in header.devices}
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
            jobs=tuple(job.workload_job(self._start) for job in self._jobs.values()),
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
                self._devices[arguments["device"]] = RecordedDevice(arguments["device"])
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

    def _ran(self, device: RecordedDevice, job: RecordedJob, seconds: float, now: float) -> None:
        if job.launch is None:
            job.served_s += seconds
        else:
            job.launch.book(seconds)
        job.booked = now
        device.used_s += seconds
        if device.asked_at is not None:
            device.delays.append(max(0.0, now - device.asked_at))
            device.asked_at = None

    def _turn(self, call: Call, device: RecordedDevice, job: RecordedJob, now: float) -> None:
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

    def _granted(self, call: Call, device: RecordedDevice, now: float) -> None:
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

    def _offer(self, call: Call, device: RecordedDevice, job: RecordedJob, now: float) -> None:
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

    def _left(self, call: Call, device: RecordedDevice, job: RecordedJob, now: float) -> None:
        if device.running is not job:
            raise self._trace.error(call.line, f"{job.name} leaves a device that it does not have")
        if self._spans is not None:
            begin, end = device.since - self._start, now - self._start
            self._spans.append(Span(device.name, job.number, begin, end))
        device.running = device.asked_at = None
        job.running = False

    def _park(self, call: Call, device: RecordedDevice, job: RecordedJob, now: float) -> None:
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

    def _done(self, call: Call, device: RecordedDevice, job: RecordedJob, now: float) -> None:
        job.ended = now
        if job.running:
            self._left(call, device, job, now)
            job.run(job.served_s)
        else:
            job.ready_since = None
            job.changes.append(Change(now - self._start, cancel=True))

    def _asks(self, device: RecordedDevice, call: Call, now: float) -> None:
        """If the host asks the running job to give way, or it was alone and is not any more, this is when. A
        job's own step, and a worker that wakes a sleeper, are about to decide anyway."""
        if device.running is None:
            if device.woken_at is None and call.by != WORKER:
                device.woken_at = now
        elif call.by is not None:
            device.broken = True
        elif (call.answer is True or device.alone) and device.asked_at is None:
            device.asked_at = now

    def _device(self, call: Call, name: str) -> RecordedDevice:
        device = self._devices.get(name)
        if device is None:
            raise self._trace.error(call.line, f"there is no device {name!r}, only {sorted(self._devices)}")
        return device

    def _milestone(self, by: int | str | None, now: float) -> Milestone | None:
        if not isinstance(by, int):
            return None
        job = self._jobs[by]
        return Milestone(job.number, job.progress(now), job.waits)

    def _outcome(self, policy: str) -> Outcome:
        return Outcome(
            policy=policy,
            jobs=[job.outcome(self._start) for job in self._jobs.values()],
            switches=self._switches,
            preemptions=self._preemptions,
            decisions=self._decisions,
            events=self._calls,
            ended_s=self._end - self._start,
            spans=self._spans or (),
        )
