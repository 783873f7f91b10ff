"""The simulator on a chip: its devices are processors, whose speeds depend on each other and on the heat.

Placement chooses a processor for each part of a job that reads or writes. A piece under way is slowed down or
sped up when others begin or end theirs, or the chip gets warm: what was done until then is credited to its
job, and the rest planned anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.errors import SchedulerError
from coro_rt.schedulers.live import Launch, Live
from coro_rt.schedulers.outcome import ChipOutcome, Outcome
from coro_rt.schedulers.registry import PolicyLike
from coro_rt.schedulers.simulation import Device, Simulation
from coro_rt.schedulers.soc.board import Board
from coro_rt.schedulers.soc.chip import Chip
from coro_rt.schedulers.soc.language_model import LanguageModel, Load
from coro_rt.schedulers.workload import DeviceTiming, Rows, Workload

GAUGE_EVERY_S = 60.0  # between two looks at the battery


def simulate_on(
    chip: Chip,
    workload: Workload,
    policy: PolicyLike = "dynamic",
    *,
    on: Iterable[str] = (),
    battery: float = 1.0,
    spans: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Outcome:
    """Run a workload under a policy on a chip, until all its jobs have ended. See `simulate`.

    Its batches are language models, its rows their tokens. A job whose device is one of the processors stays
    there; the others go where placement says, among all processors or those named `on`. `battery`: how full
    it is at the beginning. Policies hear of battery and heat, unless the workload has a power state of its
    own. Raises SchedulerError, besides, for a workload whose launches are in seconds.
    """
    models = [batch for batch in workload.batches if isinstance(batch, LanguageModel)]
    if len(models) < len(workload.batches):
        raise SchedulerError(
            f"the workload has launches in seconds; on {chip.name} they are a model's tokens"
        )
    board = Board(chip, models, on=on, members=workload.members, battery=battery)
    return _ChipSimulation(workload, policy, board, spans=spans).run(progress)


class _ChipSimulation(Simulation):
    def __init__(self, workload: Workload, policy: PolicyLike, board: Board, *, spans: bool) -> None:
        timings = {name: DeviceTiming((one.give_way_s,)) for name, one in board.processors.items()}
        super().__init__(workload, policy, devices=timings, placement=board.placement(), spans=spans)
        self._board = board
        self._check_at = inf  # the governor looks next
        # Of the present part of each job: what it takes at full speed, and whether it writes.
        self._part_s = [0.0] * len(workload.jobs)
        self._writes = [False] * len(workload.jobs)
        for live in self._live:
            live.device = live.job.device if live.job.device in board.names else board.names[0]

    def _opens(self) -> None:
        if not self._power:
            self._at(0.0, self._gauge)

    # Where a job goes.

    def _comes(self, live: Live, now: float) -> None:
        self._go(live, self._place(live, now), now)

    def _goes_elsewhere(self, live: Live, now: float) -> bool:
        assert live.rows is not None
        if live.rows.most == 1 and self._writes[live.number]:
            return False  # the same part: in a recorded run each token is a step
        name = self._place(live, now)
        if name == live.device:
            return False
        self._scheduler.park(live.entry, now)
        self._go(live, name, now)
        live.wait += 1
        self._made_ready(live, gives_way=self._scheduler.wake(live.entry, now))
        return True

    def _place(self, live: Live, now: float) -> str:
        """Which processor a job's next part is for. Its entry says from then on how long that will keep
        others waiting, and when it has to be done for the parts behind it to be in time.

        Who writes shares its launches, and so is hardly in anybody's way: it counts as what a further row
        takes. Else a crowd that writes would be spread, and the weights be read for each part of it.
        """
        board, entry = self._board, live.entry
        coming, behind = live.to_come(), live.tokens
        if not coming:
            return live.device
        works = []
        for batch, tokens, most in _parts(coming):
            works.append(board.work(batch, tokens, most, behind))
            behind += tokens
        among = (live.device,) if live.job.device in board.names else board.names
        predict = self._scheduler.placement.predict
        later_s = sum(min(predict(work, name) or 0.0 for name in among) for work in works[1:])
        entry.deadline = live.job.deadline_s + live.later_s - later_s
        asks = None if entry.state is State.NEW else entry
        choice = self._scheduler.place(
            works[0], among, now, qos=entry.qos, deadline=entry.deadline, tenant=entry.tenant, without=asks
        )
        model = board.batch(coming[0].batch, choice.device)
        run_s = alone_s = choice.option.run_s
        self._writes[live.number] = coming[0].most == 1
        if coming[0].most == 1 and model.members > 1:
            run_s *= model.seconds(2) / model.seconds(1) - 1.0
        entry.deadline -= alone_s - run_s
        self._part_s[live.number] = alone_s
        self._scheduler.predict(entry, run_s, now)
        entry.batch = model
        return choice.device

    def _go(self, live: Live, name: str, now: float) -> None:
        """A job that is new or waits will be ready on a processor."""
        live.device = name
        if live.entry.state is State.NEW:
            live.entry.device = name
        elif live.entry.device != name:
            self._scheduler.move(live.entry, name, now)

    # What processors do.

    def _batch(self, live: Live, rows: Rows) -> Batch:
        return self._board.batch(rows.batch, live.device)

    def _launch(self, leader: Live, members: tuple[Entry, ...], now: float) -> Launch:
        assert leader.rows is not None
        rows = [(entry.aboard, self._live[entry.id].tokens) for entry in members]
        load = self._board.load(leader.rows.batch, rows)
        return Launch(self._board.alone_s(leader.device, load), load)

    def _works(self, device: Device, live: Live, left_s: float, now: float) -> None:
        launch = live.launch
        load = self._board.running(device.name, left_s) if launch is None else launch.load
        self._begins(device, load, now, stretch=self._stretch(live, now))

    def _stretch(self, live: Live, now: float) -> float:
        """How many times as long as at the highest frequency a job's part may take: as its policy says, if it
        is done in time also from its beginning."""
        entry = live.entry
        part_s = self._part_s[live.number]
        spare_s = entry.deadline - entry.predicted_seconds_left - now
        in_time = 1.0 + spare_s / part_s if part_s else inf
        return min(in_time, self._scheduler.policy.stretch(entry, now))

    def _rests(self, device: Device, now: float) -> None:
        self._begins(device, None, now)

    def _begins(self, device: Device, load: Load | None, now: float, *, stretch: float = 0.0) -> None:
        silicon = self._board.silicon
        silicon.advance(now)
        changed = silicon.begin(device.name, load, stretch=stretch)
        device.speed = silicon.speed(device.name)
        self._go_on([name for name in changed if name != device.name], now)

    def _go_on(self, names: Iterable[str], now: float) -> None:
        """These processors go on at other speeds, with what is under way there."""
        silicon = self._board.silicon
        for name in names:
            device = self._devices[name]
            live = device.running
            if live is None:
                continue
            elapsed_s = now - device.began_s
            self._credit(live, elapsed_s * device.speed)
            device.speed = silicon.speed(name)
            left_s = live.target_s - live.served_s if live.launch is None else live.launch.left_s
            device.began_s = now
            device.spent_s += elapsed_s
            device.limit_s -= elapsed_s
            device.piece_s = min(max(0.0, left_s) / device.speed, device.limit_s)
            self._plan(device, live)
        due = silicon.check_due
        if due < self._check_at:
            self._check_at = due
            self._at(due, self._check)

    # Heat and joules.

    def _book(self, device: Device, live: Live, now: float) -> None:
        """Joules to those for whom a processor worked, by their rows."""
        self._board.silicon.advance(now)
        joules = self._board.booked_j(device.name)
        members = (live.entry, *live.entry.riders)
        rows = sum(entry.aboard for entry in members)
        for entry in members:
            self._live[entry.id].joules += joules * (entry.aboard / rows if rows else 1.0)

    def _check(self, now: float) -> None:
        """The governor looks at the temperature."""
        self._check_at = inf
        if not self._to_end:
            return
        silicon = self._board.silicon
        silicon.advance(now)
        changed = silicon.check()
        if changed and not self._power:
            self._power_changes(self._board.power, now)
        self._go_on(changed, now)

    def _gauge(self, now: float) -> None:
        """Looks at the battery."""
        if not self._to_end:
            return
        self._board.silicon.advance(now)
        self._power_changes(self._board.power, now)
        if self._events:  # else nothing is going to happen any more
            self._at(now + GAUGE_EVERY_S, self._gauge)

    def _chip(self) -> ChipOutcome:
        silicon = self._board.silicon
        return ChipOutcome(
            chip=silicon.chip.name,
            joules=silicon.joules,
            idle_joules=silicon.idle_w * silicon.now,
            busy_s={name: silicon.busy_s(name) for name in self._board.names},
            drawn_joules={name: silicon.drawn_j(name) for name in self._board.names},
            awake_s=silicon.awake_s,
            throttled_s=silicon.throttled_s,
            hottest_c=silicon.hottest_c,
        )


def _parts(coming: list[Rows]) -> list[tuple[int, int, int]]:
    """Batch, tokens and how many of them a launch takes, of what is read or written in one go."""
    parts: list[tuple[int, int, int]] = []
    for rows in coming:
        if parts and rows.most == 1 and parts[-1][::2] == (rows.batch, 1):
            parts[-1] = rows.batch, parts[-1][1] + rows.rows, 1
        else:
            parts.append((rows.batch, rows.rows, rows.most))
    return parts
