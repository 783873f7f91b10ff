"""Launches that run as one: who rides with whom, with how many rows, at whose expense."""

import math
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from coro_rt.schedulers import POLICIES, Entry, QoS, Scheduler, State
from coro_rt.schedulers.batch import PATIENCE_S, STRETCH, URGENT_S, Batch
from coro_rt.schedulers.pace import Pace

B, U, D, I = QoS.BACKGROUND, QoS.UTILITY, QoS.DEFAULT, QoS.USER_INTERACTIVE  # noqa: E741
ROW_S = 0.001
READ_S = 0.008  # of the weights, once a launch


class Steps(Batch):
    """A launch of one row takes 9 ms, each further row 1 ms."""

    rows = 100
    members = 8

    def seconds(self, rows: int) -> float:
        return READ_S + rows * ROW_S


class Desk:
    """A device, driven as a worker drives it, where a Python step takes no time."""

    def __init__(self, policy: str = "dynamic", **options: float) -> None:
        self.scheduler = Scheduler(policy, **options)  # type: ignore[arg-type]
        self.batch = Steps()
        self.now = 0.0
        self.ids = count()

    def submit(self, qos: QoS, *, tenant: str = "default") -> Entry:
        entry = Entry(next(self.ids), qos=qos, tenant=tenant)
        self.scheduler.submit(entry, self.now)
        return entry

    def expect(self, entry: Entry, rows: int = 0) -> None:
        """As if a READY entry had been here before: it is likely to bring a launch, or has brought one."""
        queue = self.scheduler._queues["cpu"]
        queue.take(entry)
        entry.batch, entry.rows = self.batch, rows
        queue.push(entry)

    def grant(self) -> Entry:
        grant = self.scheduler.next("cpu", self.now)
        assert grant is not None
        return grant.entry

    def run(self, entry: Entry, seconds: float) -> Entry:
        """Some of a launch. Returns who goes on."""
        self.now += seconds
        grant = self.scheduler.turn(entry, seconds, self.now)
        return entry if grant is None else grant.entry


def test_who_is_alone_begins_at_once() -> None:
    desk = Desk()
    entry = desk.submit(B)
    desk.grant()
    assert desk.scheduler.offer(entry, desk.batch, 70, desk.now)
    assert (entry.state, entry.aboard, entry.riders) == (State.RUNNING, 70, ())
    assert desk.scheduler.joint_launches == 0


def together(desk: Desk, *wanted: tuple[QoS, int]) -> tuple[Entry, list[Entry]]:
    """Entries with launches, and the one that begins to lead."""
    first = desk.submit(wanted[0][0])
    others = [desk.submit(qos) for qos, _ in wanted[1:]]
    entries = [first, *others]
    rows = dict(zip(entries, (rows for _, rows in wanted), strict=True))
    for entry in entries:
        desk.expect(entry)
    while True:
        entry = desk.grant()
        if entry.aboard:
            return entry, entries
        if desk.scheduler.offer(entry, desk.batch, rows[entry], desk.now):
            return entry, entries


def test_equals_ride_in_the_launch_of_the_first_who_waits_no_longer_than_for_their_code() -> None:
    desk = Desk()
    leader, entries = together(desk, (B, 1), (B, 1), (B, 1), (B, 1))
    assert set(leader.riders) == set(entries) - {leader}
    for rider in leader.riders:
        assert (rider.state, rider.waits_on, rider.aboard) == (State.WAITING, leader, 1)
        assert desk.scheduler.explain(rider, desk.now).reason == "it rides in another one's launch"
    assert (desk.scheduler.joint_launches, desk.scheduler.rides) == (1, 3)
    desk.now += 0.012
    desk.scheduler.ran(leader, 0.012, desk.now)
    assert set(desk.scheduler.alight(leader, desk.now)) == set(entries) - {leader}
    assert all(entry.state is State.READY for entry in entries if entry is not leader)
    assert all(entry.aboard == entry.rows == 0 for entry in entries)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_equals_come_along_under_every_policy_also_who_has_not_begun(policy: str) -> None:
    leader, _ = together(Desk(policy), *[(D, 1)] * 4)
    assert len(leader.riders) == 3


