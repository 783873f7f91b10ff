"""The simulator: a workload in virtual time, decided by the very same `Scheduler` that serves real jobs.

A discrete-event simulation: a heap of times, and what happens then. Each device is driven as a worker drives
it: what it was granted runs until its step is over, its slice is over, or somebody should go before it; then
the service is booked and the scheduler asked again. What is modelled is only how soon a job gives way when
it is asked, and how exactly it keeps its slice: each device has a timing. Switches take no time.

Deterministic: the same workload and policy give the same outcome, to the last bit. A job that runs alone
takes one event, not one for each slice, so that a quiet day costs little more than its arrivals.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import cycle
from math import inf

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.ejection import Ejection
from coro_rt.schedulers.entry import Entry, Grant, State
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.launch_times import LaunchTimes
from coro_rt.schedulers.outcome import JobOutcome, Outcome, Span
from coro_rt.schedulers.registry import PolicyLike
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.schedulers.workload import (
    Change,
    DeviceTiming,
    Milestone,
    Rows,
    Run,
    SeenLaunch,
    Wait,
    Workload,
    WorkloadJob,
)

REPORT_EVERY = 4096  # events between two reports of progress
_NEAR = 1e-9  # seconds: sums of the same pieces, worked out in another order

_Happen = Callable[[float], None]
_Event = tuple[float, int, _Happen]
_Follower = tuple[tuple[float, float], int, _Happen]


def simulate(
    workload: Workload,
    policy: PolicyLike = "dynamic",
    *,
    spans: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Outcome:
    """Run a workload under a policy, until all its jobs have ended.

    `spans`: also keep who had which device when. `progress` is called now and then with the virtual time.
    Raises SchedulerError for a policy that cannot be taken, and for jobs that wait for each other.
    """
    return _Simulation(workload, policy, spans=spans).run(progress)


class _Launch:
    """A launch under way, shared by all who are in it."""

    __slots__ = ("left_s",)

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds


class _Live:
    """A job of the workload on its way through the simulation."""

    __slots__ = (
        "cancelled",
        "carried",
        "ended_s",
        "entry",
        "followers",
        "job",
        "later_s",
        "launch",
        "most",
        "number",
        "passed",
        "rows",
        "rows_left",
        "served_s",
        "started_s",
        "step",
        "target_s",
        "wait",
        "waits",
    )

    def __init__(self, number: int, job: WorkloadJob) -> None:
        self.number = number
        self.job = job
        self.entry = Entry(
            number,
            name=job.name,
            qos=job.qos,
            deadline=job.deadline_s,
            tenant=job.tenant,
            device=job.device,
            predicted_seconds_left=job.predicted_s,
        )
        self.started_s = self.ended_s = inf
        self.later_s = 0.0  # than `arrives_s` says: its task was later
        self.served_s = 0.0  # up to the piece under way
        self.target_s = 0.0  # served so much, its present step is over
        self.step = 0  # the next one
        self.waits = 0  # of its steps, those that were taken
        self.passed = -1  # of those, the ones behind it: it has had the device since
        self.wait = 0  # counts waits that began or were broken off: an end of an earlier one is out of date
        self.followers: list[_Follower] = []  # what happens when it has come to a milestone; a heap
        self.cancelled = False
        self.rows: Rows | None = None  # its present step, if that is one
        self.rows_left = 0  # of it
        self.most = 0  # of them in a launch
        self.carried = 0  # to its next one
        self.launch: _Launch | None = None  # that it is in

    def take_up(self) -> None:
        """Goes on to its next piece of device time, if there is one before it waits or ends."""
        self.passed = self.waits
        steps = self.job.steps
        while self.step < len(steps):
            step = steps[self.step]
            if isinstance(step, Wait):
                return
            self.step += 1
            if isinstance(step, Run):
                self.target_s += step.seconds
                return
            if isinstance(step, Rows):
                self.rows, self.rows_left = step, step.rows + self.carried
                self.most = max(step.most, self.most) if self.carried else step.most
                self.carried = 0
                if not self.cancelled:
                    return
                self.rows_over()  # it launches nothing any more
                continue
            self.entry.predicted_seconds_left = step.seconds_left

    def carry(self) -> None:
        """Not all of its rows were granted. Where more such rows follow, it brings the rest with these."""
        assert self.rows is not None
        at, steps = self.step, self.job.steps
        while at < len(steps) and not isinstance(steps[at], Rows | Wait):  # its own code
            at += 1
        following = steps[at] if at < len(steps) else None
        if isinstance(following, Rows) and following.batch == self.rows.batch and following.most > 1:
            self.carried = self.rows_left
            self.rows_over()

    def rows_over(self) -> None:
        """Its rows are done, or given up."""
        assert self.rows is not None
        self.target_s += self.rows.seconds
        self.served_s = self.target_s
        self.rows, self.rows_left, self.launch = None, 0, None

    def next_wait(self) -> Wait | None:
        """The wait that comes next, taken; None if it goes on, or ends, without one."""
        step = self.job.steps[self.step] if self.step < len(self.job.steps) else None
        if not isinstance(step, Wait):
            return None
        self.step += 1
        self.waits += 1
        return step

    def outcome(self) -> JobOutcome:
        entry, job = self.entry, self.job
        return JobOutcome(
            number=self.number,
            name=job.name,
            qos=job.qos,
            tenant=job.tenant,
            device=job.device,
            arrived_s=entry.submitted_at,
            started_s=self.started_s,
            ended_s=self.ended_s,
            deadline_s=job.deadline_s + self.later_s,
            waited_s=entry.waited_s,
            served_s=entry.served_s,
        )


class _Device:
    """One device: who runs there, and until when if nothing comes between."""

    __slots__ = (
        "alone",
        "asking",
        "began_s",
        "give_way_s",
        "name",
        "overrun_s",
        "piece_s",
        "plan",
        "running",
        "since_s",
        "wake_s",
    )

    def __init__(self, name: str, timing: DeviceTiming) -> None:
        self.name = name
        self.give_way_s = cycle(timing.give_way_s)
        self.overrun_s = cycle(timing.overrun_s)
        self.wake_s = cycle(timing.wake_s)
        self.running: _Live | None = None
        self.since_s = 0.0  # it has been running
        self.began_s = 0.0  # the piece under way
        self.piece_s = 0.0  # its length; booked as it is, as a difference of times may be short of a slice
        self.alone = False  # nobody else was ready: a newcomer is a reason to ask again
        self.plan = 0  # an event for an earlier plan is out of date
        self.asking = False  # it is going to ask the scheduler at this moment


class _Simulation:
    def __init__(self, workload: Workload, policy: PolicyLike, *, spans: bool) -> None:
        self._scheduler = Scheduler(
            policy,
            devices=workload.devices,
            shares=workload.shares,
            background_share=workload.background_share,
            max_wait_s=workload.max_wait_s,
            on_ejected=self._on_ejected,
        )
        self._policy = self._scheduler.policy.name
        self._ejected: str | None = None
        self._devices = {name: _Device(name, timing) for name, timing in workload.devices.items()}
        self._timings = workload.batches
        self._batches = [LaunchTimes(timing) for timing in self._timings]
        self._live = [_Live(number, job) for number, job in enumerate(workload.jobs)]
        for live in self._live:
            if live.job.batch is not None:
                live.entry.batch = self._batches[live.job.batch].batch
        self._now = 0.0
        self._order = 0
        self._events: list[_Event] = []
        self._spans: list[Span] | None = [] if spans else None

    def run(self, progress: Callable[[float], object] | None) -> Outcome:
        for live in self._live:
            self._expect(live)
        for launches, timing in zip(self._batches, self._timings, strict=True):
            for launch in timing.learned:
                self._at(launch.at_s, partial(self._learn, launches.batch, launch))
        events, count = self._events, 0
        while events:
            self._now, _, happen = heappop(events)
            happen(self._now)
            count += 1
            if progress is not None and count % REPORT_EVERY == 0:
                progress(self._now)
        stuck = [live.job.name for live in self._live if live.ended_s == inf]
        if stuck:
            raise SchedulerError(f"{len(stuck)} jobs wait for what never comes: {', '.join(stuck[:5])} ...")
        if progress is not None:
            progress(self._now)
        scheduler = self._scheduler
        return Outcome(
            policy=self._policy,
            jobs=[live.outcome() for live in self._live],
            switches=scheduler.switches,
            preemptions=scheduler.preemptions,
            decisions=scheduler.decisions,
            events=count,
            ended_s=max((live.ended_s for live in self._live), default=0.0),
            spans=self._spans or (),
            ejected=self._ejected,
        )

    def _on_ejected(self, ejection: Ejection) -> None:
        self._ejected = f"its {ejection.hook} for {ejection.entry.name!r} failed: {ejection.reason}"

    # What happens when.

    def _at(self, when: float, happen: _Happen) -> None:
        """Events of the same time happen in the order in which they were asked for; none in the past, where
        rounding may have put it."""
        self._order += 1
        heappush(self._events, (max(when, self._now), self._order, happen))

    def _when(self, milestone: Milestone, happen: _Happen) -> bool:
        """At a milestone. False: it has been passed."""
        live = self._live[milestone.job]
        if live.ended_s < inf or milestone.place <= (live.passed, live.served_s + _NEAR):
            return False
        self._order += 1
        heappush(live.followers, (milestone.place, self._order, happen))
        device = self._devices[live.job.device]
        if device.running is live:
            self._plan(device, live)
        return True

    def _expect(self, live: _Live) -> None:
        job = live.job
        arrive = partial(self._arrive, live, job.after is not None and job.pause_s is None)
        if job.pause_s is not None:
            assert job.after is not None
            asked = partial(self._asked, live, job.pause_s)
            if not self._when(job.after, asked):
                asked(self._now)
            return
        if job.after is None or not self._when(job.after, arrive):
            self._at(job.arrives_s, arrive)
        self._expect_changes(live)

    def _asked(self, live: _Live, pause_s: float, now: float) -> None:
        """A task has what it waited for, and is going to ask for this job."""
        live.later_s = now + pause_s - live.job.arrives_s
        live.entry.deadline += live.later_s
        self._at(now + pause_s, partial(self._arrive, live, False))
        self._expect_changes(live)

    def _expect_changes(self, live: _Live) -> None:
        for change in live.job.changes:
            self._at(change.at_s + live.later_s, partial(self._change, live, change))

    def _arrive(self, live: _Live, at_once: bool, now: float) -> None:
        self._made_ready(live, gives_way=self._scheduler.submit(live.entry, now), at_once=at_once)

    def _change(self, live: _Live, change: Change, now: float) -> None:
        entry, scheduler = live.entry, self._scheduler
        if entry.state is State.NEW or entry.state is State.DONE:
            return
        if change.qos is not None or change.deadline_s is not None:
            deadline_s = None if change.deadline_s is None else change.deadline_s + live.later_s
            gives_way = scheduler.set_qos(entry, now, qos=change.qos, deadline=deadline_s)
            if gives_way:
                device = self._devices[live.job.device]
                self._give_way(device, next(device.give_way_s))
        if not change.cancel:
            return
        live.cancelled = True
        if entry.state is State.RUNNING:
            if live.launch is not None:
                device = self._devices[live.job.device]
                self._give_way(device, next(device.give_way_s))
        elif entry.started:
            live.wait += 1
            self._made_ready(live, gives_way=scheduler.expedite(entry, now))
        else:
            scheduler.done(entry, now)
            self._ended(live, now)

    def _wait(self, live: _Live, wait: Wait, now: float) -> bool:
        """From now on a job waits. False: there is nothing to wait for any more."""
        live.wait += 1
        wake = partial(self._wake, live, live.wait, wait.sleep or wait.until is not None)
        if wait.until is None:
            self._at(now + wait.seconds, wake)
        elif not self._when(wait.until, wake):
            return False
        self._scheduler.park(live.entry, now, on=None if wait.on is None else self._live[wait.on].entry)
        return True

    def _wake(self, live: _Live, number: int, at_once: bool, now: float) -> None:
        if number != live.wait:
            return
        while (wait := live.next_wait()) is not None:  # what it waited for has been handed on
            if self._wait(live, wait, now):
                return
        self._made_ready(live, gives_way=self._scheduler.wake(live.entry, now), at_once=at_once)

    def _ended(self, live: _Live, now: float) -> None:
        live.ended_s = now
        while live.followers:
            heappop(live.followers)[2](now)

    # What a worker does.

    def _made_ready(self, live: _Live, *, gives_way: bool, at_once: bool = False) -> None:
        device = self._devices[live.job.device]
        if device.running is not None:
            if gives_way or device.alone or at_once:
                device.alone = False
                self._give_way(device, 0.0 if at_once else next(device.give_way_s))
        elif not device.asking:
            device.asking = True
            wake_s = 0.0 if at_once else next(device.wake_s)
            self._at(self._now + wake_s, partial(self._next, device))  # after all that comes at this moment

    def _give_way(self, device: _Device, seconds: float) -> None:
        """Whoever runs is asked to stop, which takes it a while."""
        live = device.running
        if live is not None:
            device.piece_s = min(device.piece_s, self._now - device.began_s + seconds)
            self._plan(device, live)

    def _next(self, device: _Device, now: float) -> None:
        """A free device asks who goes on there."""
        device.asking = False
        device.running = None
        device.plan += 1
        grant = self._scheduler.next(device.name, now)
        if grant is not None:
            self._take_up(device, grant, now)
        elif (resumes_at := self._scheduler.resumes_at(device.name)) < inf:
            self._at(resumes_at, partial(self._resume, device, device.plan))

    def _resume(self, device: _Device, plan: int, now: float) -> None:
        """Somebody was put off until now."""
        if plan == device.plan and not device.asking:
            self._next(device, now)

    def _take_up(self, device: _Device, grant: Grant, now: float) -> None:
        device.running = live = self._live[grant.entry.id]
        device.since_s = now
        if live.started_s == inf:
            live.started_s = now
        if live.cancelled and live.rows is not None:
            self._give_up(live, now)
        elif live.entry.aboard:
            self._lead(live, now)
        if live.rows is None and live.served_s >= live.target_s:
            live.take_up()
        self._begin(device, live, grant.slice_s, now)

    def _begin(self, device: _Device, live: _Live, slice_s: float, now: float) -> None:
        """A piece: to the end of the job's step or launch, or of its slice."""
        device.began_s = now
        launch = live.launch
        device.piece_s = max(0.0, live.target_s - live.served_s) if launch is None else launch.left_s
        device.alone = not self._scheduler.ready(device.name)
        if not device.alone:
            device.piece_s = min(device.piece_s, slice_s + next(device.overrun_s))
        self._plan(device, live)

    def _plan(self, device: _Device, live: _Live) -> None:
        """What comes next: the end of the piece, or a milestone that somebody waits for."""
        when = device.began_s + device.piece_s
        if live.followers:
            waits, served_s = live.followers[0][0]
            if waits < live.passed:
                when = self._now
            elif waits == live.passed and live.launch is None:
                when = min(when, device.began_s + served_s - live.served_s)
        device.plan += 1
        self._at(when, partial(self._reached, device, live, device.plan))

    def _reached(self, device: _Device, live: _Live, plan: int, now: float) -> None:
        if plan != device.plan:
            return
        self._passes(
            live, live.served_s + now - device.began_s if live.launch is None else live.served_s, now
        )
        if now < device.began_s + device.piece_s:
            if plan == device.plan:
                self._plan(device, live)
            return
        device.plan += 1
        self._piece_over(device, live, now)

    def _passes(self, live: _Live, served_s: float, now: float) -> None:
        """A job has come so far: what follows from that."""
        while live.followers and live.followers[0][0] <= (live.passed, served_s + _NEAR):
            heappop(live.followers)[2](now)

    def _piece_over(self, device: _Device, live: _Live, now: float) -> None:
        """Books the time, sees what becomes of the job, and asks who goes on."""
        scheduler, entry = self._scheduler, live.entry
        seconds = device.piece_s
        launch = live.launch
        if launch is not None:
            launch.left_s -= seconds
            if launch.left_s <= _NEAR or live.cancelled:
                scheduler.ran(entry, seconds, now)
                seconds = 0.0
                if live.cancelled:
                    self._give_up(live, now)
                else:
                    self._alight(live, now)
        else:
            live.served_s += seconds
        if launch is None and live.served_s >= live.target_s - _NEAR:
            live.served_s = live.target_s
            scheduler.ran(entry, seconds, now)
            seconds = 0.0
            if not self._goes_on(device, live, now):
                self._span_over(device, live, now)
                self._next(device, now)
                return
        grant = scheduler.turn(entry, seconds, now)
        if grant is None:
            self._begin(device, live, scheduler.policy.slice_s, now)
        else:
            self._span_over(device, live, now)
            self._take_up(device, grant, now)

    def _goes_on(self, device: _Device, live: _Live, now: float) -> bool:
        """Its step is over. False: the job has left the device, to wait or for good."""
        if live.rows is None:
            while (wait := live.next_wait()) is not None:
                if self._wait(live, wait, now):
                    return False
            if live.step == len(live.job.steps):
                self._done(device, live, now)
                return False
            live.take_up()
        return live.rows is None or self._offer(live, live.rows, now)

    def _done(self, device: _Device, live: _Live, now: float) -> None:
        device.running, device.asking = None, True  # who is woken now needs not ask for it
        self._scheduler.done(live.entry, now)
        self._ended(live, now)

    # Launches that run as one.

    def _offer(self, live: _Live, rows: Rows, now: float) -> bool:
        """A job brings its next rows. True: it goes on with them, alone. False: it has left the device."""
        batch = self._batches[rows.batch]
        alone = self._scheduler.offer(live.entry, batch.batch, min(live.rows_left, live.most), now)
        if alone:
            self._lead(live, now)
        return alone

    def _lead(self, live: _Live, now: float) -> None:
        """A job leads a launch; if it begins now, its members are in no other one any more."""
        if live.launch is None:
            assert live.rows is not None
            members = (live.entry, *live.entry.riders)
            rows = sum(entry.aboard for entry in members)
            launch = _Launch(self._batches[live.rows.batch].seconds(rows, now))
            for entry in members:
                self._live[entry.id].launch = launch

    def _learn(self, batch: Batch, launch: SeenLaunch, now: float) -> None:
        self._scheduler.learn(batch, launch.rows, launch.seconds, now)

    def _alight(self, live: _Live, now: float) -> None:
        """The launch that a job leads is done."""
        rows = {entry: entry.aboard for entry in (live.entry, *live.entry.riders)}
        self._scheduler.alight(live.entry, now)
        for entry, done in rows.items():
            member = self._live[entry.id]
            member.launch = None
            member.rows_left -= done
            if member.rows_left <= 0:
                member.rows_over()
            else:
                member.carry()
            if member.rows is None:
                self._passes(member, member.served_s, now)

    def _give_up(self, live: _Live, now: float) -> None:
        """A cancelled job's launch goes on without it."""
        self._scheduler.leave(live.entry, now)
        live.rows_over()

    def _span_over(self, device: _Device, live: _Live, now: float) -> None:
        if self._spans is not None:
            self._spans.append(Span(device.name, live.number, device.since_s, now))
