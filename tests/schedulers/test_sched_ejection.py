"""A policy that is slow, or that starves somebody although it promised not to, is replaced."""

from functools import partial
from itertools import count
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_sim import Simulation

from coro_rt.schedulers import POLICIES, Dynamic, Ejection, Entry, Policy, QoS, Scheduler


class Watch:
    """A timer that a policy moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def slow(watch: Watch, hook: str, seconds: float, every: int) -> type[Policy]:
    """A policy one of whose methods takes its time at each `every`-th call."""
    calls = count(1)

    def method(self: Policy, *args: Entry) -> float | bool | None:
        if next(calls) % every == 0:
            watch.now += seconds
        return args[0].submitted_at if hook in ("key", "defer_until") else False

    return type("Slow", (Policy,), {"key": lambda self, job, now: job.submitted_at, hook: method})


def served(scheduler: Scheduler, jobs: int = 60) -> Simulation:
    """Jobs of all levels, brought to their end."""
    simulation = Simulation(scheduler)
    for i in range(jobs):
        simulation.job(0.01, at=0.0015 * i, qos=QoS(i % 5), name=f"job {i}")
    simulation.run()
    assert len(simulation.ended) == jobs
    return simulation


@pytest.mark.parametrize("hook", ["key", "on_ready", "on_ran", "on_done", "preempts", "defer_until"])
def test_a_policy_that_is_slow_time_and_again_is_ejected_and_all_jobs_finish(hook: str) -> None:
    watch, ejections = Watch(), list[Ejection]()
    policy = slow(watch, hook, 0.003, every=2)
    simulation = served(Scheduler(policy, timer=watch, on_ejected=ejections.append))
    assert [(ejection.policy, ejection.hook) for ejection in ejections] == [("slow", hook)]
    assert "took 3 ms, more than the 2 ms that it is given" in ejections[0].reason
    assert ejections[0].entry.name.startswith("job")
    assert isinstance(simulation.scheduler.policy, Dynamic)
    assert watch.now == pytest.approx(0.003 * 4), "three are tolerated"


def test_one_very_long_call_is_enough() -> None:
    watch, ejections = Watch(), list[Ejection]()
    served(Scheduler(slow(watch, "key", 1.0, every=9), timer=watch, on_ejected=ejections.append))
    assert watch.now == 1.0
    assert "as did 0 of 8 calls before" in ejections[0].reason


def test_a_slow_moment_of_the_machine_ejects_nobody() -> None:
    watch, ejections = Watch(), list[Ejection]()
    served(Scheduler(slow(watch, "key", 0.1, every=150), timer=watch, on_ejected=ejections.append))
    assert watch.now > 0.1
    assert not ejections


def test_without_a_timer_nobody_is_timed() -> None:
    watch, ejections = Watch(), list[Ejection]()
    served(Scheduler(slow(watch, "key", 9.0, every=1), on_ejected=ejections.append))
    assert not ejections


@pytest.mark.parametrize("policy", POLICIES)
def test_ours_are_not_timed(policy: str) -> None:
    def never() -> float:
        raise AssertionError("it costs what a decision costs")

    served(Scheduler(policy, timer=never))


class Favourite(Policy):
    """key = 0 for the one with the name, else 1."""

    guarantees_background = False

    def key(self, job: Entry, now: float) -> float:
        return 0.0 if job.name == "favourite" else 1.0


class Promising(Favourite):
    """The same, with a promise that it does not keep."""

    bounded = True


def crowded(policy: type[Policy], others: int, max_wait_s: float) -> tuple[Simulation, list[Ejection]]:
    ejections = list[Ejection]()
    simulation = Simulation(Scheduler(policy, max_wait_s=max_wait_s, on_ejected=ejections.append))
    simulation.job(inf, name="favourite")
    for i in range(others):
        simulation.job(0.01, name=f"job {i}")
    simulation.run(until=3.0)
    return simulation, ejections


def test_a_policy_that_promised_a_bound_and_starves_somebody_is_ejected() -> None:
    simulation, ejections = crowded(Promising, 5, 0.5)
    assert [(ejection.policy, ejection.hook) for ejection in ejections] == [("promising", "bound_s")]
    assert ejections[0].entry.name == "job 0"
    assert "let it wait 0.5" in ejections[0].reason
    assert ejections[0].now == pytest.approx(0.5, abs=0.01)
    assert len(simulation.ended) == 5


def test_one_that_promised_nothing_is_not_and_still_nobody_is_lost() -> None:
    simulation, ejections = crowded(Favourite, 5, 0.2)
    assert not ejections
    assert len(simulation.ended) >= 3


def test_a_crowd_explains_a_long_wait() -> None:
    class Turns(Policy):
        """key = ready_since: everybody in turn, and so it promises."""

        bounded = True

        def key(self, job: Entry, now: float) -> float:
            return job.ready_since

    _, ejections = crowded(Turns, 200, 0.1)
    assert not ejections


@pytest.mark.parametrize("answer", [nan, None, "soon"])
def test_a_bound_that_is_no_number_is_no_promise_kept(answer: object) -> None:
    policy = type("Vague", (Promising,), {"bound_s": lambda self, *args: answer})
    _, ejections = crowded(policy, 3, 0.2)
    assert [ejection.hook for ejection in ejections] == ["bound_s"]


class Raising(Policy):
    """Raises at its 20th key."""

    def __init__(self) -> None:
        self.keys = 0

    def key(self, job: Entry, now: float) -> float:
        self.keys += 1
        if self.keys == 20:
            raise RuntimeError("boom")
        return job.ready_since


def swap(simulation: Simulation, policy: type[Policy]) -> None:
    simulation.scheduler.set_policy(policy, simulation.now)


@settings(max_examples=200, deadline=None)
@given(
    work=st.lists(
        st.tuples(st.floats(0, 0.2), st.floats(0.0005, 0.03), st.sampled_from(QoS), st.sampled_from("ab")),
        min_size=1,
        max_size=30,
    ),
    swaps=st.lists(
        st.tuples(st.floats(0, 0.4), st.sampled_from([*POLICIES.values(), Raising, Promising])), max_size=12
    ),
)
def test_policies_are_swapped_at_any_moment_and_nothing_is_lost(
    work: list[tuple[float, float, QoS, str]], swaps: list[tuple[float, type[Policy]]]
) -> None:
    orders = []
    for _ in range(2):
        simulation = Simulation(Scheduler("dynamic", max_wait_s=0.3))
        jobs = [simulation.job(one, at=at, qos=qos, tenant=tenant) for at, one, qos, tenant in work]
        for at, policy in swaps:
            simulation.at(at, partial(swap, simulation, policy))
        simulation.run()
        assert set(simulation.ended) == set(jobs)
        for job, (_, one, *_) in zip(jobs, work, strict=True):
            assert job.served_s == pytest.approx(one)
        assert len(simulation.scheduler) == simulation.scheduler.ready("cpu") == 0
        orders.append([jobs.index(entry) for entry in simulation.ended])
    assert orders[0] == orders[1]
