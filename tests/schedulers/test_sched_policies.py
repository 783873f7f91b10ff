"""What a policy may be, what happens to a bad one, and what the scheduler says about its decisions."""

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from math import inf, nan
from typing import Any

import pytest
from sched_sim import Simulation

from coro_rt.schedulers import (
    POLICIES,
    Dynamic,
    Ejection,
    Entry,
    Fair,
    Mlfq,
    Policy,
    QoS,
    Scheduler,
    SchedulerError,
    get_policy,
)


class ShortestFirst(Policy):
    """key = ready_since + 10 * predicted seconds left."""

    def key(self, job: Entry, now: float) -> float:
        return job.ready_since + 10 * job.predicted_seconds_left


def broken(hook: str, breaks: Callable[[], Any], *, after: int = 7) -> type[Policy]:
    """A policy one of whose methods works for a while, then does what `breaks` does."""
    calls = 0

    def method(self: Policy, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            return breaks()
        return args[0].submitted_at if hook == "key" else False

    namespace: dict[str, Any] = {"key": lambda self, job, now: job.submitted_at, hook: method}
    return type("Broken", (Policy,), namespace)


def boom() -> None:
    raise RuntimeError("boom")


BAD = [
    ("key", boom, "raised RuntimeError: boom"),
    ("key", lambda: nan, "returned nan"),
    ("key", lambda: None, "returned None"),
    ("key", lambda: "soon", "returned 'soon'"),
    ("key", lambda: True, "returned True"),
    ("key", lambda: (), "returned ()"),
    ("key", lambda: (1.0, nan), "returned (1.0, nan)"),
    ("key", lambda: (1.0, "a"), "returned (1.0, 'a')"),
    ("key", lambda: (1.0, 2.0), "after keys of the other shape"),
    ("key", lambda: 1j, "returned 1j"),
    ("on_ready", boom, "boom"),
    ("on_ran", boom, "boom"),
    ("on_done", boom, "boom"),
    ("preempts", boom, "boom"),
    ("preempts", lambda: None, "returned None, not a bool"),
]


@pytest.mark.parametrize(
    ("hook", "breaks", "reason"), BAD, ids=[f"{hook}-{reason}" for hook, _, reason in BAD]
)
@pytest.mark.parametrize("after", [0, 7])
def test_a_bad_policy_is_ejected_once_and_all_jobs_finish(
    hook: str, breaks: Callable[[], Any], reason: str, after: int
) -> None:
    if "shape" in reason:
        after = max(after, 1)  # the first key of another shape is a good one
    ejections: list[Ejection] = []
    simulation = Simulation(
        Scheduler(broken(hook, breaks, after=after), on_ejected=ejections.append), quantum_s=0.001
    )
    for i in range(30):
        simulation.job(0.01, at=0.0015 * i, qos=QoS(i % 5), tenant="ab"[i % 3 == 0], name=f"job {i}")
    simulation.run()
    assert len(simulation.ended) == 30
    assert [(ejection.policy, ejection.hook) for ejection in ejections] == [("broken", hook)]
    assert reason in ejections[0].reason
    assert ejections[0].entry.name.startswith("job")
    assert isinstance(simulation.scheduler.policy, Dynamic)


def test_after_an_ejection_the_same_decision_is_taken_by_dynamic() -> None:
    scheduler = Scheduler(broken("key", boom, after=2), max_wait_s=inf)
    low, high = Entry(1, qos=QoS.BACKGROUND), Entry(2, qos=QoS.USER_INTERACTIVE)
    scheduler.submit(low, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    other = Entry(3)
    assert not scheduler.submit(other, 0.0), "first come, first served"
    assert scheduler.submit(high, 0.0), "the urgent one, whose key broke the policy, preempts already"
    assert other.key == Dynamic().key(other, 0.0)
    assert low.key == Dynamic().key(low, 0.0)


def test_a_policy_that_is_bad_from_the_start_is_ejected_when_it_is_set_while_jobs_wait() -> None:
    ejections: list[Ejection] = []
    scheduler = Scheduler("strict", on_ejected=ejections.append)
    entries = [Entry(i, qos=QoS(i % 5)) for i in range(10)]
    for entry in entries:
        scheduler.submit(entry, 0.0)
    scheduler.set_policy(broken("key", boom, after=4), 0.0)
    assert len(ejections) == 1
    seen = []
    while (grant := scheduler.next("cpu", 0.0)) is not None:
        seen.append(grant.entry.qos)
        scheduler.done(grant.entry, 0.0)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 10


def test_a_policy_comes_from_a_name_a_class_an_object_or_a_path() -> None:
    names = ["dynamic", "fair", "eevdf", "strict", "fifo", "mlfq", "edf", "laxity", "powersave"]
    assert list(POLICIES) == names
    assert all(isinstance(get_policy(name), cls) for name, cls in POLICIES.items())
    policy = ShortestFirst()
    assert get_policy(policy) is policy
    assert isinstance(get_policy(ShortestFirst), ShortestFirst)
    assert isinstance(get_policy("coro_rt.schedulers.fair:Fair"), Fair)
    assert policy.name == "shortestfirst"


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installed packages that offer a policy each, one of them broken."""
    offered = EntryPoints(
        [
            EntryPoint("theirs", "coro_rt.schedulers.mlfq:Mlfq", "coro_rt.policies"),
            EntryPoint("missing", "coro_rt.schedulers.nowhere:Policy", "coro_rt.policies"),
            EntryPoint("stranger", "coro_rt.schedulers.fifo:Fifo", "somebody.elses"),
        ]
    )
    monkeypatch.setattr(
        "coro_rt.schedulers.registry.entry_points", lambda *, group: offered.select(group=group)
    )


@pytest.mark.usefixtures("packages")
def test_an_installed_package_offers_a_policy_as_an_entry_point() -> None:
    assert isinstance(get_policy("theirs"), Mlfq)
    assert Scheduler("theirs").policy.name == "mlfq"


@pytest.mark.usefixtures("packages")
def test_an_unknown_name_lists_what_there_is_installed_ones_included() -> None:
    known = "known are dynamic, edf, eevdf, fair, fifo, laxity, missing, mlfq, powersave, strict, theirs, or"
    for name in ("thiers", "stranger"):
        with pytest.raises(SchedulerError, match=known):
            get_policy(name)
    with pytest.raises(
        SchedulerError, match=r"cannot load the policy 'missing' from coro_rt\.schedulers\.now"
    ):
        get_policy("missing")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "known are dynamic, edf, eevdf, fair, fifo, laxity, mlfq, powersave, strict"),
        ("no.such.module:Policy", "cannot load"),
        ("coro_rt.schedulers:Nothing", "cannot load"),
        (":", "cannot load"),
        ("coro_rt.schedulers:Entry", "a policy is a name"),
        (7, "a policy is a name"),
        (Entry, "a policy is a name"),
        (type("Needy", (Policy,), {"__init__": lambda self, needed: None}), "raised TypeError"),
        (type("Endless", (Policy,), {"slice_s": 0}), "slice_s = 0"),
        (type("Odd", (Policy,), {"slice_s": "2 ms"}), "slice_s = '2 ms'"),
    ],
)
def test_what_is_no_policy_is_a_scheduler_error(wrong: Any, message: str) -> None:
    with pytest.raises(SchedulerError, match=message):
        get_policy(wrong)
    scheduler = Scheduler("fifo")
    with pytest.raises(SchedulerError):
        scheduler.set_policy(wrong, 0.0)
    assert scheduler.policy.name == "fifo"


def test_a_policy_of_one_method_orders_jobs() -> None:
    simulation = Simulation(Scheduler(ShortestFirst))
    long, short = simulation.job(0.05, name="long"), simulation.job(0.005, name="short", at=0.001)
    long.predicted_seconds_left, short.predicted_seconds_left = 0.05, 0.005
    simulation.run()
    assert simulation.ended == [short, long]


def test_every_policy_states_its_key_and_effect_and_a_bounded_one_its_bound() -> None:
    for policy in POLICIES.values():
        assert policy.__doc__ is not None
        assert policy.__doc__.startswith("key = ")
        assert "Effect:" in policy.__doc__
        assert ("wait <= " in policy.__doc__) is policy.bounded


def test_fair_divides_the_device_by_level() -> None:
    simulation = Simulation(Scheduler("fair", max_wait_s=inf, background_share=0.0), quantum_s=0.001)
    jobs = [simulation.job(qos=qos) for qos in QoS]
    simulation.run(until=31.0)
    for job, seconds in zip(jobs, (1, 2, 4, 8, 16), strict=True):
        assert job.served_s == pytest.approx(seconds, rel=0.05)


def test_dynamic_lets_a_near_deadline_overtake_a_higher_level() -> None:
    scheduler = Scheduler("dynamic")
    relaxed = Entry(1, qos=QoS.USER_INITIATED)
    pressed = Entry(2, qos=QoS.UTILITY, deadline=0.4, predicted_seconds_left=0.3)
    scheduler.submit(relaxed, 0.0)
    scheduler.submit(pressed, 0.0)
    grant = scheduler.next("cpu", 0.0)
    assert grant is not None
    assert grant.entry is pressed


def test_a_waiting_job_can_become_urgent() -> None:
    scheduler = Scheduler("dynamic")
    first, second = Entry(1, qos=QoS.DEFAULT), Entry(2, qos=QoS.UTILITY)
    scheduler.submit(first, 0.0)
    scheduler.submit(second, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    assert scheduler.turn(first, 0.0001, 0.0001) is None
    assert scheduler.set_qos(second, 0.0001, qos=QoS.USER_INTERACTIVE)
    assert not scheduler.set_qos(second, 0.0001, qos=QoS.BACKGROUND)
    assert scheduler.set_qos(second, 0.0001, deadline=0.01)
    grant = scheduler.turn(first, 0.0, 0.0001)
    assert grant is not None
    assert grant.entry is second


def test_a_running_job_that_becomes_less_urgent_gives_way() -> None:
    scheduler = Scheduler("dynamic")
    first, second = Entry(1, qos=QoS.USER_INTERACTIVE), Entry(2, qos=QoS.DEFAULT)
    scheduler.submit(first, 0.0)
    scheduler.submit(second, 0.0)
    assert scheduler.next("cpu", 0.0) is not None
    assert not scheduler.set_qos(first, 0.0)
    assert scheduler.set_qos(first, 0.0, qos=QoS.BACKGROUND)
    grant = scheduler.turn(first, 0.0, 0.0)
    assert grant is not None
    assert grant.entry is second
