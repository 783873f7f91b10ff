"""Explanations: why an entry runs or waits, who goes before it, who ran instead, who holds it up."""

import json
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coro_rt.schedulers import Entry, Known, QoS, Scheduler, State
from coro_rt.schedulers.explanation import AHEAD, RAN, Granted


def test_explain_says_why_in_a_sentence() -> None:
    scheduler = Scheduler("dynamic")
    jobs = [Entry(i, name=f"mail {i}", qos=QoS.UTILITY) for i in range(6)]
    chat = Entry(9, name="chat", qos=QoS.USER_INTERACTIVE)
    assert str(scheduler.explain(chat, 0.0)) == "chat #9 (USER_INTERACTIVE) is new."
    for job in jobs:
        scheduler.submit(job, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.submit(chat, 0.5)
    assert str(scheduler.explain(jobs[5], 1.0)) == (
        "mail 5 #5 (UTILITY) is ready for cpu since 1.000 s under dynamic: "
        "chat #9 is next, because the policy put it first; "
        "mail 0 #0 runs; before it: chat #9, mail 1 #1, mail 2 #2 and 2 more."
    )
    explanation = scheduler.explain(jobs[5], 1.0)
    assert explanation.ahead == ("chat #9", "mail 1 #1", "mail 2 #2", "mail 3 #3", "mail 4 #4")
    assert explanation.state is State.READY
    assert "it is next, because it had waited longer than max_wait_s" in str(scheduler.explain(jobs[1], 20.0))
    assert str(scheduler.explain(jobs[0], 1.0)) == (
        "mail 0 #0 (UTILITY) is running on cpu under dynamic: the policy put it first; 6 ready behind it."
    )
    scheduler.expedite(jobs[5], 1.0)
    assert "chat #9 (USER_INTERACTIVE) is ready" in str(scheduler.explain(chat, 1.0))
    assert scheduler.explain(chat, 1.0).ahead == ("mail 5 #5",)


def test_it_names_who_ran_instead_latest_first_with_seconds() -> None:
    scheduler = Scheduler("dynamic")
    mine = Entry(1, name="mine")
    letters = {name: Entry(2 + i, name=name) for i, name in enumerate("abc")}
    scheduler.submit(mine, 10.0)
    granted: list[Granted] = [
        (3.0, letters["c"]),
        (8.0, None),
        (9.0, letters["a"]),
        (11.0, letters["b"]),
        (14.0, letters["a"]),
    ]
    explanation = scheduler.explain(mine, 16.0, Known(granted=lambda device: granted))
    assert [(ran.name, ran.seconds, ran.last_s) for ran in explanation.ran] == [
        ("a #2", 3.0, 2.0),
        ("b #3", 3.0, 5.0),
    ]
    assert explanation.ran_s == 6.0
    assert "in the last 6.000 s ran a #2 for 3.000 s, b #3 for 3.000 s." in str(explanation)

    lately = granted[-1:]  # older grants are forgotten: it says how far back it knows
    explanation = scheduler.explain(mine, 16.0, Known(granted=lambda device: lately))
    assert [(ran.name, ran.seconds) for ran in explanation.ran] == [("a #2", 2.0)]
    assert (explanation.since_s, explanation.ran_s) == (6.0, 2.0)

    many: list[Granted] = [(10.0 + i / 100, Entry(100 + i)) for i in range(3 * RAN)]
    explanation = scheduler.explain(mine, 16.0, Known(granted=lambda device: many))
    assert len(explanation.ran) == RAN
    assert explanation.ran[0].id == 100 + 3 * RAN - 1


def test_an_idle_device_ran_nobody() -> None:
    scheduler = Scheduler("dynamic")
    mine, other = Entry(1, name="mine"), Entry(2, name="other")
    scheduler.submit(mine, 1.0)
    idle: list[Granted] = [(0.0, other), (0.5, None)]
    explanation = scheduler.explain(mine, 2.0, Known(granted=lambda device: idle))
    assert explanation.ran == ()
    assert "ran" not in str(explanation)


def test_who_waits_for_somebody_learns_what_holds_that_one_up() -> None:
    scheduler = Scheduler("dynamic", devices=["cpu", "npu"])
    asked = Entry(1, name="asked", qos=QoS.USER_INTERACTIVE)
    middle = Entry(2, name="middle")
    root = Entry(3, name="root", qos=QoS.BACKGROUND, device="npu")
    other = Entry(4, name="other", device="npu")
    for entry in (other, root, middle, asked):
        scheduler.submit(entry, 0.0)
    assert scheduler.next("npu", 0.0) is not None
    for entry, on in ((asked, middle), (middle, root)):
        grant = scheduler.next("cpu", 0.0)
        assert grant is not None
        assert grant.entry is entry
        scheduler.park(entry, 0.0, on=on)
    explanation = scheduler.explain(
        asked, 1.0, Known(granted=lambda device: [(0.0, other)] if device == "npu" else [])
    )
    assert (explanation.waits_on, explanation.holder and explanation.holder.name) == ("middle #2", "root #3")
    assert str(explanation) == (
        "asked #1 (USER_INTERACTIVE) is waiting for middle #2. "
        "root #3 (BACKGROUND, raised to USER_INTERACTIVE by middle #2) is ready for npu since 1.000 s "
        "under dynamic: it is next, because the policy put it first; other #4 runs, since 1.000 s; "
        "in the last 1.000 s ran other #4 for 1.000 s."
    )


def test_who_waits_for_something_else_says_what() -> None:
    scheduler = Scheduler("dynamic")
    entry = Entry(1, name="mine")
    scheduler.submit(entry, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    scheduler.park(entry, 0.0)
    assert (
        str(scheduler.explain(entry, 1.0))
        == "mine #1 (DEFAULT) is waiting for something outside the scheduler."
    )
    known = Known(waiting=lambda entry: ("a lock", 0.25))
    assert (
        str(scheduler.explain(entry, 1.0, known)) == "mine #1 (DEFAULT) is waiting for a lock since 0.750 s."
    )
    scheduler.park(entry, 0.5, on=Entry(2, name="holder"))
    assert str(scheduler.explain(entry, 1.0, known)) == (
        "mine #1 (DEFAULT) is waiting for a lock from holder #2 since 0.750 s."
    )


@pytest.mark.parametrize("key", [1.5, 3, inf, 10**400, (1.0, 2), (0, -inf)])
def test_any_key_is_plain_json(key: object) -> None:
    scheduler = Scheduler("dynamic")
    first, second = Entry(1, name="first"), Entry(2, name="second")
    scheduler.submit(first, 0.0)
    scheduler.submit(second, 0.0)
    grant = scheduler.next("cpu", 0.0)
    assert grant is not None
    second.key = key
    scheduler.park(first, 0.0, on=second)
    found = json.loads(json.dumps(scheduler.explain(first, 1.0).as_json(), allow_nan=False))
    assert found["state"] == "waiting"
    assert found["text"].startswith("first #1 (DEFAULT) is waiting for second #2.")
    assert found["holder"]["name"] == "second #2"


def test_an_explanation_is_bounded_whatever_the_crowd() -> None:
    scheduler = Scheduler("fifo")
    entries = [Entry(i, tenant=f"tenant {i % 7}") for i in range(5000)]
    for entry in entries:
        scheduler.submit(entry, 0.0)
    explanation = scheduler.explain(entries[-1], 1.0)
    assert len(explanation.ahead) == AHEAD
    assert explanation.ready == 5000
    assert f"and at least {AHEAD - 3} more" in str(explanation)


@settings(max_examples=200, deadline=None)
@given(
    policy=st.sampled_from(["dynamic", "fair", "fifo", "strict"]),
    jobs=st.lists(
        st.tuples(st.sampled_from(QoS), st.sampled_from("abc"), st.floats(0, 9), st.booleans()), max_size=24
    ),
    requeued=st.integers(0, 6),
)
def test_what_is_said_to_be_upcoming_is_granted_in_that_order(
    policy: str, jobs: list[tuple[QoS, str, float, bool]], requeued: int
) -> None:
    """If nobody comes, each runs for its slice and ends, and background's share is not taken."""
    scheduler = Scheduler(policy, background_share=0.0, max_wait_s=1e6)
    slice_s = scheduler.policy.slice_s
    for i, (qos, tenant, at, _) in enumerate(sorted(jobs, key=lambda job: job[2])):
        scheduler.submit(Entry(i, qos=qos, tenant=tenant), at)
    now = 10.0
    first = scheduler.next("cpu", now)
    if first is not None:  # leave invalid items behind
        entry = first.entry
        for _ in range(requeued):
            now += slice_s
            grant = scheduler.turn(entry, slice_s, now)
            entry = entry if grant is None else grant.entry
        scheduler.done(entry, now)
    for entry in scheduler.upcoming("cpu", now, 100):
        if jobs[entry.id][3]:
            scheduler.set_qos(entry, now, qos=QoS.UTILITY)
    said = scheduler.upcoming("cpu", now, 100)
    assert len(said) == max(0, len(jobs) - 1)
    assert scheduler.upcoming("cpu", now, 3) == said[:3]
    order = []
    while (grant := scheduler.next("cpu", now)) is not None:
        order.append(grant.entry)
        now += slice_s
        scheduler.ran(grant.entry, slice_s, now)
        scheduler.done(grant.entry, now)
    assert order == said