def test_no_more_ride_than_a_launch_holds() -> None:
    desk = Desk()
    leader, _ = together(desk, *[(B, 1)] * 20)
    assert len(leader.riders) == Steps.members - 1
    leader, entries = together(Desk(), (B, 90), (B, 90))
    assert sorted(entry.aboard for entry in entries) == [10, 90], "a prompt is cut to what room is left"


def test_background_costs_an_urgent_launch_less_than_a_third_of_a_row() -> None:
    desk = Desk()
    leader, entries = together(desk, (I, 1), *[(B, 1)] * 5, (B, 90))
    assert leader is entries[0]
    rows = sum(rider.aboard for rider in leader.riders)
    assert rows == int(STRETCH * (READ_S + ROW_S) / ROW_S) == 2
    assert all(rider.rows == 1 for rider in leader.riders), "tokens go before prompts"
    leader, entries = together(Desk(), (I, 1), (B, 1), (B, 90))
    assert [entry.aboard for entry in entries] == [1, 1, 1], "the rest is filled with a part of a prompt"


def test_equals_share_a_launch_as_long_as_their_patience() -> None:
    _, entries = together(Desk(), (D, 1), (D, 90))
    assert sum(entry.aboard for entry in entries) == int((PATIENCE_S[D] - READ_S) / ROW_S)
    assert entries[0].aboard == 1
    _, entries = together(Desk(), (B, 1), (B, 90))
    assert [entry.aboard for entry in entries] == [1, 90]


def test_equals_share_launches_also_where_a_single_row_takes_longer_than_they_have_patience_for() -> None:
    class Slow(Steps):
        def seconds(self, rows: int) -> float:
            return 5 * READ_S + rows * ROW_S

    desk = Desk()
    desk.batch = Slow()
    assert desk.batch.seconds(1) > PATIENCE_S[I]
    _, entries = together(desk, (I, 90), (I, 90))
    assert sum(entry.aboard for entry in entries) == int((2 * (5 * READ_S + ROW_S) - 5 * READ_S) / ROW_S)
    desk = Desk()
    desk.batch = Slow()
    leader, _ = together(desk, (I, 1), (I, 1), (I, 1))
    assert len(leader.riders) == 2


def test_nobody_less_urgent_rides_with_a_prompt() -> None:
    leader, entries = together(Desk(), (I, 90), (B, 1), (B, 1))
    assert leader is entries[0]
    assert (leader.aboard, leader.riders) == (90, ())
    leader, entries = together(Desk(), (D, 90), (U, 1), (D, 1))
    assert set(leader.riders) | {leader} == {entries[0], entries[2]}


def test_whoever_leads_out_of_turn_is_cut_for_the_sake_of_an_urgent_rider_but_not_to_nothing() -> None:
    desk = Desk(max_wait_s=0.5)
    background, urgent = desk.submit(B), desk.submit(I)
    assert desk.grant() is urgent
    desk.scheduler.offer(urgent, desk.batch, 1, desk.now)
    desk.expect(background, 90)
    desk.now = 1.0
    desk.scheduler.ran(urgent, 1.0, desk.now)
    desk.scheduler.alight(urgent, desk.now)
    assert not desk.scheduler.offer(urgent, desk.batch, 1, desk.now)
    assert desk.grant() is background, "it is overdue"
    assert background.riders == (urgent,)
    assert background.aboard == 2
    assert background.effective_qos is I


def test_a_deadline_that_is_near_makes_company_as_small_as_for_the_most_urgent() -> None:
    desk = Desk()
    due = Entry(99, qos=B, deadline=0.5)
    desk.scheduler.submit(due, 0.0)
    desk.grant()
    due.batch = desk.batch
    desk.scheduler.park(due, 0.0)
    crowd, _ = together(desk, *[(B, 1)] * 7)
    desk.scheduler.ran(crowd, 0.01, 0.01)
    desk.scheduler.alight(crowd, 0.01)
    desk.scheduler.park(crowd, 0.01)
    desk.scheduler.wake(due, 0.01)
    assert desk.grant() is due
    assert not desk.scheduler.offer(due, desk.batch, 1, 0.01)
    while not (entry := desk.grant()).aboard:
        desk.scheduler.offer(entry, desk.batch, 1, 0.01)
    assert entry is due
    assert len(due.riders) == 2


