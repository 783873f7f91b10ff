"""The simulator: a workload in virtual time, decided by the very same `Scheduler` that serves real jobs.

A discrete-event simulation: a heap of times, and what happens then. Each device is driven as a worker drives
it: what it was granted runs until its step is over, its slice is over, or somebody should go before it; then
the service is booked and the scheduler asked again. What is modelled is only how soon a job gives way when
it is asked, and how exactly it keeps its slice: each device has a timing. Switches take no time.

A device has a speed, here always 1. What changes it is a chip's business: `soc/simulation.py` is this
simulation with processors that share memory and heat.

Deterministic: the same workload and policy give the same outcome, to the last bit. A job that runs alone
takes one event, not one for each slice, so that a quiet day costs little more than its arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import cycle
from math import inf

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.ejection import Ejection
from coro_rt.schedulers.entry import Entry, Grant, State
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.inheritance import last_waited_for
from coro_rt.schedulers.launch_times import LaunchTimes
from coro_rt.schedulers.live import Happen, Launch, Live
from coro_rt.schedulers.outcome import ChipOutcome, Outcome, Span
from coro_rt.schedulers.placement import Placement
from coro_rt.schedulers.power import PowerState
from coro_rt.schedulers.registry import PolicyLike
from coro_rt.schedulers.scheduler import Scheduler
from coro_rt.schedulers.soc.language_model import LanguageModel
from coro_rt.schedulers.workload import (
    Change,
    DeviceTiming,
    Milestone,
    Rows,
    SeenLaunch,
    Wait,
    Workload,
)

REPORT_EVERY = 4096  # events between two reports of progress
_NEAR = 1e-9  # seconds: sums of the same pieces, worked out in another order

Look = Callable[[Scheduler, float], None]
"""Asks a scheduler something at a time, and changes nothing."""

_Event = tuple[float, int, Happen]


def simulate(
    workload: Workload,
    policy: PolicyLike = "dynamic",
    *,
    spans: bool = False,
    looks: Iterable[tuple[float, Look]] = (),
    progress: Callable[[float], object] | None = None,
) -> Outcome:
    """Run a workload under a policy, until all its jobs have ended.

    `spans`: also keep who had which device when. `looks` are times, and what is called then with the
    scheduler and the time, to ask it something; after all else that comes at that time. `progress` is called
    now and then with the virtual time. Raises SchedulerError for a policy that cannot be taken, for jobs that
    wait for each other, and for a workload in tokens, which is for a chip.
    """
    batches = []
    for timing in workload.batches:
        if isinstance(timing, LanguageModel):
            raise SchedulerError(f"the workload is in tokens of {timing.name}: say on which chip (--soc)")
        batches.append(LaunchTimes(timing))
    simulation = Simulation(workload, policy, batches=batches, spans=spans)
    return simulation.run(progress, looks)


class Device:
    """One device: who runs there, and until when if nothing comes between."""

    __slots__ = (
        "alone",
        "asking",
        "began_s",
        "give_way_s",
        "limit_s",
        "name",
        "overrun_s",
        "piece_s",
        "plan",
        "running",
        "since_s",
        "speed",
        "spent_s",
        "wake_s",
    )

    def __init__(self, name: str, timing: DeviceTiming) -> None:
        self.name = name
        self.give_way_s = cycle(timing.give_way_s)
        self.overrun_s = cycle(timing.overrun_s)
        self.wake_s = cycle(timing.wake_s)
        self.running: Live | None = None
        self.since_s = 0.0  # it has been running
        self.began_s = 0.0  # the piece under way
        self.piece_s = 0.0  # its length; booked as it is, as a difference of times may be short of a slice
        self.limit_s = inf  # the longest that it may be
        self.speed = 1.0  # of its work's: so much of a second's is done in a second
        self.spent_s = 0.0  # on the piece before `began_s`, at other speeds
        self.alone = False  # nobody else was ready: a newcomer is a reason to ask again
        self.plan = 0  # an event for an earlier plan is out of date
        self.asking = False  # it is going to ask the scheduler at this moment


class Simulation:
    """One run of a workload. Subclass it for devices whose speeds change: what begins with an underscore here
    is for that too."""

    def __init__(
        self,
        workload: Workload,
        policy: PolicyLike,
        *,
        devices: Mapping[str, DeviceTiming] | None = None,
        batches: Sequence[LaunchTimes] = (),
        placement: Placement | None = None,
        spans: bool = False,
    ) -> None:
        devices = workload.devices if devices is None else devices
        self._scheduler = Scheduler(
            policy,
            devices=devices,
            shares=workload.shares,
            background_share=workload.background_share,
            max_wait_s=workload.max_wait_s,
            on_ejected=self._on_ejected,
            placement=placement,
        )
        self._policy = self._scheduler.policy.name
        self._power = workload.power
        self._ejected: str | None = None
        self._devices = {name: Device(name, timing) for name, timing in devices.items()}
        self._batches = batches
        self._live = [Live(number, job) for number, job in enumerate(workload.jobs)]
        for live in self._live:
            if batches and live.job.batch is not None:
                live.entry.batch = batches[live.job.batch].batch
        self._to_end = len(self._live)
        self._now = 0.0
        self._order = 0
        self._events: list[_Event] = []
        self._spans: list[Span] | None = [] if spans else None

    def run(
        self, progress: Callable[[float], object] | None, looks: Iterable[tuple[float, Look]] = ()
    ) -> Outcome:
        for change in self._power:
            self._at(change.at_s, partial(self._power_changes, change.state))
        self._opens()
        for live in self._live:
            self._expect(live)
        for when, look in looks:
            self._at(when, partial(look, self._scheduler))
        for launches in self._batches:
            for launch in launches.learned:
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
        ended_s = max((live.ended_s for live in self._live), default=0.0)
        return Outcome(
            policy=self._policy,
            jobs=[live.outcome() for live in self._live],
            switches=scheduler.switches,
            preemptions=scheduler.preemptions,
            decisions=scheduler.decisions,
            events=count,
            ended_s=ended_s,
            spans=self._spans or (),
            ejected=self._ejected,
            chip=self._chip(),
        )

    def _on_ejected(self, ejection: Ejection) -> None:
        self._ejected = f"its {ejection.call} failed: {ejection.reason}"

    # What happens when.

    def _at(self, when: float, happen: Happen) -> None:
        """Events of the same time happen in the order in which they were asked for; none in the past, where
        rounding may have put it."""
        self._order += 1
        heappush(self._events, (max(when, self._now), self._order, happen))

    def _when(self, milestone: Milestone, happen: Happen) -> bool:
        """At a milestone. False: it has been passed."""
        live = self._live[milestone.job]
        if live.ended_s < inf or milestone.place <= (live.passed, live.served_s + _NEAR):
            return False
        self._order += 1
        heappush(live.followers, (milestone.place, self._order, happen))
        device = self._devices[live.device]
        if device.running is live:
            self._plan(device, live)
        return True

    def _expect(self, live: Live) -> None:
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

    def _asked(self, live: Live, pause_s: float, now: float) -> None:
        """A task has what it waited for, and is going to ask for this job."""
        live.later_s = now + pause_s - live.job.arrives_s
        live.entry.deadline += live.later_s
        self._at(now + pause_s, partial(self._arrive, live, False))
        self._expect_changes(live)

    def _expect_changes(self, live: Live) -> None:
        for change in live.job.changes:
            self._at(change.at_s + live.later_s, partial(self._change, live, change))

    def _arrive(self, live: Live, at_once: bool, now: float) -> None:
        self._comes(live, now)
        self._made_ready(live, gives_way=self._scheduler.submit(live.entry, now), at_once=at_once)

    def _change(self, live: Live, change: Change, now: float) -> None:
        entry, scheduler = live.entry, self._scheduler
        if entry.state is State.NEW or entry.state is State.DONE:
            return
        if change.qos is not None or change.deadline_s is not None:
            deadline_s = None if change.deadline_s is None else change.deadline_s + live.later_s
            gives_way = scheduler.set_qos(entry, now, qos=change.qos, deadline=deadline_s)
            last = last_waited_for(entry)
            device = self._devices[self._live[last.id].device]
            if gives_way:
                self._give_way(device, next(device.give_way_s))
            elif last.state is State.READY and device.running is None:  # it was put off, and is not any more
                self._made_ready(self._live[last.id], gives_way=False)
        if not change.cancel:
            return
        live.cancelled = True
        if entry.state is State.RUNNING:
            if live.launch is not None:
                device = self._devices[live.device]
                self._give_way(device, next(device.give_way_s))
        elif entry.started:
            live.wait += 1
            self._made_ready(live, gives_way=scheduler.expedite(entry, now))
        else:
            scheduler.done(entry, now)
            self._ended(live, now)

    def _power_changes(self, state: PowerState, now: float) -> None:
        self._scheduler.set_power(state, now)
        for device in self._devices.values():  # who was put off may not be any more, or for less long
            if device.running is None and not device.asking and self._scheduler.ready(device.name):
                device.asking = True
                self._at(now, partial(self._next, device))

    def _wait(self, live: Live, wait: Wait, now: float) -> bool:
        """From now on a job waits. False: there is nothing to wait for any more."""
        live.wait += 1
        wake = partial(self._wake, live, live.wait, wait.sleep or wait.until is not None)
        if wait.until is None:
            self._at(now + wait.seconds, wake)
        elif not self._when(wait.until, wake):
            return False
        on = None if wait.on is None else self._live[wait.on].entry
        last = self._scheduler.park(live.entry, now, on=on)
        if last is not None:
            self._made_ready(self._live[last.id], gives_way=True)
        return True

    def _wake(self, live: Live, number: int, at_once: bool, now: float) -> None:
        if number != live.wait:
            return
        while (wait := live.next_wait()) is not None:  # what it waited for has been handed on
            if self._wait(live, wait, now):
                return
        self._comes(live, now)
        self._made_ready(live, gives_way=self._scheduler.wake(live.entry, now), at_once=at_once)

    def _ended(self, live: Live, now: float) -> None:
        live.ended_s = now
        self._to_end -= 1
        while live.followers:
            heappop(live.followers)[2](now)

    # What a worker does.

    def _made_ready(self, live: Live, *, gives_way: bool, at_once: bool = False) -> None:
        device = self._devices[live.device]
        if device.running is not None:
            if gives_way or device.alone or at_once:
                device.alone = False
                self._give_way(device, 0.0 if at_once else next(device.give_way_s))
        elif not device.asking:
            device.asking = True
            wake_s = 0.0 if at_once else next(device.wake_s)
            self._at(self._now + wake_s, partial(self._next, device))  # after all that comes at this moment

    def _give_way(self, device: Device, seconds: float) -> None:
        """Whoever runs is asked to stop, which takes it a while."""
        live = device.running
        if live is not None:
            device.limit_s = min(device.limit_s, self._now - device.began_s + seconds)
            device.piece_s = min(device.piece_s, device.limit_s)
            self._plan(device, live)

    def _next(self, device: Device, now: float) -> None:
        """A free device asks who goes on there."""
        device.asking = False
        device.running = None
        device.plan += 1
        grant = self._scheduler.next(device.name, now)
        if grant is not None:
            self._take_up(device, grant, now)
            return
        self._rests(device, now)
        if (resumes_at := self._scheduler.resumes_at(device.name)) < inf:
            self._at(resumes_at, partial(self._resume, device, device.plan))

    def _resume(self, device: Device, plan: int, now: float) -> None:
        """Somebody was put off until now."""
        if plan == device.plan and not device.asking:
            self._next(device, now)

    def _take_up(self, device: Device, grant: Grant, now: float) -> None:
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

    def _begin(self, device: Device, live: Live, slice_s: float, now: float) -> None:
        """A piece: to the end of the job's step or launch, or of its slice."""
        device.began_s, device.spent_s, device.limit_s = now, 0.0, inf
        launch = live.launch
        left_s = max(0.0, live.target_s - live.served_s) if launch is None else launch.left_s
        if left_s > 0.0:
            self._works(device, live, left_s, now)
        device.piece_s = left_s / device.speed
        device.alone = not self._scheduler.ready(device.name)
        if not device.alone:
            if live.entry.aboard:
                slice_s = min(slice_s, self._scheduler.lets_go_on_s(device.name, now))
            device.limit_s = slice_s + next(device.overrun_s)
            device.piece_s = min(device.piece_s, device.limit_s)
        self._plan(device, live)

    def _plan(self, device: Device, live: Live) -> None:
        """What comes next: the end of the piece, or a milestone that somebody waits for."""
        when = device.began_s + device.piece_s
        if live.followers:
            waits, served_s = live.followers[0][0]
            if waits < live.passed:
                when = self._now
            elif waits == live.passed and live.launch is None:
                when = min(when, device.began_s + (served_s - live.served_s) / device.speed)
        device.plan += 1
        self._at(when, partial(self._reached, device, live, device.plan))

    def _reached(self, device: Device, live: Live, plan: int, now: float) -> None:
        if plan != device.plan:
            return
        since_s = (now - device.began_s) * device.speed if live.launch is None else 0.0
        self._passes(live, live.served_s + since_s, now)
        if now < device.began_s + device.piece_s:
            if plan == device.plan:
                self._plan(device, live)
            return
        device.plan += 1
        self._piece_over(device, live, now)

    def _passes(self, live: Live, served_s: float, now: float) -> None:
        """A job has come so far: what follows from that."""
        while live.followers and live.followers[0][0] <= (live.passed, served_s + _NEAR):
            heappop(live.followers)[2](now)

    def _piece_over(self, device: Device, live: Live, now: float) -> None:
        """Books the time, sees what becomes of the job, and asks who goes on."""
        scheduler, entry = self._scheduler, live.entry
        seconds = device.spent_s + device.piece_s
        launch = live.launch
        self._credit(live, device.piece_s * device.speed)
        self._book(device, live, now)
        if launch is not None and (launch.left_s <= _NEAR or live.cancelled):
            scheduler.ran(entry, seconds, now)
            seconds = 0.0
            if live.cancelled:
                self._give_up(live, now)
            else:
                self._alight(live, now)
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

    def _goes_on(self, device: Device, live: Live, now: float) -> bool:
        """Its step is over. False: the job has left the device, to wait or for good."""
        if live.rows is None:
            while (wait := live.next_wait()) is not None:
                if self._wait(live, wait, now):
                    return False
            if live.step == len(live.job.steps):
                self._done(device, live, now)
                return False
            live.take_up()
            if live.rows is not None and self._goes_elsewhere(live, now):
                return False
        return live.rows is None or self._offer(live, live.rows, now)

    def _done(self, device: Device, live: Live, now: float) -> None:
        device.running, device.asking = None, True  # who is woken now needs not ask for it
        self._scheduler.done(live.entry, now)
        self._ended(live, now)

    # Launches that run as one.

    def _offer(self, live: Live, rows: Rows, now: float) -> bool:
        """A job brings its next rows. True: it goes on with them, alone. False: it has left the device."""
        batch = self._batch(live, rows)
        alone = self._scheduler.offer(live.entry, batch, min(live.rows_left, live.most), now)
        if alone:
            self._lead(live, now)
        return alone

    def _lead(self, live: Live, now: float) -> None:
        """A job leads a launch; if it begins now, its members are in no other one any more."""
        if live.launch is None:
            assert live.rows is not None
            members = (live.entry, *live.entry.riders)
            launch = self._launch(live, members, now)
            for entry in members:
                self._live[entry.id].launch = launch

    def _learn(self, batch: Batch, launch: SeenLaunch, now: float) -> None:
        self._scheduler.learn(batch, launch.rows, launch.seconds, now)

    def _alight(self, live: Live, now: float) -> None:
        """The launch that a job leads is done."""
        rows = {entry: entry.aboard for entry in (live.entry, *live.entry.riders)}
        self._scheduler.alight(live.entry, now)
        for entry, done in rows.items():
            member = self._live[entry.id]
            member.launch = None
            member.rows_left -= done
            member.tokens += done
            if member.rows_left <= 0:
                member.rows_over()
            else:
                member.carry()
            if member.rows is None:
                self._passes(member, member.served_s, now)

    def _give_up(self, live: Live, now: float) -> None:
        """A cancelled job's launch goes on without it."""
        self._scheduler.leave(live.entry, now)
        live.rows_over()

    def _batch(self, live: Live, rows: Rows) -> Batch:
        return self._batches[rows.batch].batch

    def _launch(self, leader: Live, members: tuple[Entry, ...], now: float) -> Launch:
        """A launch that begins, of its leader and those who ride in it."""
        assert leader.rows is not None
        rows = sum(entry.aboard for entry in members)
        return Launch(self._batches[leader.rows.batch].seconds(rows, now))

    def _credit(self, live: Live, seconds: float) -> None:
        """So much of its work is done."""
        if live.launch is None:
            live.served_s += seconds
        else:
            live.launch.left_s -= seconds

    # What devices with speeds do besides.

    def _opens(self) -> None:
        """It begins."""

    def _comes(self, live: Live, now: float) -> None:
        """A job is about to be submitted, or to wake: on the device that is its entry's then."""

    def _works(self, device: Device, live: Live, left_s: float, now: float) -> None:
        """A device begins a piece, of a job's step or launch that takes `left_s` at speed 1."""

    def _rests(self, device: Device, now: float) -> None:
        """A device has nothing to do."""

    def _book(self, device: Device, live: Live, now: float) -> None:
        """A device has come to the end of a piece."""

    def _goes_elsewhere(self, live: Live, now: float) -> bool:
        """A running job has come to its next rows. True: it is READY on another device, that of these."""
        return False

    def _chip(self) -> ChipOutcome | None:
        """What it says of a chip in the end."""
        return None

    def _span_over(self, device: Device, live: Live, now: float) -> None:
        if self._spans is not None:
            self._spans.append(Span(device.name, live.number, device.since_s, now))