def test_a_riders_urgency_reaches_the_leader_also_when_it_is_raised_on_the_way() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 1), (B, 1))
    rider = leader.riders[0]
    desk.scheduler.set_qos(rider, desk.now, qos=I)
    assert leader.effective_qos is I
    assert leader.key == rider.key < leader.own_key
    middle = desk.submit(D)
    assert not desk.scheduler.turn(leader, 0.001, 0.001), f"{middle} would go before background"


def test_a_launch_is_charged_to_all_who_run_in_it_by_their_rows() -> None:
    desk = Desk(background_share=0.1)
    mine, theirs = desk.submit(B, tenant="a"), desk.submit(B, tenant="b")
    desk.expect(mine)
    desk.expect(theirs)
    rows = {mine: 1, theirs: 3}
    while not (leader := desk.grant()).aboard:
        desk.scheduler.offer(leader, desk.batch, rows[leader], desk.now)
    desk.scheduler.ran(leader, 0.012, 0.012)
    assert mine.served_s == pytest.approx(0.003)
    assert theirs.served_s == pytest.approx(0.009)
    assert mine.lane is not None
    assert theirs.lane is not None
    assert (mine.lane.vtime, theirs.lane.vtime) == pytest.approx((0.003, 0.009))
    assert leader.lane is not None
    assert leader.lane.queue.used_s == pytest.approx(0.012)


def test_a_cancelled_rider_leaves_at_once_and_the_launch_gives_way_to_it() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 1), (B, 1), (B, 1))
    rider, other = leader.riders
    assert desk.scheduler.expedite(rider, 0.001)
    assert (rider.state, rider.waits_on, rider.aboard) == (State.READY, None, 0)
    assert leader.riders == (other,)
    assert desk.run(leader, 0.001) is rider
    assert desk.scheduler.leave(rider, desk.now) is None
    desk.scheduler.done(rider, desk.now)
    assert desk.grant() is leader, "and goes on, half-done"
    assert leader.aboard == 1


def test_when_the_leader_is_cancelled_the_next_one_leads() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 1), (B, 1), (B, 1))
    one, other = leader.riders
    desk.run(leader, 0.001)
    heir = desk.scheduler.leave(leader, desk.now)
    assert heir is not None
    assert {heir, *heir.riders} == {one, other}
    assert heir.state is State.READY
    assert heir.riders[0].waits_on is heir
    assert (leader.aboard, leader.rows, leader.riders) == (0, 0, ())
    desk.scheduler.done(leader, desk.now)
    assert desk.grant() is heir


def test_an_equal_waits_for_the_end_of_a_launch_to_ride_in_the_next() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 50), (B, 50), (B, 1))
    rider = leader.riders[0]
    desk.scheduler.expedite(rider, 0.0)  # wakes it: anybody who is between two launches
    rider.expedited = False
    assert desk.run(leader, 0.01) is leader, "its slice is over, and another's key is earlier"
    desk.scheduler.set_qos(rider, desk.now, qos=D)
    assert desk.run(leader, 0.01) is rider, "the rest takes longer than it has patience for"


def test_an_urgent_one_interrupts_a_launch_unless_it_is_as_good_as_done() -> None:
    for done_s, interrupts in ((0.001, True), (0.0097, False)):
        desk = Desk()
        leader, _ = together(desk, (B, 1), (B, 1))
        urgent = Entry(99, qos=I)
        urgent.batch = desk.batch
        assert desk.run(leader, done_s) is leader
        assert desk.scheduler.submit(urgent, desk.now) is interrupts
        assert (desk.run(leader, 0.0) is urgent) is interrupts


def test_a_launch_that_an_urgent_one_lets_end_is_asked_about_again_soon() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 1), (B, 1))
    assert desk.run(leader, 0.0097) is leader
    assert desk.scheduler.lets_go_on_s("cpu", desk.now) == math.inf, "nobody waits for it"
    urgent = Entry(99, qos=I)
    urgent.batch = desk.batch
    desk.scheduler.submit(urgent, desk.now)
    patience_s = desk.scheduler.lets_go_on_s("cpu", desk.now)
    assert patience_s == URGENT_S
    assert desk.run(leader, patience_s) is leader
    assert desk.run(leader, patience_s) is urgent, "it takes longer than was expected: it may be a burst"


def test_equals_let_each_others_launches_go_on_for_as_long_as_they_take() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 50), (B, 50), (B, 1))
    rider = leader.riders[0]
    desk.scheduler.expedite(rider, 0.0)
    rider.expedited = False
    assert desk.run(leader, 0.01) is leader
    assert desk.scheduler.lets_go_on_s("cpu", desk.now) == math.inf


def test_a_newcomer_lets_a_launch_end_first_that_it_interrupted_near_its_end() -> None:
    desk = Desk()
    leader, _ = together(desk, (B, 1), (B, 1))
    assert desk.run(leader, 0.0097) is leader
    urgent = desk.submit(I)  # nobody knows yet what it wants
    assert desk.run(leader, 0.0) is urgent
    assert not desk.scheduler.offer(urgent, desk.batch, 20, desk.now)
    assert desk.grant() is leader
    assert desk.run(leader, 0.0003) is leader
    desk.scheduler.alight(leader, desk.now)
    desk.scheduler.offer(leader, desk.batch, 1, desk.now)
    assert desk.grant() is urgent


def test_single_rows_of_a_suspended_launch_ride_with_the_urgent_and_its_prompts_wait() -> None:
    desk = Desk()
    leader, entries = together(desk, (B, 1), (B, 90), (B, 1))
    prompt = entries[1]
    urgent = desk.submit(I)
    assert desk.run(leader, 0.03) is urgent
    assert not desk.scheduler.offer(urgent, desk.batch, 1, desk.now)
    assert desk.grant() is urgent
    assert set(urgent.riders) == {entries[0], entries[2]}
    assert (prompt.state, prompt.riders, prompt.aboard) == (State.READY, (), 90)
    desk.scheduler.ran(urgent, 0.01, desk.now)
    desk.scheduler.alight(urgent, desk.now)
    desk.scheduler.done(urgent, desk.now)
    assert desk.grant() in (entries[0], entries[2], prompt)


def test_a_companion_that_does_something_else_holds_nobody_up() -> None:
    desk = Desk()
    urgent = desk.submit(I)
    other = desk.submit(B)
    desk.expect(other)
    assert desk.grant() is urgent
    assert not desk.scheduler.offer(urgent, desk.batch, 1, desk.now)
    assert desk.grant() is other
    assert desk.run(other, 0.0001) is other, "one step of its code may be several"
    assert desk.run(other, 0.002) is urgent, "it brought no launch"
    assert (urgent.aboard, urgent.riders) == (1, ())


policies = st.sampled_from(sorted(POLICIES))


class Trips(RuleBasedStateMachine):
    """Random calls: nobody is lost, rides twice, or rides with somebody who does not know; rows fit."""

    entries = Bundle("entries")

    @initialize(
        policy=st.sampled_from(["fifo", "strict", "fair", "dynamic"]), wait=st.sampled_from([0.02, 1e9])
    )
    def start(self, policy: str, wait: float) -> None:
        self.scheduler = Scheduler(policy, max_wait_s=wait)
        self.batches = (Steps(), Steps())
        self.all: list[Entry] = []
        self.now = 0.0

    @property
    def running(self) -> Entry | None:
        return next((entry for entry in self.all if entry.state is State.RUNNING), None)

    @rule(target=entries, qos=st.sampled_from(QoS), tenant=st.sampled_from(["a", "a", "b"]))
    def submit(self, qos: QoS, tenant: str) -> Entry:
        entry = Entry(len(self.all), qos=qos, tenant=tenant)
        self.all.append(entry)
        self.scheduler.submit(entry, self.now)
        return entry

    @rule(rows=st.integers(1, 120), which=st.integers(0, 1), dt=st.floats(0, 0.02))
    def step(self, rows: int, which: int, dt: float) -> None:
        """A worker's next move: what runs brings a launch, or goes on with it, or has done it."""
        self.now += dt
        entry = self.running
        if entry is None:
            self.scheduler.next("cpu", self.now)
        elif not entry.aboard:
            self.scheduler.ran(entry, dt, self.now)
            self.scheduler.offer(entry, self.batches[which], rows, self.now)
        elif dt < 0.012:
            served = sum(one.served_s for one in self.all)
            self.scheduler.turn(entry, dt, self.now)
            assert sum(one.served_s for one in self.all) == pytest.approx(served + dt)
        else:
            self.scheduler.ran(entry, dt, self.now)
            self.scheduler.alight(entry, self.now)

    @rule(entry=entries)
    def cancel(self, entry: Entry) -> None:
        if entry.state in (State.READY, State.WAITING):
            self.scheduler.expedite(entry, self.now)

    @rule(ends=st.booleans())
    def leave(self, ends: bool) -> None:
        entry = self.running
        if entry is not None:
            heir = self.scheduler.leave(entry, self.now)
            assert heir is None or heir.state is State.READY
            if ends:
                self.scheduler.done(entry, self.now)
            else:
                self.scheduler.park(entry, self.now)

    @rule(entry=entries, qos=st.sampled_from(QoS))
    def set_qos(self, entry: Entry, qos: QoS) -> None:
        self.scheduler.set_qos(entry, self.now, qos=qos)

    @rule(policy=policies)
    def set_policy(self, policy: str) -> None:
        self.scheduler.set_policy(policy, self.now)

    @invariant()
    def everybody_knows_with_whom_they_ride(self) -> None:
        assert sum(entry.state is State.RUNNING for entry in self.all) <= 1
        for entry in self.all:
            if entry.aboard and entry.state is State.WAITING:
                assert entry.waits_on is not None
                assert entry in entry.waits_on.riders
                assert entry.effective_qos <= entry.waits_on.effective_qos
                assert not entry.riders
            for rider in entry.riders:
                assert (rider.state, rider.waits_on) == (State.WAITING, entry)
                assert rider.aboard > 0
                assert rider.batch is entry.batch
            if entry.riders:
                assert entry.aboard > 0
                assert entry.aboard + sum(rider.aboard for rider in entry.riders) <= Steps.rows
                assert len(entry.riders) < Steps.members
            assert 0 <= entry.aboard <= max(entry.rows, entry.aboard)
        crowds = self.scheduler._queues["cpu"].crowds
        for entry in self.all:
            ready = entry.state is State.READY and entry.batch is not None and not entry.deferred
            found = [
                kind
                for batch, crowd in crowds.items()
                for kind in (crowd.between, crowd.pending, crowd.suspended)
                if entry in kind and batch is entry.batch
            ]
            assert len(found) == ready
            assert not ready or entry in crowds[entry.batch].where(entry)

    def teardown(self) -> None:
        """Whatever happened, everything can still be brought to its end."""
        for entry in self.all:
            if entry.state in (State.READY, State.WAITING):
                self.scheduler.expedite(entry, self.now)
        while (entry := self.running) is not None or (
            grant := self.scheduler.next("cpu", self.now)
        ) is not None:
            entry = entry or grant.entry
            for rider in self.scheduler.alight(entry, self.now):
                assert rider.state is State.READY
            self.scheduler.done(entry, self.now)
        assert len(self.scheduler) == 0
        assert not self.scheduler._queues["cpu"].crowds


Trips.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestTrips = Trips.TestCase


def test_what_a_launch_took_is_learned_through_the_scheduler_and_says_how_many_fit() -> None:
    def members(row_s: float) -> int:
        desk = Desk()
        pace = Pace()
        for rows in (1, 16, 128):
            desk.scheduler.learn(pace, rows, READ_S + rows * row_s, desk.now)
        desk.batch = pace  # type: ignore[assignment]
        leader, *others = [desk.submit(D) for _ in range(20)]
        for entry in others:
            desk.expect(entry, 1)
        assert desk.grant() is leader
        assert not desk.scheduler.offer(leader, pace, 1, desk.now)
        return 1 + len(desk.grant().riders)

    assert members(row_s=0.0001) == 20
    assert 1 < members(row_s=0.01) < 10
